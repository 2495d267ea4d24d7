"""Every default, once, with its unit and its reason.

All values are frozen and every policy has `.scaled(factor)`, which multiplies its durations, so that a benchmark
or a test can run the whole product with a shrunk minute.
"""

from __future__ import annotations

import math
import re
from typing import Literal, NoReturn, Self

import attrs

from aistemsplitter_async.errors import ConfigurationError

BASE_URL = "https://api.aistemsplitter.org/v1"
BASE_URL_VARIABLE = "AISTEMSPLITTER_BASE_URL"
API_KEY_VARIABLE = "AISTEMSPLITTER_API_KEY"
WEBHOOK_SECRET_VARIABLE = "AISTEMSPLITTER_WEBHOOK_SECRET"  # noqa: S105  # its name

REPLY_CAP_BYTES = 1024 * 1024  # no JSON reply of this API comes near; a hostile one must not fill memory
REPLY_DEPTH = 32  # the deepest reply nests four levels
ERROR_TEXT_CAP_BYTES = 2048  # enough to recognise a proxy's error page, not enough to flood a log
EMPTY_SUCCESS_LOOKS = 3  # more looks at a `succeeded` split without stems before it is an error
URL_REFRESHES = 2  # fresh stem URLs after a refusal before `StemsExpiredError`
RESERVATIONS = 2  # fresh reservations after the first, while no create was sent
REDIRECT_HOPS = 3  # for downloads only; every hop is vetted
CONFLICT_WINDOW = 60.0  # s; a create answered 409 or 423 is replayed this long: its twin may still be running
COMMIT_GRACE = 5.0  # s; a cancelled create may finish this long, so that its split id is not lost
INTERACTIVE_SHARE = 0.05  # of the limit is left free by batches while interactive calls come
UPLOADS = 4  # parallel uploads: enough to fill an uplink
DOWNLOADS = 8  # parallel downloads: the stems of two splits at once
WEBHOOK_TOLERANCE = 300.0  # s between signing and arrival, both ways: what clocks and queues may be off
WEBHOOK_CAP_BYTES = 64 * 1024  # an event has a hundred bytes; whoever sends more is nobody we know
WEBHOOK_HANDLING = 30.0  # s for a handler of events; senders hang up about then, and duplicates wait meanwhile
INBOX_EVENTS = 10_000  # events remembered, to tell duplicates and for waiters that come later; about 5 MB
INBOX_KEEP = 86_400.0  # s they are remembered: longer than any sender is likely to repeat itself
INBOX_LOOK = 0.02  # s between two looks into an inbox that another process fills


KEY_AGE = 82800.0  # s (23 h) that the server is trusted to remember an idempotency key; how long it does is unpublished
PARK = 3600.0  # s a batch waits for trouble to pass before it stops
BATCH_WAIT = 21600.0  # s (6 h) a batch waits for one split: it has nothing to lose by it


class Secret:
    """Text that stays out of `repr`, logs, `attrs.asdict` and pickles. `reveal()` is the only way to it."""

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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not (_is_number(value) and value > 0):
        raise ConfigurationError(f"{attribute.name} must be a positive number, not {value!r}")


