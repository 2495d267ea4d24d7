"""Who runs on a shared journal."""

from __future__ import annotations

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
