"""A trial as a frozen value. What it says is a position (the n-th request, byte, turn, call), never a time."""

from __future__ import annotations

from typing import Literal

import attrs

from benchmarks.trials.songs import Song

Op = Literal["reserve", "upload", "create", "poll", "download"]
CallName = Literal["batch", "split", "submit", "create", "resubmit"]
Where = Literal["on_event", "on_progress", "before_send", "tracing", "middleware", "sources"]
Meddling = Literal[
    "",
    "journal among the sources",
    "journal opened and closed",
    "second process",
    "journal renamed alone",
    "journal gone",
    "retagged",
    "defaults spelled out",
    "a day and a half passes",
]

OPS: tuple[Op, ...] = ("reserve", "upload", "create", "poll", "download")


@attrs.frozen(kw_only=True)
class Cut:
    """A connection ends after `byte` bytes of the request or the reply."""

    of: Literal["request", "reply"]
    byte: int
    reset: bool


@attrs.frozen(kw_only=True)
class Fault:
    """What happens to the n-th request of a kind, and to those after it.

    Attributes:
        op: the kind.
        nth: the first it happens to, from 0.
        times: how many.
        effect: whether the service does what was asked, whatever it answers.
        status: answered instead of the usual.
        body: how the reply is written.
        headers: what its head has besides.
        retry_after: of a refusal.
        cut: where the connection ends.
    """

    op: Op
    nth: int = 0
    times: int = 1
    effect: bool = True
    status: int | None = None
    body: str = ""
    headers: str = ""
    retry_after: str = ""
    cut: Cut | None = None


@attrs.frozen(kw_only=True)
class Cancel:
    """The caller is cancelled at a turn of the loop, and again some turns later; or the client is closed.

    The turn is counted from the start, or from the arrival of a create at the service (`after_create`, from 0).
    """

    how: Literal["task", "scope", "leave", "close"]
    turn: int
    after_create: int | None = None
    times: int = 1
    gap: int = 1


@attrs.frozen(kw_only=True)
class Raising:
    """A callback of the caller raises at its n-th call, and at so many calls from there on."""

    where: Where
    error: str
    nth: int = 0
    times: int = 1


@attrs.frozen(kw_only=True)
class Trial:
    """One scenario."""

    seed: int
    kind: str
    call: CallName = "batch"
    songs: tuple[Song, ...] = ()
    faults: tuple[Fault, ...] = ()
    polls: int = 1  # that say "processing"
    framing: Literal["length", "chunked"] = "length"  # of stems
    cancel: Cancel | None = None
    raising: Raising | None = None
    kill: int = 0  # the n-th write to a socket or the disk; 0: none
    jumps: tuple[tuple[int, float], ...] = ()
    meddling: Meddling = ""
    turn: int = 0  # of the meddling
    max_credits: float | None = None
    thread_seconds: float = 0.0
    proxy_status: int = 0  # with which the proxy answers CONNECT; 0: no proxy
    proxy_bytes: int | None = None  # of that answer, after which it dies
    proxied: bool = False  # requests take the service for a proxy on the way to itself
    same_id: bool = False
    pauses: tuple[int, int] = (0, 0)  # turns before and after the effect of a create
    slow: float = 0.0  # seconds (virtual) after it
    in_flight: int | None = None
