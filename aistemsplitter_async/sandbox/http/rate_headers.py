"""Headers that tell a client about its window, in the styles found in the wild; the real service documents none.

- `retry-after`: `Retry-After` on a 429.
- `ratelimit`: `RateLimit-Policy` and `RateLimit` on every answer (IETF draft "RateLimit header fields", -08 on).
- `x-ratelimit`: `X-RateLimit-Limit`, `-Remaining` and `-Reset` (POSIX seconds) on every answer.
- `none`: nothing at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aistemsplitter_async.sandbox.http.wire import format_delay

if TYPE_CHECKING:
    from aistemsplitter_async.sandbox.service.window import Verdict

STYLES: Final = ("none", "retry-after", "ratelimit", "x-ratelimit")


def parse_styles(text: str) -> frozenset[str]:
    """Return the styles in a comma-separated list such as `retry-after,ratelimit`; raise `ValueError` for others."""
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
