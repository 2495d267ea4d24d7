"""A slow transfer is not stalled; a silent or dripping one is."""

from __future__ import annotations

import pytest

from aistemsplitter_async._transfer.meter import Meter
from aistemsplitter_async.config import Timeouts

TIMEOUTS = Timeouts(stall=60.0, floor_bytes=1024.0)


def drip(meter: Meter, size: int, every: float, *, until: float) -> float | None:
    """Add `size` bytes every so many seconds and ask whenever asked to; return when the meter called it dead."""
    at = every
    while at <= until:
        while meter.deadline() <= at:
            asked = meter.deadline()
            if meter.is_stalled(now=asked):
                return asked
        meter.add(size, now=at)
        at += every
    return None


def test_silence_from_the_beginning_is_noticed_after_the_stall_time() -> None:
    meter = Meter(TIMEOUTS, now=100.0)
    assert meter.deadline() == 160.0
    assert not meter.is_stalled(now=159.9)
    assert meter.is_stalled(now=160.0)


def test_silence_after_a_burst_is_noticed_after_the_stall_time() -> None:
    meter = Meter(TIMEOUTS, now=0.0)
    meter.add(10_000_000, now=30.0)
    assert not meter.is_stalled(now=60.0)
    assert meter.deadline() == 90.0
    assert not meter.is_stalled(now=89.9)
    assert meter.is_stalled(now=90.0)


@pytest.mark.parametrize(
    ("size", "every", "dead_at"),
    [(1, 1.0, 60.0), (1023, 1.0, 60.0), (1, 0.01, 60.0), (30_000, 30.0, 60.0), (1100, 1.0, None), (61_500, 50.0, None)],
)
def test_a_drip_below_the_floor_dies_and_one_above_it_lives(size: int, every: float, dead_at: float | None) -> None:
    assert drip(Meter(TIMEOUTS, now=0.0), size, every, until=1000.0) == dead_at


def test_every_period_is_judged_by_itself() -> None:
    meter = Meter(TIMEOUTS, now=0.0)
    assert drip(meter, 10_000_000, 1.0, until=59.0) is None
    assert not meter.is_stalled(now=60.0)
    for second in range(61, 120):
        meter.add(1, now=float(second))
    assert meter.is_stalled(now=120.0), "an early burst does not pay for a later drip"


def test_when_every_byte_has_moved_only_the_answer_is_waited_for() -> None:
    meter = Meter(TIMEOUTS, now=0.0)
    meter.add(10, now=1.0)
    meter.finish(now=40.0)
    assert meter.deadline() == 100.0
    assert not meter.is_stalled(now=99.9), "ten bytes were all there was"
    assert meter.is_stalled(now=100.0)


def test_a_floor_of_zero_leaves_only_silence() -> None:
    assert drip(Meter(Timeouts(stall=60.0, floor_bytes=0.0), now=0.0), 1, 59.0, until=1000.0) is None


def test_nothing_is_stalled_because_nobody_could_look_until_it_had_a_moment_to_show() -> None:
    meter = Meter(TIMEOUTS, now=0.0)
    assert not meter.is_stalled(now=600.0), "the machine slept: what came meanwhile has not been read yet"
    assert meter.deadline() == 605.0
    assert meter.is_stalled(now=605.0)
