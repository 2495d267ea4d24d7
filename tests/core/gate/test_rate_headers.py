"""Rate headers in every dialect, and in none."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._gate.rate_headers import (
    RateAdvice,
    find_rate_headers,
    parse_further_limits,
    parse_rate_headers,
)

NOW = 1_800_000_000.0
DATE = "Fri, 15 Jan 2027 08:00:00 GMT"  # the same moment


def parse(**headers: str) -> RateAdvice | None:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return parse_rate_headers(named, per=60.0, now=NOW)


SAID = [
    ({"ratelimit_policy": '"default";q=100;w=60'}, RateAdvice(requests=100, per=60)),
    ({"ratelimit": '"default";r=50;t=30'}, RateAdvice(remaining=50, reset=30)),
    (
        {"ratelimit_policy": '"default";q=60;w=0.6', "ratelimit": '"default";r=0;t=0.123'},
        RateAdvice(requests=60, per=0.6, remaining=0, reset=0.123),
    ),
    (
        {"ratelimit_policy": '"burst";q=10;w=1, "minute";q=60;w=60', "ratelimit": '"burst";r=9;t=1,"minute";r=5;t=40'},
        RateAdvice(requests=60, per=60, remaining=5, reset=40),
    ),
    ({"ratelimit_policy": ' "a, b;c=\\"d" ; q=7 ; w=60 ; pk=:c29tZQ==: '}, RateAdvice(requests=7, per=60)),
    ({"ratelimit_policy": 'default; q=5; w=60; qu="requests"'}, RateAdvice(requests=5, per=60)),
    ({"ratelimit_policy": '"b";q=5000;w=60;qu="content-bytes", "r";q=5;w=60'}, RateAdvice(requests=5, per=60)),
    ({"ratelimit_policy": '"day";q=5000;w=86400'}, None),
    ({"ratelimit_policy": '"day";q=5000;w=86400, "minute";q=60;w=60'}, RateAdvice(requests=60, per=60)),
    ({"ratelimit_policy": '"day";q=5000;w=86400', "x_ratelimit_limit": "60"}, RateAdvice(requests=60)),
    (
        {"ratelimit": "limit=100, remaining=50, reset=30", "ratelimit_policy": "100;w=60"},
        RateAdvice(requests=100, per=60, remaining=50, reset=30),
    ),
    ({"ratelimit": "limit=100,remaining=50,reset=30"}, RateAdvice(requests=100, remaining=50, reset=30)),
    (
        {"ratelimit_limit": "100, 100;w=60", "ratelimit_remaining": "1", "ratelimit_reset": "9"},
        RateAdvice(requests=100, per=60, remaining=1, reset=9),
    ),
    (
        {"x_ratelimit_limit": "60", "x_ratelimit_remaining": "0", "x_ratelimit_reset": "12"},
        RateAdvice(requests=60, remaining=0, reset=12),
    ),
    ({"x_ratelimit_limit": "60, 60;window=30"}, RateAdvice(requests=60, per=30)),
    ({"x_ratelimit_reset": str(NOW + 12)}, RateAdvice(reset=12)),
    ({"x_ratelimit_reset": f"{(NOW + 12) * 1000:.0f}"}, RateAdvice(reset=12)),
    ({"x_ratelimit_reset": str(NOW - 5)}, None),
    ({"x_ratelimit_limit": "0"}, None),
    ({"x_ratelimit_limit": "-5", "x_ratelimit_remaining": "many", "x_ratelimit_reset": "soon"}, None),
    ({"x_ratelimit_limit": "9" * 5000}, None),
    ({"x_ratelimit_limit": "1e400", "ratelimit": "nan", "ratelimit_policy": '"x";q=inf;w=nan'}, None),
    ({"ratelimit_policy": '"default";q=60;w=0'}, RateAdvice(requests=60)),
    ({"ratelimit_policy": '"default'}, None),
    ({"content_type": "application/json"}, None),
]


@pytest.mark.parametrize(("headers", "advice"), SAID)
def test_every_dialect_is_understood(headers: dict[str, str], advice: RateAdvice | None) -> None:
    assert parse(**headers) == advice


def test_a_date_is_measured_against_the_replys_own() -> None:
    advice = parse_rate_headers({"x-ratelimit-reset": str(NOW + 12), "date": DATE}, per=60.0, now=NOW - 5000)
    assert advice == RateAdvice(reset=12)


def test_the_window_nearest_to_the_expected_one_counts() -> None:
    headers = {"ratelimit-policy": '"a";q=1;w=1, "b";q=10;w=10, "c";q=60;w=60'}
    chosen = [parse_rate_headers(headers, per=per, now=NOW) for per in (0.5, 12.0, 3600.0)]
    assert [advice and advice.per for advice in chosen] == [1, 10, 60]


FURTHER = [
    ({"ratelimit-policy": '"day";q=5000;w=86400'}, [RateAdvice(requests=5000, per=86400)]),
    (
        {
            "ratelimit-policy": '"m";q=60;w=60, "h";q=900;w=3600;pk=:aa:, "d";q=5000;w=86400',
            "ratelimit": '"m";r=59;t=60, "d";r=0;t=7200',
        },
        [RateAdvice(requests=900, per=3600), RateAdvice(requests=5000, per=86400, remaining=0, reset=7200)],
    ),
    ({"ratelimit-policy": '"burst";q=10;w=1, "minute";q=60;w=60'}, [RateAdvice(requests=10, per=1)]),
    ({"ratelimit-policy": "100;w=60, 1000;w=3600"}, [RateAdvice(requests=1000, per=3600)]),
    ({"ratelimit-limit": "100, 100;w=60, 1000;w=3600"}, [RateAdvice(requests=1000, per=3600)]),
    (
        {
            "x-ratelimit-limit": "5000",
            "x-ratelimit-remaining": "4999",
            "x-ratelimit-reset": f"{NOW + 3540:.0f}",
            "x-ratelimit-used": "1",
            "x-ratelimit-resource": "core",
        },
        [RateAdvice(requests=5000, per=3600, remaining=4999, reset=3540)],
    ),
    (
        {
            "x-rate-limit-limit": "900",
            "x-rate-limit-remaining": "7",
            "x-rate-limit-reset": f"{NOW + 500:.0f}",
        },
        [RateAdvice(requests=900, per=900, remaining=7, reset=500)],
    ),
    (
        {"x-ratelimit-limit": "60, 1000", "x-ratelimit-remaining": "5, 900", "x-ratelimit-reset": "30, 50000"},
        [
            RateAdvice(requests=60, per=60, remaining=5, reset=30),
            RateAdvice(requests=1000, per=86400, remaining=900, reset=50000),
        ],
    ),
    (
        {"x-ratelimit-limit-minute": "20", "x-ratelimit-remaining-minute": "19", "x-ratelimit-limit-day": "500"},
        [RateAdvice(requests=20, per=60, remaining=19), RateAdvice(requests=500, per=86400)],
    ),
    ({"x-ratelimit-limit": "60", "x-ratelimit-remaining": "9", "x-ratelimit-reset": "50"}, []),
    ({"x-ratelimit-limit": "60", "x-ratelimit-reset": DATE}, []),
    ({"content-type": "application/json"}, []),
]


@pytest.mark.parametrize(("headers", "limits"), FURTHER)
def test_every_limit_besides_is_found(headers: dict[str, str], limits: list[RateAdvice]) -> None:
    assert list(parse_further_limits(headers, per=60.0, now=NOW)) == limits


def test_of_a_header_that_is_too_long_no_half_a_limit_is_read() -> None:
    for length in range(930, 1000):
        headers = {"ratelimit-policy": f'"{"x" * length}";q=60;w=60, "day";q=5000;w=86400'}
        first = parse_rate_headers(headers, per=60.0, now=NOW)
        found = [advice for advice in (first, *parse_further_limits(headers, per=60.0, now=NOW)) if advice is not None]
        assert {(advice.requests, advice.per) for advice in found} <= {(60, 60.0), (5000, 86_400.0)}


def test_a_limit_of_an_hour_that_does_not_say_so_is_none_of_a_minute() -> None:
    assert parse(x_ratelimit_limit="5000", x_ratelimit_remaining="9", x_ratelimit_reset="3540") is None


NAMES = (
    "ratelimit",
    "ratelimit-policy",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "date",
)
PIECES = st.sampled_from(
    ['"', ";", ",", "=", "q=", "w=", "r=", "t=", "limit=", "60", "0", "1e9", "\\", " ", "\t", "-1", ":"]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=30).map("".join))


@given(st.dictionaries(st.sampled_from(NAMES), TEXTS))
def test_whatever_comes_is_sense_or_nothing(headers: dict[str, str]) -> None:
    advices = [parse_rate_headers(headers, per=60.0, now=NOW), *parse_further_limits(headers, per=60.0, now=NOW)]
    for advice in filter(None, advices):
        assert advice.requests is None or advice.requests >= 1
        assert advice.per is None or (math.isfinite(advice.per) and advice.per > 0)
        assert advice.remaining is None or advice.remaining >= 0
        assert advice.reset is None or (math.isfinite(advice.reset) and advice.reset >= 0)


@pytest.mark.parametrize(
    "bomb", ['"' * 100_000, ";" * 100_000, "a;" * 50_000, '"a";' * 30_000, "\\" * 100_000, " " * 100_000]
)
def test_a_header_made_to_be_slow_is_not(bomb: str) -> None:
    assert parse(ratelimit=bomb, ratelimit_policy=bomb, x_ratelimit_limit=bomb) is None


class Asked(dict[str, str]):
    """Headers that note which of them are asked for."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__(headers)
        self.names: set[str] = set(headers)

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        self.names.add(name)
        return super().get(name, default)


def test_no_header_is_read_that_is_not_found() -> None:
    named = Asked({"x-rate-limit-limit-minute": "60", "ratelimit-limit": "60, 1000", "ratelimit-reset": "9, 99"})
    parse_rate_headers(named, per=60.0, now=NOW)
    parse_further_limits(named, per=60.0, now=NOW)
    assert len(named.names) > 10
    assert {"date", *find_rate_headers(dict.fromkeys(named.names, ""))} == named.names
