"""Every default once, every duration scaled, every impossible value refused."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from aistemsplitter_async.config import PollPolicy, RateLimit, RetryPolicy, Timeouts
from aistemsplitter_async.errors import ConfigurationError

POLICIES: list[type[Any]] = [RetryPolicy, PollPolicy, RateLimit, Timeouts]


def units(cls: type[Any]) -> dict[str, str]:
    """Read the unit that opens each field's comment."""
    found = {}
    for line in inspect.getsource(cls).splitlines():
        match = re.match(r"    (\w+): [^#]+ = [^#]+?(?:  # (\S+?)(?:[;:,]?\s.*|[;:]?$)|$)", line)
        if match and match[1] in attrs.fields_dict(cls):
            found[match[1]] = match[2] or ""
    assert found.keys() == attrs.fields_dict(cls).keys()
    return found


def test_the_units_are_read_from_the_comments() -> None:
    assert units(RetryPolicy)["backoff"] == "s"
    assert units(RetryPolicy)["refill"] == "tokens/s"
    assert units(RetryPolicy)["attempts"] == "first"
    assert units(Timeouts)["floor_bytes"] == "bytes/s"
    assert [name for name, unit in units(PollPolicy).items() if unit == "s"] == ["first", "shortest", "typical", "wait"]
    assert [name for name, unit in units(RateLimit).items() if unit == "s"] == ["per"]


@pytest.mark.parametrize("cls", POLICIES)
@pytest.mark.parametrize("factor", [0.001, 0.5, 1.0, 60.0])
def test_scaling_multiplies_every_duration_and_nothing_else(cls: type[Any], factor: float) -> None:
    before, after = cls(), cls().scaled(factor)
    assert type(after) is cls
    for name, unit in units(cls).items():
        value = getattr(before, name)
        expected = {"s": lambda v: v * factor, "tokens/s": lambda v: v / factor}.get(unit, lambda v: v)(value)
        assert getattr(after, name) == expected, name


def test_a_scaled_policy_keeps_what_the_user_chose() -> None:
    assert RateLimit(7, 60.0, "bucket").scaled(0.01) == RateLimit(7, 0.6, "bucket")
    assert RetryPolicy(attempts=9).scaled(0.5).attempts == 9


BAD_NUMBERS: list[object] = [-1, -0.001, math.nan, math.inf, -math.inf, None, "1", True, [], 1j]


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=repr)
@pytest.mark.parametrize("cls", POLICIES)
def test_no_field_takes_a_number_that_cannot_be(cls: type[Any], bad: object) -> None:
    for name in attrs.fields_dict(cls):
        if name in ("policy", "requests"):
            continue
        with pytest.raises(ConfigurationError, match=name):
            cls(**{name: bad})


@pytest.mark.parametrize(
    ("cls", "name"),
    [(cls, name) for cls in (PollPolicy, Timeouts, RateLimit) for name, unit in units(cls).items() if unit == "s"],
)
def test_a_duration_that_must_pass_is_not_zero(cls: type[Any], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        cls(**{name: 0})


@pytest.mark.parametrize("bad", [0, -1, 1.5, 60.0, "60", True, False, math.inf, []], ids=repr)
def test_a_limit_is_a_whole_number_of_at_least_one(bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="requests"):
        RateLimit(bad)


def test_a_limits_policy_is_one_of_two() -> None:
    assert RateLimit(5, policy="bucket").policy == "bucket"
    for bad in ("", "Window", "sliding", None):
        with pytest.raises(ConfigurationError, match="policy"):
            RateLimit(5, policy=bad)  # type: ignore[arg-type]


def test_jitter_is_a_fraction() -> None:
    assert PollPolicy(jitter=0).jitter == 0
    with pytest.raises(ConfigurationError, match="jitter"):
        PollPolicy(jitter=1.01)


@pytest.mark.parametrize(
    ("text", "requests", "per"),
    [
        ("60/min", 60, 60.0),
        ("60/m", 60, 60.0),
        ("60/minute", 60, 60.0),
        (" 60 / MIN ", 60, 60.0),
        ("20/s", 20, 1.0),
        ("1/sec", 1, 1.0),
        ("1/second", 1, 1.0),
        ("100/30s", 100, 30.0),
        ("100/30 s", 100, 30.0),
        ("5/0.5min", 5, 30.0),
        ("1000/h", 1000, 3600.0),
        ("1000/2hour", 1000, 7200.0),
    ],
)
def test_a_limit_is_read_as_it_is_written(text: str, requests: int, per: float) -> None:
    assert RateLimit.parse(text) == RateLimit(requests, per)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "60",
        "60/",
        "/min",
        "0/min",
        "-1/min",
        "1.5/min",
        "60/0s",
        "60/0.0min",
        "60/.s",
        "60/-1s",
        "60/1.s",
        "60/1e3s",
        "60/week",
        "60/min,",
        "60/min, 30/60s",
        "60/mins",
        "60 per minute",
        "60/min/s",
        "sixty/min",
        "\uff16\uff10/min",
        "9" * 5000 + "/min",
        "1/" + "9" * 5000 + "s",
        "60/min\n60/s",
        "nan/min",
        "inf/s",
    ],
    ids=lambda text: text[:20],
)
def test_an_invalid_limit_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        RateLimit.parse(text)


@settings(max_examples=50)
@given(st.text(max_size=30) | st.from_regex(r"[0-9.]{0,12}/[0-9.]{0,12}(s|min|h)?", fullmatch=True))
def test_any_text_is_a_limit_or_a_configuration_error(text: str) -> None:
    try:
        limit = RateLimit.parse(text)
    except ConfigurationError:
        return
    assert limit.requests is not None
    assert limit.requests >= 1
    assert 0 < limit.per < math.inf


def test_several_limits_are_written_with_commas_and_that_nearest_to_a_minute_leads() -> None:
    limit = RateLimit.parse("1000/day, 60/min,2/s")
    assert limit == RateLimit(60, further=(RateLimit(2, 1.0), RateLimit(1000, 86_400.0)))
    assert limit.scaled(0.5).further == (RateLimit(2, 0.5), RateLimit(1000, 43_200.0))


@pytest.mark.parametrize(
    "further",
    [
        (RateLimit(5),),
        (RateLimit(None, 5.0),),
        (RateLimit(5, 1.0), RateLimit(6, 1.0)),
        (RateLimit(5, 1.0, policy="bucket"),),
        (RateLimit(5, 1.0, further=(RateLimit(9, 2.0),)),),
        [RateLimit(5, 1.0)],
    ],
)
def test_further_limits_that_cannot_be_meant_are_refused(further: Any) -> None:
    with pytest.raises(ConfigurationError):
        RateLimit(60, further=further)
