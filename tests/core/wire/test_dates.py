"""Times in every form that servers write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._wire.dates import parse_time

TEN = datetime(2026, 5, 4, 10, tzinfo=UTC)
MIDNIGHT = datetime(2026, 5, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    "written",
    [
        "2026-05-04T10:00:00Z",
        "2026-05-04T10:00:00z",
        "2026-05-04t10:00Z",
        "2026-05-04T10Z",
        "2026-05-04T10:00:00+00:00",
        "2026-05-04T12:00:00+0200",
        "2026-05-04T12:00:00+02",
        "2026-05-04T10:00:00",
        "2026-05-04 10:00:00",
        "2026-05-04 10:00:00Z",
        "2026-05-04 10:00:00 UTC",
        "2026-05-04 10:00:00 GMT",
        "2026-05-04 12:00:00 +0200",
        "2026-05-04 10:00:00 +0000 UTC",
        "2026-05-04T10:00:00.0000000Z",
        "2026-05-04 10:00:00.000000000 +0000 UTC",
        "20260504T100000Z",
        " 2026-05-04T10:00:00Z\n",
        "Mon, 04 May 2026 10:00:00 GMT",
        "1777888800",
        "1777888800000",
        "1777888800.0",
        1777888800,
        1777888800.0,
        1777888800000,
        1777888800000000,
        1777888800000000000,
    ],
)
def test_ten_oclock_in_every_form(written: str | float) -> None:
    time = parse_time(written)
    assert time == TEN
    assert time.tzinfo is UTC


@pytest.mark.parametrize("written", ["2026-05-04", "20260504", "2026-05-04T00:00"])
def test_a_date_is_its_midnight_in_utc(written: str) -> None:
    assert parse_time(written) == MIDNIGHT


@pytest.mark.parametrize("digits", range(1, 16))
def test_a_fraction_of_any_length_is_read(digits: int) -> None:
    time = parse_time(f"2026-05-04T10:00:00.{'1' * digits}Z")
    assert time is not None
    assert timedelta(0) < time - TEN < timedelta(seconds=0.12)


@pytest.mark.parametrize(
    "written",
    [
        *["", " ", "soon", "2026", "2026-13-01", "2026-05-04T25:00:00Z", "٢٠٢٦-05-04T10:00Z", "-1777888800", "1e9"],
        *[
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
            "2026-05-04T10:00:00Z" + " " * 99 + "x",
            "9" * 4000,
        ],
        *[0, -1, 1e20, 1e300, float("inf"), float("nan"), 10**400],
    ],
)
def test_what_is_no_time_is_none(written: str | float) -> None:
    assert parse_time(written) is None


@given(
    st.text(max_size=70)
    | st.from_regex(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}.[0-9:.,+ ZUTC-]{0,40}")
    | st.floats()
    | st.integers()
)
def test_anything_gives_a_time_in_utc_or_none(written: str | float) -> None:
    time = parse_time(written)
    assert time is None or time.tzinfo is UTC


@given(st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_every_unit_of_the_epoch_is_recognised(time: datetime) -> None:
    seconds = int(time.timestamp())
    for unit in (1, 1000, 1_000_000, 1_000_000_000):
        assert parse_time(seconds * unit) == parse_time(str(seconds * unit)) == time.replace(microsecond=0)
