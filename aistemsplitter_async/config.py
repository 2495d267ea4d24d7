"""Every default, once, with its unit and its reason.

All values are frozen, and every policy has `.scaled(factor)`, which multiplies its durations, so that a benchmark or a
test can run the whole product with a shortened minute.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal, NoReturn, Self

import attrs

from aistemsplitter_async.errors import ConfigurationError

BASE_URL = "https://api.aistemsplitter.org/v1"
BASE_URL_VARIABLE = "AISTEMSPLITTER_BASE_URL"
API_KEY_VARIABLE = "AISTEMSPLITTER_API_KEY"
API_KEY_FILE_VARIABLE = "AISTEMSPLITTER_API_KEY_FILE"
SHARED_VARIABLE = "AISTEMSPLITTER_SHARED"
SHARED_FOLDER_VARIABLE = "AISTEMSPLITTER_SHARED_DIR"
JOURNAL_VARIABLE = "AISTEMSPLITTER_JOURNAL"
WEBHOOK_SECRET_VARIABLE = "AISTEMSPLITTER_WEBHOOK_SECRET"  # noqa: S105  # its name

REPLY_CAP_BYTES = 1024 * 1024  # no JSON reply of this API comes near it; a hostile one must not exhaust memory
REPLY_AT_ONCE_BYTES = 64 * 1024  # of JSON, read on the event loop in a few milliseconds at most
REPLY_BRACKETS = 10_000  # of lists and objects; with many more, parsing would hold up all threads for too long
REPLY_HEADER_BYTES = 64 * 1024  # of one line; proxies add policies, cookies and traces to what aiohttp expects (8,190)
REPLY_HEADER_LINES = 512  # aiohttp expects 128
REPLY_END = 2.0  # s of silence after which a reply whose JSON is complete is not waited for any longer
REPLY_DEPTH = 32  # the deepest reply has four levels
ERROR_TEXT_CAP_BYTES = 2048  # enough to recognise a proxy's error page, not enough to flood a log
MOST_PAUSES = 20  # between tries of what may pass, and fresh URLs of a split: bounds that hold whatever clocks do
RESERVATIONS = 2  # new ones after the first of an upload, and new uploads after a run's first of a song
REDIRECT_HOPS = 3  # for downloads only; every hop is vetted
CONFLICT_WINDOW = 60.0  # s; a create answered 409 or 423 is repeated this long: its duplicate may still be in progress
COMMIT_GRACE = 5.0  # s to finish for a create whose caller is cancelled or client closed, so that its id is not lost
ASLEEP = 5.0  # s that the machine must have slept to distrust its connections; nobody forgets one in less
CLOSE_GRACE = 5.0  # s for a caller's stream or iterable to end once it is cancelled; then it is left behind
SHARED_LEASE = 15.0  # s that a process keeps its slots without being heard of: a loop may be blocked for that long
SHARED_PATIENCE = 60.0  # s that calls wait for a store that cannot be asked: it restarts, or fails over, in less
SHARED_ANSWER = 3.0  # s for one conversation with a store, which takes milliseconds; then it is asked again
SHARED_AGAIN = 1.0  # s at most between two of them while it cannot be asked
SHARED_REFUSED = 10.0  # s between two if that needs a person, such as for a password
SHARED_GOODBYE = 2.0  # s for the last ones when a client is closed: what they would tell, the store learns by the lease
SHARED_AT_ONCE = 8  # slots in one conversation, at most: more at once would only be a burst that others wait behind
INTERACTIVE_SHARE = 0.05  # of the limit that batches leave free while there are interactive calls
UPLOADS = 4  # parallel uploads: enough to fill an uplink
DOWNLOADS = 8  # parallel downloads: the stems of two splits at once
# Bytes of a stem between two syncs: what a kill or a power cut costs at most, three seconds at 100 Mbit/s. Half of it
# took a tenth more CPU time for a large file.
CHECKPOINT_BYTES = 32 * 1024 * 1024
STEM_BYTES_PER_SECOND = 192_000 * 8 * 2  # stereo WAV at 192 kHz of 64-bit samples, more than any model returns
STEM_SLACK_BYTES = 64 * 1024 * 1024  # of a stem beyond that: tags, a cover, a duration that is rounded
STEM_CAP_BYTES = 4 * 1024**3  # of a stem of unknown duration: no WAV is longer
STEM_LONGEST = 604_800.0  # s (a week) of a split; a longer duration is nonsense, and no bound for a stem
STEMS_CAP = 256  # of a split; models have 4 or 6. Each is a file, and every save of the manifest names all
DISK_ROOM_BYTES = 16 * 1024 * 1024  # that downloads leave free: the journal, which says what is paid for, needs some
MIXES = 8  # songs mixed at once, at most: each keeps a core busy with 25 MB, and one core is left to the event loop
MIX_BLOCK_FRAMES = 65_536  # summed at a time: 1.5 s, of which six stems take 5 MB; a cancelled mix ends within one
MIX_SLACK = 0.25  # s by which the stems of a mix may differ in length: a few frames of an encoder, but nothing to hear
WEBHOOK_TOLERANCE = 300.0  # s between signing and arrival, both ways: clock error and time in queues
WEBHOOK_CAP_BYTES = 64 * 1024  # an event has about a hundred bytes; the API never sends more than this
WEBHOOK_HANDLING = 30.0  # s for an event handler; senders hang up about then, and duplicates wait for it
INBOX_EVENTS = 10_000  # events kept, to recognise duplicates and for waiters that come later; about 5 MB
INBOX_KEEP = 86_400.0  # s that they are kept: longer than a sender is likely to repeat one
INBOX_LOOK = 0.02  # s between checks of an inbox that another process fills
INBOX_POLL = 1.0  # s between checks of an inbox on a server, which also says that there is news: that may get lost
INBOX_PATIENCE = 5.0  # s for such a server to answer; senders wait longer for the receiver
INBOX_OUTAGE = 60.0  # s that a follower waits for such a server to come back before it says so
INBOX_IDLE = 60.0  # s without events after which a receiver's connection to such a server is closed
STORE_TIMEOUT = 1.0  # s to connect to a store of what is shared, and for an answer, which takes it about a millisecond
STORE_ELSEWHERE = 60.0  # s after which another machine that used a file of this one is gone
KEY_AGE = 82800.0  # s (23 h) that the server is trusted to remember an idempotency key; the real time is unpublished
LONGEST_CLOSED = 3600.0  # s that a Retry-After is heeded: a longer one may be nonsense, so then one request asks
JOURNAL_LEASE = 15.0  # s that a worker of a shared journal may be silent; then others take its songs over
JOURNAL_CONNECT = 5.0  # s to connect to the database of a shared journal, for each address of it
PARK = 3600.0  # s that a batch waits for an outage to end before it stops
TASKS_PER_WORKER = 200  # songs out at a time for each of a cluster: several times what a station has in hand
MOST_TASKS = 4000  # songs out at a time in all: what a scheduler keeps, and what is handed out again when it is lost
SCHEDULER_PATIENCE = 120.0  # s that a driver waits for a scheduler that is gone: a supervisor starts another by then
STATION_GRACE = 10.0  # s to finish what is paid for when a station is closed; orchestrators kill after 10 to 30
FLEET_LOOK = 2.0  # s, on average, between two looks for songs that other workers have let go of
FLEET_MEND = 5.0  # s, on average, between two looks for creates that workers left open when they died
PROOF_WAIT = 10.0  # s for another worker to write the file that shows which folder all share; then it is taken for dead
PROOF_PAUSE = 0.1  # s between two looks whether it has
LATE_WRITER = 120.0  # s that a worker waits for one that was taken for dead, and is still writing the same stems
MENDED_AT_ONCE = 50  # creates that a worker takes over at a time: the others take some too
MOST_ELSEWHERE = 20_000  # sources kept whose songs other workers have in hand: about 10 MB
BATCH_WAIT = 21600.0  # s (6 h) that a batch waits for one split: waiting costs it nothing


class Secret:
    """Text that stays out of `repr`, logs, `attrs.asdict` and pickles. Only `reveal()` returns it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


