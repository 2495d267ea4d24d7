"""The state of a gate as plain JSON, so that it survives a restart.

Monotonic times mean nothing to the next process, so all times are relative to a time of the wall clock. If that clock
was set back meanwhile, no time seems to have passed and slots are held a little too long, but no longer than if they
had just been taken; if it was set forward, they are freed early, which costs a 429 at worst. Invalid values are
ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from aistemsplitter_async.config import LONGEST_CLOSED

_VERSION = 1
_MOST_SLOTS = 100_000
_MOST_REQUESTS = 10**9
LONGEST_WINDOW = 32 * 86_400.0  # s: a month
MOST_QUOTAS = 8  # no service has as many
_MOST_BATCHES = 2000


@attrs.frozen(kw_only=True)
class QuotaMemory:
    """The state of a further limit. `slots` are pairs of the seconds since replies arrived and how many these were.

    `named` are the seconds since a reply named it last.
    """

    requests: int
    per: float
    slots: tuple[tuple[float, int], ...] = ()
    named: float = 0.0


@attrs.frozen(kw_only=True)
class GateMemory:
    """The state of a gate at one moment. Times are seconds before or after it.

    Attributes:
        believed: requests per window, `None` if unknown.
        per: length of the window.
        paced: whether requests are spread evenly, because the server does not count in windows.
        full_in: seconds until the bucket is full again, if there is one.
        ages: of each occupied slot, the seconds since its reply arrived.
        closed_for: seconds for which the gate stays closed.
        further: the limits besides.
    """

    believed: int | None
    per: float
    paced: bool = False
    full_in: float = 0.0
    ages: tuple[float, ...] = ()
    closed_for: float = 0.0
    further: tuple[QuotaMemory, ...] = ()

    def dump(self, now: float) -> dict[str, Any]:
        """Return it as plain JSON; `now` is POSIX seconds."""
        return {
            "version": _VERSION,
            "at": round(now, 3),
            **attrs.asdict(self),
            "ages": [round(age, 3) for age in self.ages],
            "further": [attrs.asdict(quota) for quota in self.further],
        }


def parse_gate_memory(remembered: Mapping[str, Any], now: float) -> GateMemory | None:
    """Return the dumped memory, aged by the time passed on the wall clock since; `None` if it is invalid.

    Args:
        remembered: the result of `GateMemory.dump`, or anything else.
        now: POSIX seconds.
    """
    at, per = _number(remembered.get("at")), _number(remembered.get("per"))
    if remembered.get("version") != _VERSION or at is None or per is None or not 0 < per <= LONGEST_WINDOW:
        return None
    passed = max(0.0, now - at)
    believed, ages = remembered.get("believed"), remembered.get("ages")
    known = [_number(age) for age in ages[:_MOST_SLOTS]] if isinstance(ages, list) else []
    return GateMemory(
        believed=_count(believed),
        per=per,
        paced=remembered.get("paced") is True,
        full_in=_left(remembered.get("full_in"), passed, per),
        ages=tuple(sorted(max(0.0, age) + passed for age in known if age is not None)),
        closed_for=_left(remembered.get("closed_for"), passed, LONGEST_CLOSED),
        further=tuple(_parse_quotas(remembered.get("further"), passed)),
    )


def _parse_quotas(remembered: object, passed: float) -> Iterator[QuotaMemory]:
    for quota in remembered[:MOST_QUOTAS] if isinstance(remembered, list) else ():
        if not isinstance(quota, Mapping):
            continue
        requests, per, slots = _count(quota.get("requests")), _number(quota.get("per")), quota.get("slots")
        if requests is None or per is None or not 0 < per <= LONGEST_WINDOW:
            continue
        pairs = [pair for pair in slots if isinstance(pair, list | tuple)] if isinstance(slots, list | tuple) else []
        known = [(_number(pair[0]), _count(pair[1])) for pair in pairs[:_MOST_BATCHES] if len(pair) == 2]  # noqa: PLR2004
        aged = [(max(0.0, age) + passed, count) for age, count in known if age is not None and count is not None]
        named = max(0.0, _number(quota.get("named")) or 0.0) + passed
        yield QuotaMemory(requests=requests, per=per, slots=tuple(sorted(aged, reverse=True)), named=named)


def _left(value: object, passed: float, most: float) -> float:
    """Return the seconds that are left of a wait."""
    return min(most, max(0.0, (_number(value) or 0.0) - passed))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_REQUESTS else None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
