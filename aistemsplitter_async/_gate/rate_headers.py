"""Parses rate limit headers. The service documents none, so every common dialect is understood.

- `RateLimit-Policy: "default";q=100;w=60` and `RateLimit: "default";r=50;t=30`
  (IETF draft-ietf-httpapi-ratelimit-headers, -08 on)
- `RateLimit: limit=100, remaining=50, reset=30` and `RateLimit-Policy: 100;w=60` (-07)
- `RateLimit-Limit: 100, 100;w=60`, `RateLimit-Remaining: 50`, `RateLimit-Reset: 30` (-00 to -06)
- `X-RateLimit-Limit`, `-Remaining` and `-Reset`, or `X-Rate-Limit-`, the last in any form that `parse_wait` reads
- the same with the window in the name: `X-RateLimit-Limit-Minute`, `X-RateLimit-Remaining-Day` (Kong)

A reply may name several limits. One is that of the expected window; `parse_further_limits` returns the others.

Nothing here raises: headers that cannot be parsed are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import attrs

from aistemsplitter_async._wire.dates import parse_date, parse_wait

_LONGEST = 1000  # characters of a header that are read
_MOST_REQUESTS = 10**9
_LONG_WINDOW = 10.0  # times the expected window; a quota per day says nothing about a minute
_POLICY_HEADERS = ("ratelimit-policy", "ratelimit-limit", "x-ratelimit-limit", "x-rate-limit-limit")
_SOON = 1.5  # times the expected window; a limit that says no window and resets later has a longer one
_WINDOWS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0, "month": 30 * 86_400.0}
_USUAL = (900.0, 3600.0, 86_400.0, 30 * 86_400.0)  # s
_FAMILIES = ("ratelimit", "x-ratelimit", "x-rate-limit")
_IN_NAME = re.compile(r"((?:x-)?rate-?limit)-limit-(second|minute|hour|day|month)")
_NAME = r'"(?:[^"\\]|\\.)*"|[^,;="\s]+'
_MEMBER = re.compile(rf"({_NAME})\s*(?:=\s*({_NAME}))?((?:\s*;\s*[^,;\"]*(?:\"[^\"]*\")?)*)")
_PARAMETER = re.compile(r"([a-z*][a-z0-9_.*-]*)\s*=\s*([^\s;,]+)")
_RATE_NAME = re.compile(r"[a-z0-9-]{0,40}rate-?limit[a-z0-9-]{0,40}")
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?", re.ASCII)


@attrs.frozen(kw_only=True)
class RateAdvice:
    """The rate headers of one reply; `None` for values it did not contain.

    Attributes:
        requests: the limit, at least 1.
        per: its window in seconds.
        remaining: requests left.
        reset: seconds until there are more.
    """

    requests: int | None = None
    per: float | None = None
    remaining: int | None = None
    reset: float | None = None


@attrs.frozen
class _Member:
    """One member of a structured list: `"name";key=value`, or `name=value` in the older dialect."""

    name: str
    value: str | None
    parameters: dict[str, str]


def parse_rate_headers(headers: Mapping[str, str], *, per: float, now: float) -> RateAdvice | None:
    """Return what `headers` say about the limit, or `None` if they say nothing.

    If there are several policies, the one whose window is nearest to `per` counts.

    Args:
        headers: of any reply, names in lower case.
        per: the expected window in seconds.
        now: POSIX seconds, for resets that are dates; the reply's own `Date` header has precedence.
    """
    policy = _choose_policy(headers, per)
    state = _members(headers.get("ratelimit", ""))
    older = {member.name.lower(): member.value for member in state if member.value is not None}
    newer = next((member for member in state if policy is None or member.name == policy.name), None)
    parameters = newer.parameters if newer is not None else {}
    server_now = parse_date(headers.get("date", ""))

    def first(*texts: str | None) -> str | None:
        return next((text for text in texts if text is not None), None)

    def plain(what: str) -> str | None:
        return first(*(headers.get(f"{family}-{what}") for family in _FAMILIES))

    reset = _parse_reset(
        first(parameters.get("t"), older.get("reset"), _first_of_as_many(plain("reset"), plain("limit"))),
        server_now if server_now is not None else now,
    )
    limit = _parse_count(first(policy.quota if policy else None, older.get("limit"), _leading(plain("limit"))))
    if limit and (policy is None or policy.window is None) and reset is not None and reset > _SOON * per:
        return None
    advice = RateAdvice(
        requests=limit or None,
        per=policy.window if policy is not None and limit else None,
        remaining=_parse_count(first(parameters.get("r"), older.get("remaining"), _leading(plain("remaining")))),
        reset=reset,
    )
    return advice if advice != RateAdvice() else None


def parse_further_limits(headers: Mapping[str, str], *, per: float, now: float) -> tuple[RateAdvice, ...]:
    """Return the limits that `headers` name besides that of `parse_rate_headers`, each with its window.

    The arguments are those of `parse_rate_headers`. A limit that does not say its window, and resets later than the
    expected one does, has the next longer usual one.
    """
    server_now = parse_date(headers.get("date", ""))
    at = server_now if server_now is not None else now
    chosen = _choose_policy(headers, per)
    found: dict[float, RateAdvice] = {}
    for limit, named, remaining, reset in (*_by_policy(headers), *_by_place(headers, per, at), *_by_name(headers)):
        requests, wait = _parse_count(limit), _parse_reset(reset, at)
        window = named or _usual_window(wait, per)
        if not requests or window is None or (chosen is not None and window == chosen.window):
            continue
        least = found.get(window)
        if least is None or requests <= (least.requests or requests):
            found[window] = RateAdvice(requests=requests, per=window, remaining=_parse_count(remaining), reset=wait)
    return tuple(advice for _, advice in sorted(found.items()))


_Raw = tuple[str | None, float | None, str | None, str | None]  # limit, window, remaining, reset


def _by_policy(headers: Mapping[str, str]) -> Iterator[_Raw]:
    states = {member.name: member.parameters for member in _members(headers.get("ratelimit", ""))}
    for policy in _policies(headers):
        if policy.window is not None:
            state = states.get(policy.name, {})
            yield policy.quota, policy.window, state.get("r"), state.get("t")


def _by_place(headers: Mapping[str, str], per: float, now: float) -> Iterator[_Raw]:
    """Yield what lists of limits, remaining requests and resets say, if each has as many members."""
    for family in _FAMILIES:
        limits, left, resets = (_items(headers.get(f"{family}-{what}")) for what in ("limit", "remaining", "reset"))
        if len(limits) == len(left) == len(resets):
            for limit, remaining, reset in zip(limits, left, resets, strict=True):
                wait = _parse_reset(reset, now)
                is_expected = len(limits) > 1 and wait is not None and wait <= _SOON * per
                yield limit, per if is_expected else None, remaining, reset


def _by_name(headers: Mapping[str, str]) -> Iterator[_Raw]:
    for name, value in headers.items():
        if match := _IN_NAME.fullmatch(name):
            remaining, reset = (headers.get(f"{match[1]}-{what}-{match[2]}") for what in ("remaining", "reset"))
            yield _leading(value), _WINDOWS[match[2]], _leading(remaining), reset


def find_rate_headers(headers: Mapping[str, str]) -> list[str]:
    """Return the names of headers that seem to say something about a limit. Without any, nothing else here does."""
    return [name for name in headers if "limit" in name and _RATE_NAME.fullmatch(name)]


def _usual_window(reset: float | None, per: float) -> float | None:
    if reset is None or reset <= _SOON * per:
        return None
    return next((usual for usual in _USUAL if usual >= reset), None)


def _first_of_as_many(text: str | None, others: str | None) -> str | None:
    """Return the first member if `text` lists as many as `others`; a date has a comma too."""
    members = _items(text)
    return members[0] if 1 < len(members) == len(_items(others)) else text


def _items(text: str | None) -> list[str]:
    return [] if text is None else [item.strip() for item in _shorten(text).split(",") if ";" not in item]


@attrs.frozen
class _Policy:
    name: str
    quota: str
    window: float | None


def _choose_policy(headers: Mapping[str, str], per: float) -> _Policy | None:
    """Return the policy with the window nearest to `per`, or one without a window if there is no other."""
    fitting = [policy for policy in _policies(headers) if (policy.window or per) <= _LONG_WINDOW * per]
    return min(
        fitting, key=lambda policy: abs(math.log(policy.window / per)) if policy.window else math.inf, default=None
    )


def _policies(headers: Mapping[str, str]) -> list[_Policy]:
    read = [_policy(member) for name in _POLICY_HEADERS for member in _members(headers.get(name, ""))]
    return [policy for policy in read if policy is not None]


def _policy(member: _Member) -> _Policy | None:
    parameters = member.parameters
    quota = parameters.get("q") or member.name  # before -08 the quota itself was the item
    if not _parse_count(quota) or parameters.get("qu", '"requests"').strip('"') != "requests":
        return None
    window = _parse_number(parameters.get("w") or parameters.get("window"))
    return _Policy(member.name, quota, window or None)


def _members(text: str) -> list[_Member]:
    return [
        _Member(name, value or None, dict(_PARAMETER.findall(parameters.lower())))
        for name, value, parameters in _MEMBER.findall(_shorten(text))
    ]


def _shorten(text: str) -> str:
    """Return the members that are read of a long header: half a number would be another limit."""
    return text if len(text) <= _LONGEST else text[:_LONGEST].rpartition(",")[0]


def _leading(text: str | None) -> str | None:
    return text.partition(",")[0].partition(";")[0] if text is not None else None


def _parse_number(text: str | None) -> float | None:
    match = _NUMBER.fullmatch(text.strip()) if text is not None else None
    return float(match[0]) if match else None


def _parse_count(text: str | None) -> int | None:
    number = _parse_number(text)
    return int(number) if number is not None and number <= _MOST_REQUESTS else None


def _parse_reset(text: str | None, now: float) -> float | None:
    seconds = parse_wait(text.partition(";")[0], now=now) if text is not None else None
    return seconds if seconds is not None and seconds >= 0 else None
