"""The credits of a run: what is spent and what is reserved never exceed the limit, whatever files and answers say."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Literal

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._audio.examine import Length
from aistemsplitter_async.batch import bounds
from aistemsplitter_async.batch.bounds import CreditBudget, charged
from aistemsplitter_async.batch.preflight import Price, charged_credits, plan_price
from aistemsplitter_async.errors import SpendLimitError

PlanPrice = Callable[[Length, float | None], Price | None]


@attrs.frozen
class Song:
    """A song as it is, as its file and its owner say it is, and what becomes of its create."""

    seconds: float
    length: Length
    claimed: float | None
    fate: Literal["answered", "refused", "lost", "answered late"]
    figure: float | None  # what the answer says instead of the price
    turns: int


@st.composite
def songs(draw: st.DrawFn) -> Song:
    """Draw a song. Files may lie in their headers and owners about files; who gives a URL's length tells the truth."""
    seconds = draw(st.floats(0.01, 40))
    bound = seconds + draw(st.floats(0, 60))
    silence = draw(st.floats(0, 0.1))
    length = draw(st.sampled_from([Length(seconds, seconds + silence), Length(None, bound), Length(None, None)]))
    anything = st.none() | st.floats(0.01, 100)
    return Song(
        seconds + (silence if length.seconds is not None and draw(st.booleans()) else 0.0),  # counted by some
        length,
        draw(anything if length.at_most is not None else st.none() | st.floats(seconds, 100)),
        draw(st.sampled_from(["answered", "answered", "answered", "refused", "lost", "answered late"])),
        draw(st.sampled_from([0.0, None, math.nan, -1.0, -math.inf, math.inf, -1e9])),
        draw(st.integers(0, 5)),
    )


async def spend(
    run: list[Song], most: float, plan: PlanPrice, *, truthful: bool
) -> tuple[float, float, list[SpendLimitError]]:
    """Create all songs at once; return the most that was used and reserved, what was charged, and the errors."""
    errors = list[SpendLimitError]()
    budget = CreditBudget(most, errors.append)
    ledger = highest = 0.0

    async def create(row: int, song: Song) -> None:
        nonlocal ledger, highest
        try:
            await budget.reserve(row, plan(song.length, song.claimed))
        except SpendLimitError as error:
            errors.append(error)
            return
        highest = max(highest, budget.used + budget.reserved)
        for _ in range(song.turns):
            await asyncio.sleep(0)
        cost = charged_credits(song.seconds)
        ledger += 0 if song.fate == "refused" else cost
        if song.fate != "answered":
            budget.settle(row, may_have_happened=song.fate != "refused")
        await asyncio.sleep(0)
        if song.fate.startswith("answered"):
            budget.charge(row, cost if truthful else song.figure)
        highest = max(highest, budget.used + budget.reserved)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for row, song in enumerate(run):
            group.create_task(create(row, song))
    return highest, ledger, errors


@given(st.lists(songs(), max_size=12), st.integers(0, 120), st.booleans())
def test_the_limit_holds_on_a_service_that_charges_by_duration(run: list[Song], most: int, truthful: bool) -> None:
    highest, ledger, errors = asyncio.run(spend(run, most, plan_price, truthful=truthful))
    assert highest <= most
    if truthful or all(song.figure != 0.0 for song in run):  # a service that charges and says it did not is believed
        assert ledger <= most
    assert not any(error.code == bounds.CHARGED_MORE for error in errors)


@pytest.mark.parametrize(
    "plan",
    [
        lambda _, claimed: None if claimed is None else Price(charged_credits(claimed)),
        lambda length, claimed: Price(charged_credits(length.seconds or claimed or 1.0)),
    ],
    ids=["whoever claims", "an unknown length costs little"],
)
def test_the_limit_would_not_hold_if_lengths_were_taken_on_trust(plan: PlanPrice) -> None:
    """The negative control."""
    song = Song(40.0, Length(None, 50.0), 1.0, "answered", None, 0)
    _, ledger, _ = asyncio.run(spend([song, song], 60, plan, truthful=True))
    assert ledger == 80
    assert asyncio.run(spend([song, song], 60, plan_price, truthful=True))[1] == 40


@pytest.mark.parametrize(
    ("figure", "reserved", "cost"),
    [
        (214.0, 214.0, 214.0),
        (0, 214.0, 0.0),
        (240, 3.0, 240.0),
        (None, 214.0, 214.0),
        (math.nan, 214.0, 214.0),
        (-5.0, 214.0, 214.0),
        (math.inf, 214.0, 214.0),
        (None, None, 0.0),
        (-1e9, None, 0.0),
    ],
)
def test_a_figure_that_is_none_costs_what_was_reserved(
    figure: float | None, reserved: float | None, cost: float
) -> None:
    assert charged(figure, reserved) == cost


