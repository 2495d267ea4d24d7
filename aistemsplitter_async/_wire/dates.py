"""Parses times in every form that servers send them, HTTP dates, and `Retry-After`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_EPOCH = re.compile(r"[0-9]{9,19}(\.[0-9]{1,9})?")  # fewer digits may be a date: 20260504
_ZONE = re.compile(r" ?(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2})( UTC)?$")  # also as Go and Ruby print it
_MOST_CHARACTERS = 64
_UNITS = (
    (1e11, 1.0),
    (1e14, 1e3),
    (1e17, 1e6),
    (1e20, 1e9),
)  # below the first number, a time counts this many a second


def parse_time(value: str | float) -> datetime | None:
    """Return a time that is ISO 8601, an HTTP date, or a count since 1970; `None` if it is none of these.

    A count may be of seconds, milli-, micro- or nanoseconds, which cannot be confused for times of this century.
    Without a zone, a time is UTC; a date is its midnight.
    """
    if not isinstance(value, str):
        return _parse_epoch(value)
    text = value.strip().upper()
    if not text.isascii() or len(text) > _MOST_CHARACTERS:
        return None
    if _EPOCH.fullmatch(text):
        return _parse_epoch(float(text))
    try:
        time = datetime.fromisoformat(_ZONE.sub(_spell_zone, text))
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except ValueError:
        return _parse_epoch(parse_date(text) or 0.0)
    except OverflowError:  # in UTC it is before the year 1 or after 9999
        return None


def _spell_zone(match: re.Match[str]) -> str:
    zone = match[1]
    return "Z" if zone in ("Z", "UTC", "GMT") else zone


def _parse_epoch(count: float) -> datetime | None:
    unit = next((unit for below, unit in _UNITS if 0 < count < below), None)
    return None if unit is None else datetime.fromtimestamp(count / unit, UTC)


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
