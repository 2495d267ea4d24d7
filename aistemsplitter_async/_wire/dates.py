"""Parses HTTP dates and `Retry-After`."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime


def parse_retry_after(value: str | None, *, date: str | None = None, now: float = 0.0) -> float | None:
    """Return the seconds a `Retry-After` header asks for, or `None` if it is absent, in the past or invalid.

    A date is compared with the reply's own `Date` header, so that a wrong clock on either side does not matter; without
    one, with `now` (POSIX seconds). RFC 9110 section 10.2.3; fractions of a second are accepted too.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        seconds = float(text)
        return seconds if seconds > 0 else None
    until = parse_date(text)
    if until is None:
        return None
    server_now = parse_date(date) if date else None
    seconds = until - (server_now if server_now is not None else now)
    return seconds if seconds > 0 else None


def parse_date(text: str) -> float | None:
    """Return an HTTP date as POSIX seconds, or `None` if `text` is not one."""
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
