"""Headers that describe a client's window, in the styles that services use; the real one documents none.

- `retry-after`: `Retry-After` on a 429.
- `ratelimit`: `RateLimit-Policy` and `RateLimit` on every answer (IETF draft "RateLimit header fields", -08 on).
- `x-ratelimit`: `X-RateLimit-Limit`, `-Remaining` and `-Reset` (POSIX seconds) on every answer.
- `none`: nothing at all.
"""

from __future__ import annotations

import math
from typing import Final

from aistemsplitter_async.sandbox.service.window import Verdict

STYLES: Final = ("none", "retry-after", "ratelimit", "x-ratelimit")


def parse_styles(text: str) -> frozenset[str]:
    """Return the styles in a list such as `retry-after,ratelimit`; raise `ValueError` for unknown ones."""
    styles = frozenset(part.strip() for part in text.split(","))
    if not styles <= set(STYLES) or ("none" in styles and len(styles) > 1):
        raise ValueError(f"rate_headers must be some of {', '.join(STYLES[1:])}, or none")
    return styles


def build_rate_headers(verdict: Verdict, styles: frozenset[str], *, minute: float, now: float) -> dict[str, str]:
    """Return the headers for one answer; `now` is POSIX seconds, `minute` the window's length in seconds."""
    headers: dict[str, str] = {}
    if "retry-after" in styles and not verdict.admitted:
        headers["Retry-After"] = format_delay(verdict.retry_after, minute=minute)
    if "ratelimit" in styles:
        delay = format_delay(verdict.reset_after if verdict.remaining else verdict.retry_after, minute=minute)
        headers["RateLimit-Policy"] = f'"default";q={verdict.limit};w={minute:g}'
        headers["RateLimit"] = f'"default";r={verdict.remaining};t={delay}'
    if "x-ratelimit" in styles:
        headers["X-RateLimit-Limit"] = str(verdict.limit)
        headers["X-RateLimit-Remaining"] = str(verdict.remaining)
        free_at = now + (verdict.reset_after if verdict.remaining else verdict.retry_after)
        headers["X-RateLimit-Reset"] = format_delay(free_at, minute=minute)
    return headers


def format_delay(seconds: float, *, minute: float) -> str:
    """Return a delay for a rate header, rounded up so that waiting this long is always enough.

    RFC 9110 has whole seconds. A window shorter than a minute gets three decimals: a whole second would be long for it.
    """
    if minute >= 60:  # noqa: PLR2004  seconds in a real minute
        return str(max(1, math.ceil(seconds)))
    return f"{math.ceil(seconds * 1000 + 1e-6) / 1000:.3f}"
