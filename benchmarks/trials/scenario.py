"""A trial as a frozen value. What it says is a position (the n-th request, byte, turn, call), never a time."""

from __future__ import annotations

from typing import Literal

import attrs

from benchmarks.trials.songs import MIX, STEM_BYTES, STEMS, Song

Op = Literal["reserve", "upload", "create", "poll", "download"]
CallName = Literal["batch", "split", "submit", "create", "resubmit", "open"]
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
    "gate in another loop",
]
Feeding = Literal["plain", "async", "iter"]

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
        retry_after: of a refusal; with `@` in front, a form of `at_least` (see `replies.write_wait`).
        at_least: the seconds that this asks for, as far as that is certain.
        date: whether a refusal has a `Date`.
        cut: where the connection ends.
        lasts: seconds (virtual) that it goes on from the first time, instead of `times`.
        young: what is younger than that (seconds) is not there yet, instead of `times`: a split since its create, a
            stem since its split was first seen to be done.
    """

    op: Op
    nth: int = 0
    times: int = 1
    effect: bool = True
    status: int | None = None
    body: str = ""
    headers: str = ""
    retry_after: str = ""
    at_least: float = 0.0
    date: bool = False
    cut: Cut | None = None
    lasts: float = 0.0
    young: float = 0.0


@attrs.frozen(kw_only=True)
class Reservations:
    """How uploads are reserved, and how long they take.

    Attributes:
        lifetime: seconds from the reservation to what it calls its end.
        refused: by whom an upload is, once that end has come.
        status: the worker's answer then.
        upload: seconds that each takes.
    """

    lifetime: float = 3600.0
    refused: Literal["", "worker", "create"] = ""
    status: int = 410
    upload: float = 0.0


@attrs.frozen(kw_only=True)
class Disk:
    """What is wrong with the disk.

    Attributes:
        room: bytes that stems may take; 0 for as many as they like.
        fails: the first sync of a file that fails, from 1, and how many do.
        power: whether it loses what was not synced when the first run has ended.
    """

    room: int = 0
    fails: tuple[int, int] = (0, 0)
    power: bool = False


@attrs.frozen(kw_only=True)
class Sleep:
    """The machine sleeps after a request: the connections that are open then are dead, and nothing says so.

    Attributes:
        request: its number, from 0.
        seconds: it sleeps.
        monotonic: whether its monotonic clock counts them too.
    """

    request: int
    seconds: float
    monotonic: bool = False


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
    by_itself: bool = False  # the next run is not told to try again what failed
    patience: float = 60.0  # s (virtual) that a batch waits out an outage
    stems: tuple[str, ...] = STEMS
    earlier: tuple[str, ...] = ()  # stems that a batch downloads before, without trouble; then all are wanted
    stem_bytes: int = STEM_BYTES
    mixes: bool = False  # whether one stem and the mix of the others are wanted, as WAV
    new_key: bool = False  # whether the API key is replaced after the trouble, and the old one used once more
    endless: int = 0  # requests of the first song's first stem that get more and more of it
    announced: bool = False  # that is a stem of 1 PB, rather than one without a length
    sick: int | None = None  # the song whose create is answered with 500
    sick_effect: bool = False  # whether that create happens all the same
    reservations: Reservations = Reservations()
    disk: Disk = Disk()
    sleep: Sleep | None = None
    dated: bool = False  # whether every answer has a `Date`
    skew: float = 0.0  # s that the client's wall clock is ahead of the service's, in every run
    journal_in: str = ""  # a folder that is new
    timeout: float | None = None  # s (virtual) that the call, or each song of a batch, may take
    again: bool = False  # a call that failed is made again after an hour, by the same client
    rest: float = 0.0  # s (virtual) until the next run
    misfits: tuple[str, ...] = ()  # sources that are none, before the songs; see `misfits`
    feeding: Feeding = "plain"  # how the sources are iterated over
    limit: int = 600  # requests a minute that the client is told of

    @property
    def wanted(self) -> tuple[str, ...]:
        """Return the names of the files that each song is to have."""
        return (self.stems[0], MIX) if self.mixes else self.stems

    @property
    def extension(self) -> str:
        return "wav" if self.mixes else "mp3"
