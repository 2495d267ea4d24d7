"""Who runs on a shared journal."""

from __future__ import annotations

from collections.abc import Sequence

import attrs


@attrs.frozen
class Worker:
    """One worker of a shared journal: a batch on some machine.

    Attributes:
        name: chosen by chance when it opened the journal; tracks are its own under that.
        run: the number of its run.
        host: the machine.
        process: the number of its process there.
        began: when it opened the journal, by the server's clock (POSIX seconds).
        seconds_left: until its tracks are free for others, unless it renews its lease.
        status: what it shows of itself, as JSON; empty at first.
        is_me: whether it is the one that asks.
    """

    name: str
    run: int
    host: str
    process: int
    began: float
    seconds_left: float
    status: str = ""
    is_me: bool = False


@attrs.frozen
class SharedCredits:
    """The credits that the workers of a shared journal may spend together.

    Attributes:
        most: all of them.
        used: by the splits created so far.
        reserved: for creates whose price is not known yet.
    """

    most: float
    used: float
    reserved: float


def describe_workers(workers: Sequence[Worker]) -> str:
    """Return who they are, such as `2 workers: process 4711 on web1, process 12 on web2`."""
    who = ", ".join(f"process {worker.process} on {worker.host}" for worker in workers)
    return f"{len(workers)} worker{'s' * (len(workers) != 1)}: {who}"
