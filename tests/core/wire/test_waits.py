"""How long a server asks to wait, in every form that servers write it: never less than it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given, strategies as st

from aistemsplitter_async._gate.rate_headers import parse_rate_headers
from aistemsplitter_async._wire.dates import parse_retry_after, parse_wait

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
NOW = int(NOON.timestamp())
DATE = format_datetime(NOON, usegmt=True)
FORMS: list[tuple[str, float | None]] = [
    # seconds
    *[("5", 5), (" 5 ", 5), ("0", 0), ("0.25", 0.25), ("007", 7), ('"120"', 120), ("3600.", 3600)],
    # a number that is far from any moment is of seconds, even if it may have been meant as milliseconds
    *[("30000", 30_000), ("1000000000", 1e9), ("999999999", 999_999_999), ("4000000000", 4e9), ("9" * 400, 1e10)],
    # with units
    *[("5s", 5), ("5 seconds", 5), ("1 second", 1), ("5 sec", 5), ("5S", 5), ("1.5s", 1.5), ("20ms", 0.02)],
    *[("2m", 120), ("2 minutes", 120), ("1m30s", 90), ("6m0s", 360), ("1h2m3s", 3723), ("1 hour 5 min", 3900)],
    *[("1d", 86_400), ("2 days", 172_800)],
    # moments
    *[(str(NOW + 90), 90), (str(NOW - 90), -90), (str((NOW + 90) * 1000), 90), (str((NOW + 90) * 10**6), 90)],
    *[(str((NOW + 90) * 10**9), 90), (f"{NOW + 90}.5", 90.5), (str(NOW), 0), (str(NOW + 300 * 86_400), 300 * 86_400)],
    *[("Mon, 04 May 2026 12:01:30 GMT", 90), ("Monday, 04-May-26 12:01:30 GMT", 90), ("Mon May  4 12:01:30 2026", 90)],
    *[("Fri, 04 May 2026 12:01:30 GMT", 90), ("04 May 2026 12:01:30 GMT", 90), ("mon, 04 may 2026 12:01:30 gmt", 90)],
    *[("2026-05-04T12:01:30Z", 90), ("2026-05-04 12:01:30", 90), ("2026-05-04T14:01:30.5+02:00", 90.5)],
    *[("Mon, 04 May 2026 11:59:00 GMT", -60), ("Thu, 01 Jan 1970 00:00:00 GMT", -NOW)],
    *[("Fri, 31 Dec 9999 23:59:59 GMT", 1e10), ("9999-12-31T23:59:59Z", 1e10), ("9999-12-31T23:59:59.999Z", 1e10)],
    # lines that were joined: the longest
    *[("120, 120", 120), ("5, 10", 10), ("10,5", 10), ("5, soon", 5), ("soon, 5", 5), ("5s, 2m", 120), ("7,", 7)],
    *[
        ("Mon, 04 May 2026 12:01:30 GMT, Mon, 04 May 2026 12:03:00 GMT", 180),
        ("200, Mon, 04 May 2026 12:03:00 GMT", 200),
    ],
    # nothing
    *[
        (text, None)
        for text in ("", " ", ",", "soon", "-5", "inf", "nan", "5x", "s", "1e3", "1_000", "٣", "5 5", "0x5")
    ],
]


@pytest.mark.parametrize(("text", "seconds"), FORMS)
def test_a_wait_in_every_form(text: str, seconds: float | None) -> None:
    assert parse_wait(text, now=NOW) == seconds
    asked = seconds if seconds is not None and seconds > 0 else None
    assert parse_retry_after(text, date=DATE, now=0.0) == asked, "against the reply's own Date"
    assert parse_retry_after(text, now=NOW) == asked, "against our clock where there is no Date"


@pytest.mark.parametrize("name", ["ratelimit-reset", "x-ratelimit-reset"])
def test_a_reset_in_every_form(name: str) -> None:
    for text, seconds in (form for form in FORMS if form[0]):
        advice = parse_rate_headers({name: text, "date": DATE}, per=60.0, now=0.0)
        reset = seconds if seconds is not None and seconds >= 0 else None
        assert (advice.reset if advice is not None else None) == reset, text


@pytest.mark.parametrize("name", ["ratelimit", "ratelimit-reset"])
def test_a_reset_with_parameters(name: str) -> None:
    text = {"ratelimit": '"default";r=0;t=30', "ratelimit-reset": "30;w=60"}[name]
    advice = parse_rate_headers({name: text}, per=60.0, now=NOW)
    assert advice is not None
    assert advice.reset == 30


@given(st.integers(0, 10**9 - 1), st.sampled_from(["{}", " {}", "{}.0", "{}s", "{} seconds", '"{}"', "{}, 0", "0,{}"]))
@example(30_000, "{}")
def test_a_number_is_never_shortened(seconds: int, form: str) -> None:
    assert (parse_retry_after(form.format(seconds), date=DATE) or 0.0) == seconds


@given(
    st.integers(-300 * 86_400, 300 * 86_400),
    st.sampled_from([1, 10**3, 10**6, 10**9]),
    st.datetimes(datetime(2015, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_a_moment_is_measured_by_the_servers_own_date(wait: int, unit: int, server: datetime) -> None:
    server = server.replace(microsecond=0)
    date = format_datetime(server, usegmt=True)
    until = server + timedelta(seconds=wait)
    written = (format_datetime(until, usegmt=True), until.isoformat(), str(int(until.timestamp()) * unit))
    for form in written:
        assert parse_retry_after(form, date=date, now=0.0) == (wait if wait > 0 else None)


@given(st.text(max_size=60) | st.from_regex(r"[0-9., smhdGT:-]{0,60}", fullmatch=True), st.floats(0, 1e11))
def test_anything_gives_seconds_or_nothing(text: str, now: float) -> None:
    seconds = parse_wait(text, now=now)
    assert seconds is None or -1e12 < seconds <= 1e10


@given(st.integers(10**9, 10**30), st.floats(0, 5e9))
def test_a_large_number_is_a_moment_nearby_or_longer_than_any_wait(number: int, now: float) -> None:
    """No large number is taken for a short wait unless it names a moment that is near by the server's own clock."""
    seconds = parse_wait(str(number), now=now)
    assert seconds is not None
    moments = [number / unit for unit in (1, 1e3, 1e6, 1e9)]
    assert seconds >= 1e9 or any(abs(moment - now - seconds) < 1e-3 for moment in moments if moment >= 1e9)


def test_a_long_header_is_read_in_time() -> None:
    for text in ("9" * 10**6, "1s" * 10**6, "1 " * 10**6, "," * 10**6, "mon," * 10**6, "1m " * 10**6 + "x"):
        parse_wait(text, now=NOW)
