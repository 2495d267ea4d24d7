"""Sleep is told from the machine's clocks, on systems whose timers stand still meanwhile and on others."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._sleep import Readings, has_slept
from aistemsplitter_async.config import ASLEEP

START = Readings(timers=100.0, awake_or_not=5000.0, wall=1.7e9)
TIMES = st.floats(min_value=0.0, max_value=1e6)


def later(*, timers: float = 0.0, awake_or_not: float = 0.0, wall: float = 0.0) -> Readings:
    return Readings(START.timers + timers, START.awake_or_not + awake_or_not, START.wall + wall)


@pytest.mark.parametrize(
    ("now", "slept"),
    [
        (later(), False),
        (later(timers=60.0, awake_or_not=60.0, wall=60.0), False),
        (later(timers=2.0, awake_or_not=3602.0, wall=3602.0), True),  # Linux, macOS
        (later(timers=3602.0, awake_or_not=3602.0, wall=3602.0), False),  # Windows: its own timers have closed them
        (later(timers=2.0, awake_or_not=2.0, wall=3602.0), True),  # a virtual machine suspended from outside
        (later(timers=2.0, awake_or_not=3602.0, wall=2.0), True),  # its wall clock is wrong until it asks somebody
        (later(timers=2.0, awake_or_not=2.0, wall=-3600.0), False),  # put back
        (later(timers=2.0, awake_or_not=3602.0, wall=-3600.0), True),  # put back, after sleep
        (later(timers=1.0, awake_or_not=1.0, wall=1.0 + ASLEEP / 2), False),  # adjusted
    ],
)
def test_sleep_is_what_timers_did_not_count(now: Readings, *, slept: bool) -> None:
    assert has_slept(START, now) is slept


@given(awake=TIMES, asleep=TIMES)
def test_a_long_sleep_is_never_missed_and_a_machine_that_is_awake_never_asleep(awake: float, asleep: float) -> None:
    now = later(timers=awake, awake_or_not=awake + asleep, wall=awake + asleep)
    assert has_slept(START, now) or asleep <= ASLEEP + 1e-3
    assert not has_slept(START, attrs.evolve(now, awake_or_not=START.awake_or_not + awake, wall=START.wall + awake))
