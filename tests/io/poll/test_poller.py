"""Waiting for splits: polls are shared, paced and in lane order, and only what waiting cannot improve ends a wait."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, get_args

import pytest

from aistemsplitter_async._poll.poller import Poller
from aistemsplitter_async.config import PollPolicy, RateLimit
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    ProtocolError,
    ServerError,
    SplitFailedError,
    WaitTimeoutError,
)
from aistemsplitter_async.events import Event, PollMade, PollPlanned
from aistemsplitter_async.models import Split
from aistemsplitter_async.testing import Exchange, error_reply, json_reply
from aistemsplitter_async.webhooks import WebhookReceiver
from tests.io.fakes import API, World

EVEN = PollPolicy(jitter=0.0)


def status(code: int, **headers: str) -> Any:
    return error_reply(code, "CODE", headers={name.replace("_", "-"): text for name, text in headers.items()})


async def hang(_: Exchange) -> None:
    await asyncio.Event().wait()


async def test_any_number_of_waiters_share_the_polls_of_one_split(world: World) -> None:
    world.api.statuses["split_1"] = ["queued", "processing", "processing", "succeeded"]
    async with world.client(poll=EVEN) as client:
        splits = await asyncio.gather(*(client.wait_for_split("split_1") for _ in range(20)))
    assert world.api.count("get") == 4
    assert {split.status for split in splits} == {"succeeded"}


async def test_the_first_poll_of_a_fresh_split_comes_after_the_policys_first_wait(world: World) -> None:
    world.api.statuses["split_1"] = ["processing"] * 4 + ["succeeded"]
    async with world.client(poll=PollPolicy(first=20, shortest=3)) as client:
        await client.wait_for_split("split_1", since=world.clock.monotonic())
    first, *later = world.api.times("get")
    assert first == 20
    assert all(after - before >= 3 for before, after in pairwise([first, *later]))


async def test_a_split_of_unknown_age_is_polled_at_once(world: World) -> None:
    async with world.client(poll=PollPolicy(first=20)) as client:
        await client.wait_for_split("split_1")
    assert world.api.times("get") == [0]


async def test_a_split_whose_first_wait_is_over_is_polled_at_once(world: World) -> None:
    async with world.client(poll=PollPolicy(first=20)) as client:
        since = world.clock.monotonic()
        await world.clock.sleep(50)
        await client.wait_for_split("split_1", since=since)
    assert world.api.times("get") == [50]


PASSING = [
    lambda: APIConnectionError("reset"),
    lambda: hang,
    lambda: status(408),
    lambda: status(500),
    lambda: status(503, Retry_After="5"),
    lambda: status(429),
    lambda: status(429, Retry_After="600"),
]


@pytest.mark.parametrize("fault", PASSING)
async def test_a_fault_that_may_pass_never_ends_the_wait(world: World, fault: Any) -> None:
    world.api.script("get", *(fault() for _ in range(16)))
    async with world.client() as client:
        split = await client.wait_for_split("split_1", timeout=20_000)
    assert split.status == "succeeded"


async def test_a_retry_after_too_long_for_a_call_is_kept_by_a_wait(world: World) -> None:
    world.api.script("get", status(429, Retry_After="600"), status(503, Retry_After="700"))
    async with world.client() as client:
        await client.wait_for_split("split_1", timeout=20_000)
    first, second, third = world.api.times("get")
    assert (second - first, third - second) == (600, 700)


ENDING: list[tuple[Any, type[AIStemSplitterError]]] = [
    (lambda: status(401), AuthenticationError),
    (lambda: status(403), AuthenticationError),
    (lambda: status(404), APIStatusError),
    (lambda: json_reply({"id": 5}), ProtocolError),
    (lambda: APIConnectionError("certificate", permanent=True), APIConnectionError),
]


@pytest.mark.parametrize(("fault", "error"), ENDING)
async def test_an_answer_that_waiting_cannot_improve_ends_every_wait_on_the_split(
    world: World, fault: Any, error: type[AIStemSplitterError]
) -> None:
    world.api.always("get", lambda _: fault())
    async with world.client() as client:
        waits = [client.wait_for_split("split_1") for _ in range(3)]
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [error] * 3
    assert {getattr(outcome, "split_id", None) for outcome in outcomes} == {"split_1"}


async def test_after_a_failed_wait_a_new_one_starts_over(world: World) -> None:
    world.api.script("get", status(401))
    async with world.client() as client:
        with pytest.raises(AuthenticationError):
            await client.wait_for_split("split_1")
        assert (await client.wait_for_split("split_1")).status == "succeeded"


async def test_an_answer_about_another_split_is_a_protocol_error(world: World) -> None:
    world.api.always("get", lambda _: world.api.split("split_2", "succeeded"))
    async with world.client() as client:
        with pytest.raises(ProtocolError) as caught:
            await client.wait_for_split("split_1")
    assert caught.value.split_id == "split_1"


async def test_a_wait_that_runs_out_of_time_reports_the_last_state_it_saw(world: World) -> None:
    world.api.statuses["split_1"] = ["queued", "processing"]
    async with world.client() as client:
        with pytest.raises(WaitTimeoutError) as caught:
            await client.wait_for_split("split_1", timeout=100)
    assert world.elapsed() == 100
    assert caught.value.last is not None
    assert caught.value.last.status == "processing"
    assert caught.value.split_id == "split_1"


async def test_a_wait_without_a_single_answer_has_seen_nothing(world: World) -> None:
    world.api.always("get", hang)
    async with world.client() as client:
        with pytest.raises(WaitTimeoutError) as caught:
            await client.wait_for_split("split_1")
    assert world.elapsed() == 1800
    assert caught.value.last is None


async def test_a_wait_of_no_time_at_all_ends_at_once(world: World) -> None:
    async with world.client(poll=PollPolicy(first=5)) as client:
        with pytest.raises(WaitTimeoutError):
            await client.wait_for_split("split_1", timeout=0, since=world.clock.monotonic())
    assert world.api.asked == []


async def test_an_unknown_status_is_not_terminal(world: World) -> None:
    world.api.statuses["split_1"] = ["queued", "mastering", "mastering", "succeeded"]
    async with world.client() as client:
        assert (await client.wait_for_split("split_1")).status == "succeeded"
    assert world.api.count("get") == 4


@pytest.mark.parametrize("stems", [None, {}])
async def test_success_without_stems_is_waited_out_for_two_minutes_and_then_an_error(world: World, stems: Any) -> None:
    world.api.always("get", lambda _: world.api.split("split_1", "succeeded", stems=stems))
    async with world.client() as client:
        with pytest.raises(ProtocolError, match="no stems"):
            await client.wait_for_split("split_1")
    assert world.elapsed() == 120
    assert world.api.count("get") <= 10


async def test_stems_that_come_a_little_after_the_status_are_waited_for(world: World) -> None:
    world.api.script("get", *(world.api.split("split_1", "succeeded", stems={}) for _ in range(3)))
    async with world.client() as client:
        assert (await client.wait_for_split("split_1")).stems


async def test_a_failed_split_is_an_error_or_a_value_as_asked(world: World) -> None:
    world.api.statuses["split_1"] = ["failed"]
    async with world.client() as client:
        with pytest.raises(SplitFailedError) as caught:
            await client.wait_for_split("split_1")
        split = await client.wait_for_split("split_1", raise_on_failed=False)
    assert split.error is not None
    assert (caught.value.code, caught.value.split_id, split.error.code) == ("BAD_AUDIO", "split_1", "BAD_AUDIO")


async def test_updates_yield_each_observed_change_once_and_end_with_the_terminal_state(world: World) -> None:
    fixed = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z"}
    seen = ["queued", "queued", "processing", "processing", "processing", "succeeded"]
    world.api.script("get", *(world.api.split("split_1", state, **fixed) for state in seen))
    async with world.client() as client:
        yielded = [split.status async for split in client.updates("split_1")]
    assert yielded == ["queued", "processing", "succeeded"]


async def test_breaking_out_of_updates_stops_the_polling(world: World) -> None:
    world.api.always("get", lambda _: world.api.split("split_1", "processing"))
    async with world.client() as client:
        async for _ in client.updates("split_1"):
            break
        await world.clock.sleep(500)
        assert client._engine.poller._watches == {}
        assert world.api.count("get") == 1
        async for split in client.updates("split_1"):  # and again, as often as one likes
            assert split.status == "processing"
            break


async def test_a_cancelled_wait_leaves_no_watch_and_the_others_go_on(world: World) -> None:
    world.api.statuses["split_1"] = ["processing", "processing", "processing", "succeeded"]
    async with world.client() as client:
        one, other = (asyncio.create_task(client.wait_for_split("split_1")) for _ in range(2))
        await world.clock.settle()
        one.cancel()
        assert (await other).status == "succeeded"
        assert one.cancelled()
        assert client._engine.poller._watches == {}


async def test_closing_the_client_raises_in_every_waiter(world: World) -> None:
    world.api.always("get", hang)
    client = world.client()
    wait = asyncio.create_task(client.wait_for_split("split_1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await client.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await wait


async def test_an_iterator_begun_after_the_client_was_closed_sends_nothing(world: World) -> None:
    client = world.client()
    async with client:
        updates = client.updates("split_1")
    with pytest.raises(ConfigurationError, match="closed"):
        await anext(updates)
    assert world.api.asked == []


async def test_a_result_that_is_there_already_is_not_lost_by_closing(still: World) -> None:
    client = still.client()
    seen: list[Split] = []

    async def listen() -> None:
        async for split in client.updates("split_1"):
            seen.append(split)
            await still.clock.sleep(10)

    task = asyncio.create_task(listen())
    await still.clock.settle()
    await client.aclose()
    await still.clock.advance(10)
    await task
    assert [split.status for split in seen] == ["succeeded"]


@pytest.mark.parametrize("turns", range(6))
async def test_closing_while_a_poll_is_granted_loses_no_slot_of_a_shared_gate(still: World, turns: int) -> None:
    client = still.client(rate_limit=RateLimit(1))
    still.api.always("get", hang)
    wait = asyncio.create_task(client.wait_for_split("split_1"))
    for _ in range(turns):
        await asyncio.sleep(0)
    await client.aclose()
    wait.cancel()
    await still.clock.advance(61)
    assert client.gate.snapshot().used == 0


async def test_the_longest_overdue_split_is_polled_first(world: World) -> None:
    async with world.client(rate_limit=RateLimit(1, per=10.0), poll=EVEN) as client:
        await client.get_credits()
        now = world.clock.monotonic()
        waits = [client.wait_for_split(f"split_{n}", since=now - n) for n in (1, 2, 3)]
        await asyncio.gather(*waits)
        late = client.wait_for_split("split_late", since=world.clock.monotonic() + 3)
        later = client.wait_for_split("split_later", since=world.clock.monotonic() + 5)
        await asyncio.gather(later, late)
    order = [asked.exchange.request.url.rpartition("/")[2] for asked in world.api.of("get")]
    assert order == ["split_3", "split_2", "split_1", "split_late", "split_later"]


async def test_an_interactive_wait_does_not_queue_behind_overdue_bulk_ones(world: World) -> None:
    async with world.client(rate_limit=RateLimit(1, per=10.0)) as client:
        await client.get_credits()
        crowd = [asyncio.create_task(client.wait_for_split(f"bulk_{n}", priority="bulk")) for n in range(20)]
        await world.clock.sleep(5)
        await client.wait_for_split("urgent")
        assert world.api.count("get") == 1
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


async def test_an_interactive_waiter_pulls_a_bulk_wait_into_its_lane(world: World) -> None:
    async with world.client(rate_limit=RateLimit(1, per=10.0)) as client:
        await client.get_credits()
        crowd = [asyncio.create_task(client.wait_for_split(f"bulk_{n}", priority="bulk")) for n in range(20)]
        await world.clock.sleep(5)
        await client.wait_for_split("bulk_19")
        assert world.api.count("get") == 1
        for task in crowd[:19]:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


async def test_a_thousand_splits_are_waited_for_with_about_one_poll_each_when_done(world: World) -> None:
    async with world.client() as client:
        splits = await asyncio.gather(*(client.wait_for_split(f"split_{n}") for n in range(1000)))
    assert len(splits) == world.api.count("get") == 1000


async def test_an_id_that_cannot_be_one_is_refused_without_a_request(world: World) -> None:
    async with world.client() as client:
        for split_id in ("", ".."):
            with pytest.raises(ConfigurationError):
                await client.wait_for_split(split_id)
    assert world.api.asked == []


def polling(world: World) -> Poller:
    return Poller(world.pipeline(), "https://api.test/v1", EVEN)


async def first_terminal(poller: Poller, split_id: str, since: float, *, done: bool = False) -> Split:
    updates = poller.updates(
        split_id, priority="interactive", since=since, credits_used=180, expects_event=True, done=done
    )
    async for split in updates:
        if split.is_terminal:
            return split
    raise AssertionError("ended without an end")


async def test_a_split_is_polled_when_its_event_comes_and_not_before(still: World) -> None:
    poller = polling(still)
    wait = asyncio.create_task(first_terminal(poller, "split_1", still.clock.monotonic()))
    await still.clock.advance(50)
    assert still.api.asked == []
    poller.wake("split_1")
    assert (await wait).status == "succeeded"
    assert still.api.times("get") == [50]
    await poller.aclose()


async def test_a_split_whose_event_is_lost_is_found_all_the_same(world: World) -> None:
    poller = polling(world)
    world.api.statuses["split_1"] = ["processing", "succeeded"]
    await first_terminal(poller, "split_1", world.clock.monotonic())
    first, second = world.api.times("get")
    assert 60 < first < 240
    assert second >= 1.99 * first
    await poller.aclose()


async def test_a_wait_whose_event_is_lost_polls_once_before_its_deadline(world: World) -> None:
    receiver = WebhookReceiver("whsec_test", url="https://example.com/hooks", clock=world.clock)
    async with world.client(webhooks=receiver) as client:
        jobs = [await client.submit(f"https://example.com/{n}.mp3") for n in range(2)]
        world.api.statuses[jobs[1].id] = ["processing"] * 9
        found, given_up = await asyncio.gather(*(job.wait(timeout=20) for job in jobs), return_exceptions=True)
    assert isinstance(found, Split)
    assert found.status == "succeeded"
    assert isinstance(given_up, WaitTimeoutError)
    assert given_up.last is not None
    assert world.api.times("get") == [15, 15]


async def test_a_split_whose_event_came_before_the_wait_is_polled_at_once_and_then_as_any_other(world: World) -> None:
    poller, since = polling(world), world.clock.monotonic()
    world.api.statuses["split_1"] = ["processing", "succeeded"]  # the event was faster than the server's own database
    await first_terminal(poller, "split_1", since, done=True)
    first, second = world.api.times("get")
    assert first == 0
    assert second < 60  # there will not be a second event
    await poller.aclose()


async def test_an_event_of_a_split_without_waiters_is_ignored(world: World) -> None:
    async with world.client() as client:
        poller = client._engine.poller
        poller.wake("split_1")
        await client.wait_for_split("split_1")
        poller.wake("split_1")
    assert world.api.count("get") == 1


async def test_the_typical_time_is_known_after_the_first_split(world: World) -> None:
    async with world.client() as client:
        poller = client._engine.poller
        assert poller.typical() is None
        await client.wait_for_split("split_1", since=world.clock.monotonic())
        assert (poller.typical() or 0) > 0


async def test_every_poll_has_an_event_before_and_after(world: World) -> None:
    world.api.script("get", status(401))
    world.api.statuses["split_2"] = ["processing", "succeeded"]
    events = list[Event]()
    async with world.client(poll=EVEN, on_event=events.append) as client:
        with pytest.raises(APIStatusError):
            await client.wait_for_split("split_1")
        await client.wait_for_split("split_2", since=world.clock.monotonic())
    made = [(event.split_id, event.status) for event in events if isinstance(event, PollMade)]
    assert made == [("split_1", None), ("split_2", "processing"), ("split_2", "succeeded")]
    planned = [event for event in events if isinstance(event, PollPlanned)]
    assert [event.split_id for event in planned] == ["split_2"] * 2
    polled = [event.at for event in events if isinstance(event, PollMade) and event.split_id == "split_2"]
    assert [event.at + event.due_in for event in planned] == pytest.approx(polled)


async def test_without_a_listener_and_a_log_no_event_is_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an event was made without a callback")

    monkeypatch.setattr(logging.getLogger("aistemsplitter_async"), "propagate", False)  # nobody reads the log either
    for kind in get_args(Event):
        monkeypatch.setattr(kind, "__init__", refuse)
    world.api.script("get", status(429, X_RateLimit_Limit="5"))
    world.api.statuses["split_1"] = ["processing", "succeeded"]
    async with world.client(on_event=None) as client:
        assert (await client.wait_for_split("split_1")).status == "succeeded"


@pytest.mark.parametrize("skew", [0, -86_400, 86_400])
async def test_a_split_that_is_taken_over_is_as_old_as_it_says_but_not_older_than_splits_become(
    world: World, skew: float
) -> None:
    """Created 55 s before the first poll; the clock of the server may be wrong by a day."""
    created = datetime.fromtimestamp(world.clock.now() - 55 + skew, UTC).isoformat()
    done_at = world.clock.monotonic() + 5

    def answer(_: Exchange) -> Any:
        state = "succeeded" if world.clock.monotonic() >= done_at else "processing"
        return world.api.split("split_1", state, createdAt=created, updatedAt=created)

    world.api.always("get", answer)
    async with world.client(poll=EVEN) as client:
        await client.wait_for_split("split_1")
    assert world.elapsed() <= (10 if skew <= 0 else 60)


async def last_of(poller: Poller, split_id: str) -> Split:
    return [split async for split in poller.updates(split_id, priority="bulk", of_many=True)][-1]


@pytest.mark.parametrize("wrong", [status(500), status(503), APIConnectionError("reset")])
async def test_one_of_many_whose_polls_alone_fail_is_given_up_in_minutes(world: World, wrong: Any) -> None:
    """Nobody else is polled meanwhile, so one that was answered before is asked about again, a few times."""
    poller = Poller(world.pipeline(), API, EVEN)
    await last_of(poller, "split_1")
    world.api.always("get", lambda ask: wrong if ask.request.url.endswith("split_2") else None)
    with pytest.raises(type(wrong) if isinstance(wrong, APIConnectionError) else ServerError):
        await last_of(poller, "split_2")
    assert 300 <= world.elapsed() < 500
    assert sum(ask.exchange.request.url.endswith("split_1") for ask in world.api.of("get")) == 1 + 3
    await poller.aclose()


async def test_polls_that_fail_for_all_of_many_end_no_wait(world: World) -> None:
    poller = Poller(world.pipeline(), API, EVEN)
    await last_of(poller, "split_1")
    world.api.always("get", lambda _: status(500) if world.elapsed() < 1200 else None)
    ends = await asyncio.gather(*(last_of(poller, f"split_{number}") for number in range(2, 6)))
    assert all(split.is_terminal for split in ends)
    assert world.elapsed() < 1240
    asked = [ask for ask in world.api.of("get") if ask.exchange.request.url.endswith("split_1")]
    assert len(asked) <= 1 + 1200 / 30
    await poller.aclose()


async def test_a_wait_of_one_caller_is_not_ended_by_that(world: World) -> None:
    world.api.always("get", lambda ask: status(500) if ask.request.url.endswith("split_2") else None)
    async with world.client() as client:
        await client.wait_for_split("split_1")
        with pytest.raises(WaitTimeoutError):
            await client.wait_for_split("split_2")