Check = Callable[[object, "attrs.Attribute[float]", float], None]


def _number(expected: str, fits: Callable[[float], bool]) -> Check:
    def check(_: object, attribute: attrs.Attribute[float], value: float) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (is_number and fits(value)):
            raise ConfigurationError(f"{attribute.name} must be {expected}, not {value!r}")

    return check


_positive = _number("a positive number", lambda value: value > 0)
_not_negative = _number("a number of at least 0", lambda value: value >= 0)
_fraction = _number("between 0 and 1", lambda value: 0 <= value <= 1)


def _at_least_one(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        raise ConfigurationError(f"{attribute.name} must be a whole number of at least 1, not {value!r}")


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """Whether a failed attempt is retried, and after how long.

    Failure n (0, 1, ..) waits a uniformly random time up to `min(backoff_cap, backoff * 2**n)`: full jitter, see
    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. A 429 (the n-th, from 0) without a usable
    Retry-After waits `min(throttle_cap, throttle_backoff * 2**n)` minus up to a quarter. A usable Retry-After is never
    shortened, unless it is longer than an hour.

    Some answers are wrong and may pass within a minute: a page of a gateway instead of the API's word, a 404 for a
    split that has just been created, stem URLs that are refused although they are fresh. They are waited out for
    `passing`, `passing_paid` or `passing_unknown` seconds, with pauses of `min(pause_cap, pause * 2**n)` minus up to a
    quarter.
    """

    attempts: int = 4  # first try included
    create_attempts: int = 5  # one more: an ambiguous create is a burden to the user
    backoff: float = 0.5  # s
    backoff_cap: float = 8.0  # s
    throttle_backoff: float = 2.0  # s
    throttle_cap: float = 32.0  # s
    throttle_waits: int = 6  # 429s, counted separately from failures: a busy key is not a broken service
    throttle_budget: float = 300.0  # s spent waiting after 429s before `RateLimitedError`
    retry_after_cap: float = 120.0  # s; after a longer Retry-After the caller decides what to do
    quota: float = 500.0  # retry tokens shared by the whole client, so that retries do not multiply an outage
    failure_cost: float = 14.0
    throttle_cost: float = 5.0
    success_gain: float = 1.0
    refill: float = 5.0  # tokens/s: enough for a steady failure rate of 8 %
    pause: float = 1.0  # s before the second try of what may pass
    pause_cap: float = 30.0  # s; refused stem URLs are not renewed more often than this
    passing: float = 30.0  # s, while nothing is paid: a person waits, and may have mistyped the base URL
    passing_paid: float = 120.0  # s, once a split is, or may be, paid: replicas and caches catch up within a minute
    passing_unknown: float = 5.0  # s that an id of which nothing is known here may be unknown: it may be mistyped

    def __attrs_post_init__(self) -> None:
        for attribute in attrs.fields(type(self)):
            _not_negative(self, attribute, getattr(self, attribute.name))

    def scaled(self, factor: float) -> Self:
        """Return this policy with every duration multiplied by `factor`."""
        return attrs.evolve(
            self,
            backoff=self.backoff * factor,
            backoff_cap=self.backoff_cap * factor,
            throttle_backoff=self.throttle_backoff * factor,
            throttle_cap=self.throttle_cap * factor,
            throttle_budget=self.throttle_budget * factor,
            retry_after_cap=self.retry_after_cap * factor,
            refill=self.refill / factor,
            pause=self.pause * factor,
            pause_cap=self.pause_cap * factor,
            passing=self.passing * factor,
            passing_paid=self.passing_paid * factor,
            passing_unknown=self.passing_unknown * factor,
        )


@attrs.frozen(kw_only=True)
class PollPolicy:
    """When running splits are polled; `_poll.plan` has the rules.

    With requests to spare, a split is polled when the time since its last poll is `precision` of its age or a little
    more, but one split never takes more than `budget_share` of the key's limit. When requests are scarce, it is polled
    when it is done with probability `confidence`.
    """

    first: float = attrs.field(default=1.0, validator=_positive)  # s; the age at which the first poll is worthwhile
    shortest: float = attrs.field(default=0.5, validator=_positive)  # s between two polls of one split
    precision: float = attrs.field(default=0.033, validator=_fraction)  # of the age; a shorter delay is unnoticeable
    budget_share: float = attrs.field(default=0.6, validator=_fraction)  # of the limit; the rest is for other requests
    confidence: float = attrs.field(default=0.7, validator=_fraction)  # that one poll suffices: about 1.2 per split
    jitter: float = attrs.field(default=0.05, validator=_fraction)  # of the wait, both ways: spreads polls
    typical: float = attrs.field(default=60.0, validator=_positive)  # s for an average song, until measured
    wait: float = attrs.field(default=1800.0, validator=_positive)  # s; the default timeout of a wait

    def scaled(self, factor: float) -> Self:
        """Return this policy with every duration multiplied by `factor`."""
        return attrs.evolve(
            self,
            first=self.first * factor,
            shortest=self.shortest * factor,
            typical=self.typical * factor,
            wait=self.wait * factor,
        )


_LIMIT = re.compile(r"(\d{1,9})\s*/\s*(\d{1,9}(?:\.\d{1,9})?)?\s*(s|sec|second|m|min|minute|h|hour|d|day)", re.ASCII)
_UNIT = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def _are_limits(_: object, attribute: attrs.Attribute[tuple[RateLimit, ...]], value: tuple[RateLimit, ...]) -> None:
    if not (isinstance(value, tuple) and all(isinstance(limit, RateLimit) for limit in value)):
        raise ConfigurationError(f"{attribute.name} must be a tuple of RateLimit, not {value!r}")


@attrs.frozen
class RateLimit:
    """The key's known limit: `requests` every `per` seconds.

    `requests=None` means unknown: nothing is held back until the server answers 429. `policy="window"` is safe for
    servers that count in fixed or sliding windows; `policy="bucket"` is for a token bucket, which refills steadily.
    `further` are limits that hold besides, of other windows: `RateLimit(60, further=(RateLimit(1000, per=86_400),))`.
    """

    requests: int | None = attrs.field(default=None, validator=attrs.validators.optional(_at_least_one))
    per: float = attrs.field(default=60.0, validator=_positive)  # s; the API's limit is per minute
    policy: Literal["window", "bucket"] = "window"
    # Of `RateLimit`; what reads annotations at run time, such as a command line, cannot resolve a class inside itself.
    further: tuple[Any, ...] = attrs.field(default=(), kw_only=True, validator=_are_limits)

    def __attrs_post_init__(self) -> None:
        windows = [self.per, *(limit.per for limit in self.further)]
        plain = all(limit.requests is not None and limit.policy == "window" for limit in self.further)
        if len(set(windows)) < len(windows) or not plain or any(limit.further for limit in self.further):
            raise ConfigurationError("further limits are windows of other lengths, each with its number of requests")
        if self.policy not in ("window", "bucket"):
            raise ConfigurationError(f'policy must be "window" or "bucket", not {self.policy!r}')

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the limit written as `60/min`, `20/s` or `100/30s`, or several: `60/min, 1000/day`.

        Raises:
            ConfigurationError: `text` is not of that form.
        """
        limits = []
        for part in text.lower().split(","):
            match = _LIMIT.fullmatch(part.strip())
            if match is None:
                raise ConfigurationError(f"{text!r} is not a rate limit; write it like 60/min, 5/s or 60/min,1000/day")
            requests, count, unit = match.groups()
            limits.append(cls(int(requests), float(count or 1) * _UNIT[unit[0]]))
        limits.sort(key=lambda limit: abs(math.log(limit.per / _UNIT["m"])))  # the first is what polls are planned by
        return attrs.evolve(limits[0], further=tuple(limits[1:]))

    @classmethod
    def check(cls, limit: object) -> Self:
        """Return `limit` if it is one.

        Raises:
            ConfigurationError: it is something else, such as text.
        """
        if isinstance(limit, cls):
            return limit
        raise ConfigurationError(
            f'a limit is a RateLimit, such as RateLimit.parse("60/min,1000/day"), not {type(limit).__name__}'
        )

    def scaled(self, factor: float) -> Self:
        """Return this limit with the window multiplied by `factor`."""
        further = tuple(limit.scaled(factor) for limit in self.further)
        return attrs.evolve(self, per=self.per * factor, further=further)


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long one attempt may take. Waiting for the gate and between attempts is not included."""

    connect: float = attrs.field(default=10.0, validator=_positive)  # s
    call: float = attrs.field(default=30.0, validator=_positive)  # s for a whole JSON call
    create: float = attrs.field(default=120.0, validator=_positive)  # s; a shorter one only creates ambiguity
    silence: float = attrs.field(default=20.0, validator=_positive)  # s; bytes unacknowledged for so long are lost
    stall: float = attrs.field(default=60.0, validator=_positive)  # s without progress in a transfer of any length
    floor_bytes: float = attrs.field(default=1024.0, validator=_not_negative)  # bytes/s, the least over a `stall`

    def scaled(self, factor: float) -> Self:
        """Return these timeouts with every duration multiplied by `factor`."""
        return attrs.evolve(
            self,
            connect=self.connect * factor,
            call=self.call * factor,
            create=self.create * factor,
            silence=self.silence * factor,
            stall=self.stall * factor,
        )
