"""Parses times in every form that servers send them, HTTP dates, and `Retry-After`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_EPOCH = re.compile(r"[0-9]{9,19}(\.[0-9]{1,9})?")  # fewer digits may be a date: 20260504
_ZONE = re.compile(r" ?(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2})( UTC)?$")  # also as Go and Ruby print it
_MOST_CHARACTERS = 64
_LONGEST = 1000  # characters of a header that are read
_FOREVER = 1e10  # s
_FIRST_MOMENT = 1e9  # s since 1970: a smaller number is a wait
_NEAR = 366 * 86_400.0  # s between now and a number that is a moment
_DIGITS = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(_DIGITS)
_UNIT_NAMES = "ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d"
_TERM = re.compile(rf"({_DIGITS})\s*({_UNIT_NAMES})", re.IGNORECASE)
_DURATION = re.compile(rf"(?:{_DIGITS}\s*(?:{_UNIT_NAMES})\s*)+", re.IGNORECASE)
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_MEMBERS = re.compile(r"\s*(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\s*,)?[^,]+", re.IGNORECASE)  # of a joined header
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
        date = parse_date(text)
    except OverflowError:  # in UTC it is before the year 1 or after 9999
        return None
    try:
        return None if date is None else datetime.fromtimestamp(date, UTC)
    except (ValueError, OverflowError):  # the same
        return None


def _spell_zone(match: re.Match[str]) -> str:
    zone = match[1]
    return "Z" if zone in ("Z", "UTC", "GMT") else zone


def _parse_epoch(count: float) -> datetime | None:
    unit = next((unit for below, unit in _UNITS if 0 < count < below), None)
    return None if unit is None else datetime.fromtimestamp(count / unit, UTC)


def parse_retry_after(value: str | None, *, date: str | None = None, now: float = 0.0) -> float | None:
    """Return the seconds a `Retry-After` header asks for, or `None` if it is absent, in the past or invalid.

    A moment is compared with the reply's own `Date` header, so that a wrong clock on either side does not matter;
    without one, with `now` (POSIX seconds). RFC 9110 section 10.2.3 has whole seconds and HTTP dates; `parse_wait` has
    the rest.
    """
    if value is None:
        return None
    server_now = parse_date(date) if date else None
    seconds = parse_wait(value, now=now if server_now is None else server_now)
    return seconds if seconds is not None and seconds > 0 else None


def parse_wait(text: str, *, now: float) -> float | None:
    """Return the seconds that a header says to wait, negative for a moment in the past; `None` if it cannot be read.

    It may be a number of seconds, a duration with units (`5s`, `1m30s`, `2 minutes`), or a moment in any form that
    `parse_time` reads. A number of seconds, milli-, micro- or nanoseconds since 1970 that is near `now` is a moment.
    Every other number is of seconds: where milliseconds were meant, that is too late and never too early. Of several
    values the longest wait counts; no wait is longer than three hundred years.

    Args:
        text: the header, its lines joined by commas.
        now: POSIX seconds by the server's clock.
    """
    waits = (_parse_one_wait(member.strip().strip('"').strip(), now) for member in _MEMBERS.findall(text[:_LONGEST]))
    return max((min(wait, _FOREVER) for wait in waits if wait is not None), default=None)


def _parse_one_wait(text: str, now: float) -> float | None:
    if _NUMBER.fullmatch(text):
        return _parse_seconds(float(text), now)
    if _DURATION.fullmatch(text):
        terms = ((float(number), unit.lower()) for number, unit in _TERM.findall(text))
        return sum(number * _SECONDS["ms" if unit == "ms" else unit[0]] for number, unit in terms)
    time = parse_time(text)
    return None if time is None else time.timestamp() - now


def _parse_seconds(number: float, now: float) -> float:
    moments = (number / unit for _, unit in _UNITS)
    near = (at - now for at in moments if at >= _FIRST_MOMENT and abs(at - now) <= _NEAR)
    return next(near, number)


def parse_date(text: str) -> float | None:
    """Return an HTTP date as POSIX seconds, or `None` if `text` is not one."""
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
