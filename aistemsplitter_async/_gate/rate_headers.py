"""Parses rate limit headers. The service documents none, so every common dialect is understood.

- `RateLimit-Policy: "default";q=100;w=60` and `RateLimit: "default";r=50;t=30`
  (IETF draft-ietf-httpapi-ratelimit-headers, -08 on)
- `RateLimit: limit=100, remaining=50, reset=30` and `RateLimit-Policy: 100;w=60` (-07)
- `RateLimit-Limit: 100, 100;w=60`, `RateLimit-Remaining: 50`, `RateLimit-Reset: 30` (-00 to -06)
- `X-RateLimit-Limit`, `-Remaining` and `-Reset`, the last in any form that `parse_wait` reads

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
_POLICY_HEADERS = ("ratelimit-policy", "ratelimit-limit", "x-ratelimit-limit")
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
        return first(headers.get(f"ratelimit-{what}"), headers.get(f"x-ratelimit-{what}"))

    limit = _parse_count(first(policy.quota if policy else None, older.get("limit"), _leading(plain("limit"))))
    advice = RateAdvice(
        requests=limit or None,
        per=policy.window if policy is not None and limit else None,
        remaining=_parse_count(first(parameters.get("r"), older.get("remaining"), _leading(plain("remaining")))),
        reset=_parse_reset(
            first(parameters.get("t"), older.get("reset"), plain("reset")),
            server_now if server_now is not None else now,
        ),
    )
    return advice if advice != RateAdvice() else None


@attrs.frozen
class _Policy:
    name: str
    quota: str
    window: float | None


def _choose_policy(headers: Mapping[str, str], per: float) -> _Policy | None:
    """Return the policy with the window nearest to `per`, or one without a window if there is no other."""
    policies = [_policy(member) for name in _POLICY_HEADERS for member in _members(headers.get(name, ""))]
    fitting = [policy for policy in policies if policy is not None and (policy.window or per) <= _LONG_WINDOW * per]
    return min(
        fitting, key=lambda policy: abs(math.log(policy.window / per)) if policy.window else math.inf, default=None
    )


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
