from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async.cli.options import parse_duration, parse_rate_limit
from aistemsplitter_async.config import RateLimit


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800),
        ("1h30m", 5400),
        ("90s", 90),
        ("90", 90),
        ("1.5h", 5400),
        ("2 min", 120),
        ("1H", 3600),
        ("1h 2m 3s", 3723),
        ("0.5s", 0.5),
    ],
)
def test_a_duration_reads_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "3x", "-5m", "0", "0h0m0s", "1m1h", "nan", "inf", "1e9", "9" * 400, "32d", "1000h", "٣m٣"]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="30m, 1h30m or 90s"):
        parse_duration(text)


@given(st.text(max_size=20))
def test_any_text_is_a_positive_finite_duration_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert seconds > 0
    assert math.isfinite(seconds)


@given(hours=st.integers(0, 99), minutes=st.integers(0, 59), seconds=st.integers(1, 59))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


def test_a_rate_limit_reads_like_sixty_a_minute() -> None:
    assert parse_rate_limit("60/min") == RateLimit(60, 60.0)
    assert parse_rate_limit("100/30s") == RateLimit(100, 30.0)


@pytest.mark.parametrize("text", ["", "60", "0/min", "60/.s", "60/0s", "9" * 5000 + "/s", "a/b"])
def test_what_is_no_rate_limit_is_a_value_error_that_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate limit|positive|at least 1"):
        parse_rate_limit(text)
