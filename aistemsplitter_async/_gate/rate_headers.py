"""Parses rate limit headers. The service documents none, so every common dialect is understood.

- `RateLimit-Policy: "default";q=100;w=60` and `RateLimit: "default";r=50;t=30`
  (IETF draft-ietf-httpapi-ratelimit-headers, -08 on)
- `RateLimit: limit=100, remaining=50, reset=30` and `RateLimit-Policy: 100;w=60` (-07)
- `RateLimit-Limit: 100, 100;w=60`, `RateLimit-Remaining: 50`, `RateLimit-Reset: 30` (-00 to -06)
- `X-RateLimit-Limit`, `-Remaining` and `-Reset` (GitHub; with a dash more, X), the last in any form that `parse_wait` reads
- the same with the window in the name: `X-RateLimit-Limit-Minute`, `X-RateLimit-Remaining-Day` (Kong)

A reply may name several limits. One is that of the expected window; `parse_further_limits` returns the others.

Nothing here raises: headers that cannot be parsed are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import attrs

from aistemsplitter_async._wire.dates import parse_date, parse_wait

_LONGEST = 1000  # characters of a header that are read
_MOST_REQUESTS = 10**9
_LONG_WINDOW = 10.0  # times the expected window; a quota per day says nothing about a minute
_POLICY_HEADERS = ("ratelimit-policy", "ratelimit-limit", "x-ratelimit-limit", "x-rate-limit-limit")
_SOON = 1.5  # times the expected window; a limit that says no window and resets later has a longer one
_WINDOWS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0, "month": 30 * 86_400.0}
_USUAL = (900.0, 3600.0, 86_400.0, 30 * 86_400.0)  # s
_IN_NAME = re.compile(r"(?:x-)?rate-?limit-limit-(second|minute|hour|day|month)")
_NAME = r'"(?:[^"\\]|\\.)*"|[^,;="\s]+'
_MEMBER = re.compile(rf"({_NAME})\s*(?:=\s*({_NAME}))?((?:\s*;\s*[^,;\"]*(?:\"[^\"]*\")?)*)")
_PARAMETER = re.compile(r"([a-z*][a-z0-9_.*-]*)\s*=\s*([^\s;,]+)")
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
        return first(*(headers.get(f"{family}-{what}") for family in ("ratelimit", "x-ratelimit", "x-rate-limit")))

    reset = _parse_reset(
        first(parameters.get("t"), older.get("reset"), plain("reset")), server_now if server_now is not None else now
    )
    if (policy is None or policy.window is None) and reset is not None and reset > _SOON * per:
        return None
    limit = _parse_count(first(policy.quota if policy else None, older.get("limit"), _leading(plain("limit"))))
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
    states = {member.name: member.parameters for member in _members(headers.get("ratelimit", ""))}
    found: dict[float, RateAdvice] = {}

    def add(requests: int | None, window: float | None, remaining: str | None, reset: str | None) -> None:
        wait = _parse_reset(reset, at)
        if window is None and wait is not None and wait > _SOON * per:
            window = next((usual for usual in _USUAL if usual >= wait), None)
        if requests and window:
            advice = RateAdvice(requests=requests, per=window, remaining=_parse_count(remaining), reset=wait)
            least = found.get(window)
            if least is None or least.requests is None or requests <= least.requests:
                found[window] = advice

    for policy in _policies(headers):
        if policy.window is not None and (chosen is None or policy.window != chosen.window):
            state = states.get(policy.name, {})
            add(_parse_count(policy.quota), policy.window, state.get("r"), state.get("t"))
    for family in ("ratelimit", "x-ratelimit", "x-rate-limit"):
        limits, left, resets = (_items(headers.get(f"{family}-{what}")) for what in ("limit", "remaining", "reset"))
        if len(limits) == len(left) == len(resets):
            for limit, remaining, reset in zip(limits, left, resets, strict=True):
                add(_parse_count(limit), None, remaining, reset)
    for name, value in headers.items():
        if match := _IN_NAME.fullmatch(name):
            remaining, reset = (
                headers.get(name.replace("limit-limit-", f"limit-{what}-")) for what in ("remaining", "reset")
            )
            add(_parse_count(_leading(value)), _WINDOWS[match[1]], _leading(remaining), reset)
    return tuple(advice for window, advice in sorted(found.items()) if chosen is None or window != chosen.window)


def _items(text: str | None) -> list[str]:
    return [] if text is None else [item.strip() for item in text[:_LONGEST].split(",") if ";" not in item]


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
        for name, value, parameters in _MEMBER.findall(text[:_LONGEST])
    ]


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