@given(st.none() | st.floats(), st.none() | st.floats(0, 1000))
def test_no_figure_lowers_the_sum(figure: float | None, reserved: float | None) -> None:
    assert charged(figure, reserved) >= 0
    budget = CreditBudget(None, lambda _: None)
    budget.charge(1, 5.0)
    budget.correct(5.0, figure)
    assert budget.used >= 5.0


@pytest.mark.parametrize(
    ("length", "claimed", "price"),
    [
        (Length(180.5, 181.0), None, Price(181)),
        (Length(180.5, 181.0), 3.0, Price(181)),
        (Length(180.0, 180.05), None, Price(181)),
        (Length(180.5, 181.0), 200.0, Price(200)),
        (Length(None, 3600.0), None, Price(3600, is_certain=False)),
        (Length(None, 3600.0), 3.0, Price(3600, is_certain=False)),
        (Length(None, 3600.0), 4000.0, Price(4000, is_certain=False)),
        (Length(None, None), 3.5, Price(4)),
        (Length(None, None), None, None),
        (Length(0.0, 0.0), None, Price(1)),
    ],
)
def test_a_claim_counts_where_nothing_can_be_measured(
    length: Length, claimed: float | None, price: Price | None
) -> None:
    assert plan_price(length, claimed) == price


async def test_a_price_that_may_turn_out_to_fit_waits_and_those_after_it_do_too() -> None:
    budget = CreditBudget(100, lambda _: None)
    await budget.reserve(1, Price(90, is_certain=False))
    order = list[int]()

    async def reserve(row: int, price: Price) -> None:
        await budget.reserve(row, price)
        order.append(row)

    async with asyncio.TaskGroup() as group:
        group.create_task(reserve(2, Price(60)))
        group.create_task(reserve(3, Price(5)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == []
        budget.charge(1, 10)
    assert order == [2, 3]
    assert (budget.used, budget.reserved) == (10, 65)


async def test_a_price_that_cannot_fit_any_more_does_not_wait() -> None:
    budget = CreditBudget(100, lambda _: None)
    await budget.reserve(1, Price(60))
    budget.settle(1, may_have_happened=True)
    with pytest.raises(SpendLimitError) as dear:
        await budget.reserve(2, Price(50))
    with pytest.raises(SpendLimitError) as vague:
        await budget.reserve(3, Price(50, is_certain=False))
    with pytest.raises(SpendLimitError) as unknown:
        await budget.reserve(4, None)
    assert [each.value.code for each in (dear, vague, unknown)] == ["SPEND_LIMIT", "LENGTH_UNKNOWN", "LENGTH_UNKNOWN"]
    await budget.reserve(5, Price(40))


async def test_a_track_that_stops_waiting_gives_its_turn_to_the_next() -> None:
    budget = CreditBudget(100, lambda _: None)
    await budget.reserve(1, Price(90))
    first = asyncio.ensure_future(budget.reserve(2, Price(60)))
    second = asyncio.ensure_future(budget.reserve(3, Price(10)))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert budget.reserved == 100


@pytest.mark.parametrize(
    ("figures", "told"),
    [([30, 30], 0), ([31, 31], 0), ([35], 1), ([50, 50], 2), ([30, 30, 41], 1)],
    ids=["as expected", "rounded otherwise", "more", "much more", "over the limit"],
)
async def test_a_service_that_charges_more_is_counted_and_reported(figures: list[int], told: int) -> None:
    errors = list[SpendLimitError]()
    budget = CreditBudget(100, errors.append)
    for row, figure in enumerate(figures):
        await budget.reserve(row, Price(40 if figure == 41 else 30))
        budget.charge(row, figure)
    assert budget.used == sum(figures)
    assert len(errors) == told
    for error in errors:
        assert error.code == "CHARGED_MORE"
        assert "so the limit of 100 credits cannot be kept" in str(error)


@pytest.mark.parametrize("most", [None, math.inf])
async def test_without_a_limit_nothing_needs_a_price(most: float | None) -> None:
    budget = CreditBudget(most, lambda _: pytest.fail("nothing can be exceeded"))
    await budget.reserve(1, None)
    await budget.reserve(2, Price(10**9))
    assert budget.charge(2, 10**12) == 10**12
    assert (budget.reserved, budget.used) == (0, 10**12)