def _not_negative(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not (_is_number(value) and value >= 0):
        raise ConfigurationError(f"{attribute.name} must be a number of at least 0, not {value!r}")


def _fraction(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not (_is_number(value) and 0 <= value <= 1):
        raise ConfigurationError(f"{attribute.name} must be between 0 and 1, not {value!r}")


def _at_least_one(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        raise ConfigurationError(f"{attribute.name} must be a whole number of at least 1, not {value!r}")


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """When a failed attempt is tried again, and how long after.

    Failure n (0, 1, ..) waits a uniformly random time up to `min(backoff_cap, backoff * 2**n)`: full jitter, see
    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. Throttle n without a usable Retry-After
    waits `min(throttle_cap, throttle_backoff * 2**n)` less up to a quarter. A usable Retry-After is never shortened.
    """

    attempts: int = 4  # first try included
    create_attempts: int = 5  # one more: what a create leaves open costs the user thought
    backoff: float = 0.5  # s
    backoff_cap: float = 8.0  # s
    throttle_backoff: float = 2.0  # s
    throttle_cap: float = 32.0  # s
    throttle_waits: int = 6  # counted apart from failures: a busy key is not a broken service
    throttle_budget: float = 300.0  # s spent waiting on throttles before `RateLimitedError`
    retry_after_cap: float = 120.0  # s waited inline; longer is the caller's decision
    quota: float = 500.0  # tokens shared by the whole client: an outage must not be multiplied by its retries
    failure_cost: float = 14.0
    throttle_cost: float = 5.0
    success_gain: float = 1.0
    refill: float = 5.0  # tokens/s: steady failures of 8 % must not dry it out

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            if not (_is_number(value) and value >= 0):
                raise ConfigurationError(f"{name} must be a number of at least 0, not {value!r}")

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
        )


@attrs.frozen(kw_only=True)
class PollPolicy:
    """When running splits are looked at; `_core.pollplan` has the rules.

    With budget to spare, a look is made whenever the time since the last one is `precision` of the split's age or a
    little more, but one split never takes more than `budget_share` of the key's limit. When requests are scarce, a
    split is looked at when it is done with probability `confidence`.
    """

    first: float = attrs.field(default=1.0, validator=_positive)  # s; the age at which the first look is worth it
    shortest: float = attrs.field(default=0.5, validator=_positive)  # s between two looks at one split
    precision: float = attrs.field(default=0.033, validator=_fraction)  # of the age: finer, nobody notices
    budget_share: float = attrs.field(default=0.6, validator=_fraction)  # of the limit; the rest is for others
    confidence: float = attrs.field(default=0.7, validator=_fraction)  # in one look sufficing: about 1.2 a split
    jitter: float = attrs.field(default=0.05, validator=_fraction)  # of the wait, both ways: spreads looks
    typical: float = attrs.field(default=60.0, validator=_positive)  # s; a usual song, until splits have shown better
    wait: float = attrs.field(default=1800.0, validator=_positive)  # s; the deadline of a wait when none is given

    def scaled(self, factor: float) -> Self:
        """Return this policy with every duration multiplied by `factor`."""
        return attrs.evolve(
            self,
            first=self.first * factor,
            shortest=self.shortest * factor,
            typical=self.typical * factor,
            wait=self.wait * factor,
        )


_LIMIT = re.compile(r"(\d{1,9})\s*/\s*(\d{1,9}(?:\.\d{1,9})?)?\s*(s|sec|second|m|min|minute|h|hour)", re.ASCII)
_UNIT = {"s": 1.0, "m": 60.0, "h": 3600.0}


@attrs.frozen
class RateLimit:
    """What is known about the key's limit: `requests` every `per` seconds.

    `requests=None`: unknown, nothing is held back until the server says 429. `policy="window"` is safe for servers
    that count in fixed or sliding windows; `policy="bucket"` declares one whose budget refills steadily.
    """

    requests: int | None = attrs.field(default=None, validator=attrs.validators.optional(_at_least_one))
    per: float = attrs.field(default=60.0, validator=_positive)  # s; the API's limit is per minute
    policy: Literal["window", "bucket"] = "window"

    def __attrs_post_init__(self) -> None:
        if self.policy not in ("window", "bucket"):
            raise ConfigurationError(f'policy must be "window" or "bucket", not {self.policy!r}')

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the limit written as `60/min`, `20/s` or `100/30s`.

        Raises:
            ConfigurationError: `text` is not of that form.
        """
        match = _LIMIT.fullmatch(text.strip().lower())
        if match is None:
            raise ConfigurationError(f"{text!r} is not a rate limit; write it like 60/min, 5/s or 100/30s")
        requests, count, unit = match.groups()
        return cls(int(requests), float(count or 1) * _UNIT[unit[0]])

    def scaled(self, factor: float) -> Self:
        """Return this limit with the window multiplied by `factor`."""
        return attrs.evolve(self, per=self.per * factor)


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long one admitted attempt may take. Waiting for the gate and between attempts is not counted here."""

    connect: float = attrs.field(default=10.0, validator=_positive)  # s
    call: float = attrs.field(default=30.0, validator=_positive)  # s for a whole JSON call
    create: float = attrs.field(default=120.0, validator=_positive)  # s; a short one only manufactures ambiguity
    stall: float = attrs.field(default=60.0, validator=_positive)  # s without progress in a transfer; no total
    floor_bytes: float = attrs.field(default=1024.0, validator=_not_negative)  # bytes/s over a `stall`

    def scaled(self, factor: float) -> Self:
        """Return these timeouts with every duration multiplied by `factor`."""
        return attrs.evolve(
            self,
            connect=self.connect * factor,
            call=self.call * factor,
            create=self.create * factor,
            stall=self.stall * factor,
        )
