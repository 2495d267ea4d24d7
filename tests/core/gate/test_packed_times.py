"""Times that are kept packed, beside a list that keeps them as they are."""

from __future__ import annotations

import json
import math
from bisect import bisect_right

from hypothesis import given, strategies as st

from aistemsplitter_async._gate.packed_times import PackedTimes

GRAIN = 2.0**-8
grains = st.integers(0, 200_000)
acts = st.lists(st.tuples(st.sampled_from(["put", "take", "move", "store", "last"]), grains), max_size=40)


@given(acts)
def test_they_are_what_a_list_would_have_after_any_changes_and_trips_through_json(todo: list[tuple[str, int]]) -> None:
    packed, plain = PackedTimes((), GRAIN), list[float]()
    for what, number in todo:
        at = number * GRAIN
        if what == "put":
            packed.insert(bisect_right(packed, at), at)
            plain.insert(bisect_right(plain, at), at)
        elif what == "last":  # out of order for a moment, as when a reply is heard of late
            packed.append(at)
            assert packed.pop() == at
        elif what == "take" and plain:
            assert packed.popleft() == plain.pop(0)
        elif what == "store":
            packed = PackedTimes.load(json.loads(json.dumps(packed.dump())), GRAIN)
        assert list(packed) == plain
        assert len(packed) == len(plain)
    packed.shift(0.3)
    assert all(math.isclose(shifted, at + 0.3) for shifted, at in zip(packed, plain, strict=True))


@given(st.floats(1.0, 1e6))
def test_a_time_is_rounded_up_never_down(at: float) -> None:
    assert 0 <= PackedTimes((at,), GRAIN)[0] - at < GRAIN
