"""The loop that retries: every row of the fault table end to end, with its times, and what a create leaves open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._gate.slot import Slot
from aistemsplitter_async._send import retry as retry_rules
from aistemsplitter_async._send.attempt import Call
from aistemsplitter_async._send.create import Create
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._send.retry import Ambiguity
from aistemsplitter_async._wire import operations
from aistemsplitter_async._wire.messages import Reply, Stage
from aistemsplitter_async._wire.operations import Operation
from aistemsplitter_async.config import RateLimit, RetryPolicy, Timeouts
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    InsufficientCreditsError,
    JournalError,
    ProtocolError,
    RateLimitedError,
    ServerError,
    SubmissionUncertainError,
    ValidationError,
)
from aistemsplitter_async.events import GateClosed, GateOpened, LimitLearned, RequestSent, RetryPlanned, Throttled
from aistemsplitter_async.models import CreatedSplit, Submission
from aistemsplitter_async.testing import Exchange, error_reply, json_reply
from tests.io.fakes import Script, World

API = "https://api.test/v1"
SUBMISSION = Submission("key-1", b'{"input":{"type":"direct_url","url":"https://example.com/a.wav"}}')

OPERATIONS: dict[str, Operation[Any]] = {
    "credits": operations.get_credits(API),
    "reserve": operations.create_upload(API, filename="a.wav", content_type="audio/wav", content_length=9),
    "create": operations.create_split(API, SUBMISSION),
    "get": operations.get_split(API, "split_1"),
}


async def send(pipeline: Pipeline, operation: Operation[Any], **options: Any) -> Any:
    """Send any operation the way the client does."""
    if operation.stage is Stage.CREATE:
        return await Create(pipeline, operation, SUBMISSION, **options).run()
    return await pipeline.send(operation, **options)


def answer(status: int, body: bytes | None = None, /, **headers: str) -> Any:
    reply = error_reply(
        status, "CODE", "words", headers={name.replace("_", "-"): text for name, text in headers.items()}
    )
    return reply if body is None else type(reply)(status=status, headers=reply.headers, body=body)


def broken() -> APIConnectionError:
    return APIConnectionError("reset")


def refused() -> APIConnectionError:
    return APIConnectionError("refused", may_have_arrived=False)


def bad_certificate() -> APIConnectionError:
    return APIConnectionError("certificate", may_have_arrived=False, permanent=True)


async def hang(_: Exchange) -> None:
    await asyncio.Event().wait()


Fault = Callable[[], Any]
UNCERTAIN = SubmissionUncertainError
FAULTS: list[tuple[str, Fault, dict[str, tuple[int, type[AIStemSplitterError]]]]] = [
    ("reset", broken, {"*": (4, APIConnectionError), "create": (5, UNCERTAIN)}),
    ("refused", refused, {"*": (4, APIConnectionError), "create": (5, APIConnectionError)}),
    ("certificate", bad_certificate, {"*": (1, APIConnectionError), "create": (1, APIConnectionError)}),
    ("no answer", lambda: hang, {"*": (4, APITimeoutError), "create": (5, UNCERTAIN)}),
    ("408", lambda: answer(408), {"*": (4, APIStatusError), "create": (5, UNCERTAIN)}),
    ("409", lambda: answer(409), {"*": (2, APIStatusError)}),
    ("423", lambda: answer(423), {"*": (2, APIStatusError)}),
    ("500", lambda: answer(500), {"*": (4, ServerError), "create": (5, UNCERTAIN)}),
    ("502 page", lambda: answer(502, b"<html><title>Bad gateway"), {"*": (4, ServerError), "create": (5, UNCERTAIN)}),
    ("503", lambda: answer(503), {"*": (4, ServerError), "create": (5, UNCERTAIN)}),
    ("504", lambda: answer(504), {"*": (4, ServerError), "create": (5, UNCERTAIN)}),
    ("401", lambda: answer(401), {"*": (1, AuthenticationError), "create": (1, AuthenticationError)}),
    ("403", lambda: answer(403), {"*": (1, AuthenticationError), "create": (1, AuthenticationError)}),
    ("402", lambda: answer(402), {"*": (1, InsufficientCreditsError), "create": (1, InsufficientCreditsError)}),
    ("422", lambda: answer(422), {"*": (1, ValidationError), "create": (1, ValidationError)}),
    ("404", lambda: answer(404), {"*": (1, APIStatusError), "create": (1, APIStatusError)}),
    (
        "302",
        lambda: answer(302, location=API),
        {"*": (7, APIStatusError), "get": (4, APIStatusError), "create": (10, UNCERTAIN)},
    ),
    ("308", lambda: answer(308, location=API), {"*": (1, APIStatusError), "create": (1, UNCERTAIN)}),
    (
        "403 page",
        lambda: answer(403, b"<html>"),
        {"*": (7, AuthenticationError), "get": (4, AuthenticationError), "create": (10, UNCERTAIN)},
    ),
    (
        "404 of a gateway's JSON",
        lambda: answer(404, b'{"timestamp": 1, "status": 404, "error": "Not Found", "path": "/v1"}'),
        {"*": (7, APIStatusError), "get": (4, APIStatusError), "create": (10, UNCERTAIN)},
    ),
    (
        "402 page",
        lambda: answer(402, b"<html>"),
        {"*": (1, InsufficientCreditsError), "create": (1, InsufficientCreditsError)},
    ),
    (
        "garbage",
        lambda: answer(200, b"\xff{"),
        {"*": (7, ProtocolError), "get": (4, ProtocolError), "create": (10, UNCERTAIN)},
    ),
    (
        "deep",
        lambda: answer(200, b"[" * 200_000),
        {"*": (7, ProtocolError), "get": (4, ProtocolError), "create": (10, UNCERTAIN)},
    ),
    (
        "wrong type",
        lambda: json_reply({"id": 5, "balance": "much"}),
        {"*": (7, ProtocolError), "get": (4, ProtocolError), "create": (10, UNCERTAIN)},
    ),
    (
        "cut off",
        lambda: Reply(status=200, body=b'{"success": true, "data": {"id": "split_1"', cut=True),
        {"*": (4, APIConnectionError), "create": (5, UNCERTAIN)},
    ),
    (
        "422 in a 200",
        lambda: error_reply(200, "VALIDATION_ERROR"),
        {"*": (1, ValidationError), "create": (1, ValidationError)},
    ),
    ("500 in a 200", lambda: error_reply(200, "SERVER_ERROR"), {"*": (4, ServerError), "create": (5, UNCERTAIN)}),
    (
        "429 in a 200",
        lambda: error_reply(200, "RATE_LIMITED"),
        {"*": (7, RateLimitedError), "create": (7, RateLimitedError)},
    ),
    ("429", lambda: answer(429), {"*": (7, RateLimitedError), "create": (7, RateLimitedError)}),
    ("429 long", lambda: answer(429, Retry_After="121"), {"*": (1, RateLimitedError), "create": (1, RateLimitedError)}),
]
ROWS = [
    pytest.param(what, fault, *(expected.get(what) or expected["*"]), id=f"{name}-{what}")
    for name, fault, expected in FAULTS
    for what in OPERATIONS
    if what in expected or what != "create"
]


@pytest.mark.parametrize(("what", "fault", "attempts", "error"), ROWS)
async def test_a_fault_that_stays_is_tried_as_often_as_the_table_says_and_ends_in_its_error(
    world: World, what: str, fault: Fault, attempts: int, error: type[AIStemSplitterError]
) -> None:
    world.api.always(what, lambda _: fault())
    gate = Gate(RateLimit(50), clock=world.clock)
    with pytest.raises(AIStemSplitterError) as caught:
        await send(world.pipeline(gate=gate), OPERATIONS[what])
    assert type(caught.value) is error
    assert world.api.count(what) == attempts
    assert len(world.of(RequestSent)) == attempts
    if isinstance(caught.value, SubmissionUncertainError):
        assert caught.value.submission == SUBMISSION
        assert caught.value.idempotency_key == "key-1"
    assert {(asked.body, asked.headers.get("Idempotency-Key")) for asked in world.api.of(what)} == {
        (world.api.of(what)[0].body, "key-1" if what == "create" else None)
    }
    await world.clock.advance(60)
    assert gate.snapshot().used == 0


@pytest.mark.parametrize("what", OPERATIONS)
@pytest.mark.parametrize(
    "fault", [broken, refused, lambda: hang, lambda: answer(408), lambda: answer(503), lambda: answer(429)]
)
async def test_a_fault_that_passes_is_not_seen_by_the_caller(world: World, what: str, fault: Fault) -> None:
    world.api.script(what, fault())
    await send(world.pipeline(), OPERATIONS[what])
    assert world.api.count(what) == 2


@pytest.mark.parametrize(("what", "times"), [("get", [0, 0.25, 0.75, 1.75]), ("create", [0, 0.25, 0.75, 1.75, 3.75])])
async def test_the_delays_are_the_jittered_doubling_ones(world: World, what: str, times: list[float]) -> None:
    world.api.always(what, lambda _: broken())
    with pytest.raises(AIStemSplitterError):
        await send(world.pipeline(), OPERATIONS[what])
    assert world.api.times(what) == times
    assert [event.delay for event in world.of(RetryPlanned)] == [b - a for a, b in pairwise(times)]


async def test_a_server_errors_retry_after_is_honoured(world: World) -> None:
    world.api.script("get", answer(503, Retry_After="20"))
    await send(world.pipeline(random=lambda: 0.0), OPERATIONS["get"])
    assert world.api.times("get") == [0, 20]


async def test_a_conflict_on_a_create_is_replayed_for_a_minute_from_the_first_one(world: World) -> None:
    world.api.always("create", lambda _: answer(409))
    gate = Gate(clock=world.clock)
    # The time spent in the queue is not part of that minute.
    gate.restore({"version": 1, "at": world.clock.now(), "per": 60.0, "closed_for": 100.0})
    with pytest.raises(SubmissionUncertainError):
        await send(world.pipeline(gate=gate), OPERATIONS["create"])
    times = world.api.times("create")
    assert times[0] == 100
    assert 160 <= times[-1] <= 170
    assert len({asked.body for asked in world.api.of("create")}) == 1


# --- rule zero


REFUSALS: list[tuple[int, type[AIStemSplitterError]]] = [
    (401, AuthenticationError),
    (402, InsufficientCreditsError),
    (403, AuthenticationError),
    (404, APIStatusError),
    (422, ValidationError),
]


@pytest.mark.parametrize(("status", "error"), REFUSALS)
async def test_a_refusal_of_the_first_attempt_is_definite(
    world: World, status: int, error: type[AIStemSplitterError]
) -> None:
    world.api.script("create", answer(status))
    with pytest.raises(error):
        await send(world.pipeline(), OPERATIONS["create"])


@pytest.mark.parametrize("first", [broken, lambda: hang, lambda: answer(500), lambda: answer(200, b"<html>")])
@pytest.mark.parametrize("status", [401, 402, 403, 404, 422, 429])
async def test_after_an_ambiguous_attempt_a_refusal_proves_nothing(world: World, first: Fault, status: int) -> None:
    world.api.script("create", first(), answer(status, **({"Retry_After": "999"} if status == 429 else {})))
    with pytest.raises(SubmissionUncertainError) as caught:
        await send(world.pipeline(), OPERATIONS["create"])
    assert caught.value.submission == SUBMISSION
    assert caught.value.status_code == status
    assert world.api.count("create") == 2


async def test_the_check_above_would_notice_a_client_that_believes_the_refusal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(retry_rules, "is_ambiguous", lambda _: False)
    world.api.script("create", broken(), answer(402))
    with pytest.raises(InsufficientCreditsError):
        await send(world.pipeline(), OPERATIONS["create"])


async def test_a_refused_connection_before_a_refusal_leaves_no_ambiguity(world: World) -> None:
    world.api.script("create", refused(), answer(402))
    with pytest.raises(InsufficientCreditsError):
        await send(world.pipeline(), OPERATIONS["create"])


async def test_ambiguity_stays_through_connections_that_are_refused_later(world: World) -> None:
    world.api.script("create", broken(), *(refused() for _ in range(4)))
    with pytest.raises(SubmissionUncertainError):
        await send(world.pipeline(), OPERATIONS["create"])


@pytest.mark.parametrize("fault", [lambda: answer(401), lambda: answer(422), refused, bad_certificate])
async def test_a_replay_starts_as_ambiguous(world: World, fault: Fault) -> None:
    world.api.always("create", lambda _: fault())
    with pytest.raises(SubmissionUncertainError):
        await send(world.pipeline(), OPERATIONS["create"], ambiguity=Ambiguity(open=True))


async def test_a_2xx_clears_the_ambiguity(world: World) -> None:
    world.api.script("create", broken(), answer(500))
    created: CreatedSplit = await send(world.pipeline(), OPERATIONS["create"], ambiguity=Ambiguity(open=True))
    assert created.id == "split_1"


async def test_an_empty_quota_gives_up_without_losing_the_ambiguity(world: World) -> None:
    world.api.script("create", broken())
    with pytest.raises(SubmissionUncertainError):
        await send(world.pipeline(retry=RetryPolicy(quota=1.0)), OPERATIONS["create"])
    assert world.api.count("create") == 1


# --- ranks


async def test_a_single_get_split_waits_behind_reservations_and_creates_as_any_poll_does(world: World) -> None:
    pipeline = world.pipeline(limit=RateLimit(1))
    (await pipeline.gate.admit()).settle()
    calls = [asyncio.create_task(send(pipeline, OPERATIONS[what])) for what in ("get", "credits", "reserve", "create")]
    await asyncio.gather(*calls)
    assert [asked.what for asked in world.api.asked] == ["create", "credits", "reserve", "get"]


# --- the hook


async def test_the_hook_runs_after_admission_and_before_anything_is_sent(world: World) -> None:
    gate = Gate(RateLimit(1, per=60.0), clock=world.clock)
    (await gate.admit()).settle()
    seen: list[tuple[float, int, int]] = []

    async def hook(_: Submission) -> None:
        seen.append((world.elapsed(), gate.snapshot().used, world.api.count("create")))

    world.api.script("create", broken())
    await send(world.pipeline(gate=gate), OPERATIONS["create"], before_send=hook)
    assert seen == [(60.0, 1, 0), (120.0, 1, 1)]


@pytest.mark.parametrize("error", [ValueError("mine"), JournalError("full"), broken(), TimeoutError("mine")])
async def test_if_the_hook_raises_nothing_is_sent_and_the_slot_is_back_at_once(world: World, error: Exception) -> None:
    gate = Gate(RateLimit(1, per=60.0), clock=world.clock)
    calls = 0

    async def hook(_: Submission) -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)) as caught:
        await send(world.pipeline(gate=gate), OPERATIONS["create"], before_send=hook)
    assert caught.value is error
    assert calls == 1
    assert world.api.asked == []
    assert gate.snapshot().used == 0


async def test_a_hook_that_fails_before_a_replay_leaves_the_first_attempt_ambiguous(world: World) -> None:
    world.api.script("create", broken())
    calls = 0

    async def hook(_: Submission) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise JournalError("full")

    with pytest.raises(SubmissionUncertainError) as caught:
        await send(world.pipeline(), OPERATIONS["create"], before_send=hook)
    assert isinstance(caught.value.__cause__, JournalError)


@pytest.mark.parametrize("error", [ValueError("mine"), JournalError("full"), broken()])
async def test_if_noting_the_reply_fails_the_create_is_not_sent_again(world: World, error: Exception) -> None:
    async def note(_: object) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await send(world.pipeline(), OPERATIONS["create"], on_created=note)
    assert caught.value is error
    assert world.api.count("create") == 1


async def test_a_granted_slot_is_used_for_the_first_attempt_and_no_other(world: World) -> None:
    gate = Gate(RateLimit(2, per=60.0), clock=world.clock)
    slot = await gate.admit()
    (await gate.admit()).settle()
    world.api.script("get", broken())
    await send(world.pipeline(gate=gate), OPERATIONS["get"], slot=slot)
    assert world.api.times("get") == [0, 60]


# --- 429


async def test_a_429_closes_the_gate_for_everyone_and_no_request_is_sent_inside_retry_after(world: World) -> None:
    gate = Gate(clock=world.clock, on_event=world.events.append)
    pipeline = world.pipeline(gate=gate, random=lambda: 0.0)
    refusals = iter([answer(429, Retry_After="17")])

    async def slow(_: Exchange) -> Any:
        await world.clock.sleep(0.5)
        return next(refusals, None)

    world.api.always("credits", slow)

    async def call(delay: float) -> None:
        await world.clock.sleep(delay)
        await send(pipeline, OPERATIONS["credits"])

    await asyncio.gather(*(call(n * 0.1) for n in range(50)))
    refused_at = 0.5
    assert world.api.count("credits") == 51
    assert [at for at in world.api.times("credits") if refused_at < at < refused_at + 17] == []
    assert [event.duration for event in world.of(GateClosed)][:1] == [17]
    assert [event.at - 1000 for event in world.of(GateOpened)] == [17.5]
    assert [event.retry_after for event in world.of(Throttled)] == [17]


async def test_the_check_above_would_notice_a_gate_that_does_not_close(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(Gate, "_refuse", lambda gate, taken_at, _: gate._settle(taken_at))
    pipeline = world.pipeline()
    world.api.script("credits", answer(429, Retry_After="17"))
    await send(pipeline, OPERATIONS["credits"])
    assert world.api.times("credits")[1] < 17


def steady(luck: float) -> Callable[[], float]:
    return lambda: luck


async def test_retry_after_is_never_shortened_and_at_most_a_tenth_longer(world: World) -> None:
    for luck in (0.0, 0.999999):
        world.api.asked.clear()
        world.api.script("get", answer(429, Retry_After="100"))
        await send(world.pipeline(random=steady(luck)), OPERATIONS["get"])
        first, second = world.api.times("get")
        assert 100 <= second - first <= 110


async def test_retry_after_dates_are_measured_against_the_replys_own_date(world: World) -> None:
    dates = {"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Retry_After": "Wed, 21 Oct 2015 07:28:30 GMT"}
    world.api.script("get", answer(429, **dates))
    await send(world.pipeline(random=lambda: 0.0), OPERATIONS["get"])
    assert world.api.times("get") == [0, 30]


@pytest.mark.parametrize("useless", ["", "soon", "-5", "0", "Wed, 21 Oct 2015 07:28:00 GMT"])
async def test_a_429_without_a_usable_retry_after_waits_for_a_slot_of_the_believed_window(
    world: World, useless: str
) -> None:
    gate = Gate(RateLimit(2, per=60.0), clock=world.clock)
    pipeline = world.pipeline(gate=gate)
    await send(pipeline, OPERATIONS["credits"])
    await world.clock.sleep(10)
    world.api.script("credits", answer(429, Retry_After=useless))
    await send(pipeline, OPERATIONS["credits"])
    # Refused inside its limit, the server does not count in windows: one of two a minute, evenly and with a margin.
    assert world.api.times("credits") == [0, 10, pytest.approx(10 + 60 / 2 / 0.98)]


async def test_a_429_without_a_believed_window_waits_the_throttle_backoff(world: World) -> None:
    world.api.script("get", answer(429), answer(429))
    await send(world.pipeline(random=lambda: 0.0), OPERATIONS["get"])
    assert world.api.times("get") == [0, 2, 6]


async def test_throttles_are_counted_apart_from_failures(world: World) -> None:
    world.api.script("get", broken(), answer(429), broken(), answer(429), broken(), answer(429))
    await send(world.pipeline(), OPERATIONS["get"])
    assert world.api.count("get") == 7


async def test_throttle_waits_end_with_their_budget(world: World) -> None:
    world.api.always("get", lambda _: answer(429, Retry_After="100"))
    with pytest.raises(RateLimitedError) as caught:
        await send(world.pipeline(random=lambda: 0.0), OPERATIONS["get"])
    assert world.api.times("get") == [0, 100, 200, 300]
    assert caught.value.retry_after == 100


async def test_a_call_that_gives_up_on_a_429_still_holds_back_the_others(world: World) -> None:
    pipeline = world.pipeline(retry=RetryPolicy(throttle_waits=0), random=lambda: 0.0)
    world.api.script("get", answer(429, Retry_After="30"))
    with pytest.raises(RateLimitedError):
        await send(pipeline, OPERATIONS["get"])
    await send(pipeline, OPERATIONS["credits"])
    assert world.api.times("credits") == [30]


async def test_clients_that_share_a_gate_share_the_429(world: World) -> None:
    gate = Gate(clock=world.clock)
    one, other = world.pipeline(gate=gate, random=lambda: 0.0), world.pipeline(gate=gate)
    world.api.script("get", answer(429, Retry_After="30"))
    first = asyncio.create_task(send(one, OPERATIONS["get"]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await send(other, OPERATIONS["credits"])
    await first
    assert world.api.times("credits") == [30]


async def test_while_the_server_asks_for_a_longer_wait_than_is_made_no_call_sends_anything(world: World) -> None:
    gate = Gate(clock=world.clock)
    pipeline = world.pipeline(gate=gate)
    world.api.script("get", answer(429, Retry_After="600"))
    first = asyncio.create_task(send(pipeline, OPERATIONS["get"]))
    waiting = [asyncio.create_task(send(pipeline, OPERATIONS["credits"])) for _ in range(5)]
    outcomes = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert isinstance(outcomes[0], RateLimitedError)
    sent = len(world.api.asked)
    for passed in (100, 379):
        await world.clock.sleep(passed)
        for what in ("credits", "create"):
            with pytest.raises(RateLimitedError) as caught:
                await send(pipeline, OPERATIONS[what])
            assert caught.value.retry_after == pytest.approx(600 - world.elapsed())
    assert len(world.api.asked) == sent
    await world.clock.sleep(2)  # what is left now is not longer than a call may wait
    await send(pipeline, OPERATIONS["credits"])
    assert world.elapsed() == 600


async def test_a_call_that_waits_at_the_gate_fails_when_the_wait_becomes_too_long(world: World) -> None:
    gate = Gate(RateLimit(1, per=60.0), clock=world.clock)
    pipeline = world.pipeline(gate=gate)
    world.api.script("get", answer(429, Retry_After="600"))
    calls = (send(pipeline, OPERATIONS[what]) for what in ("get", "credits", "reserve", "create"))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RateLimitedError] * 4
    assert world.elapsed() == 0
    assert len(world.api.asked) == 1
    assert gate.snapshot().waiting == {"interactive": 0, "bulk": 0}


async def test_a_throttle_of_very_many_calls_is_survived_by_all_of_them(world: World) -> None:
    world.api.script("get", *(answer(429, Retry_After="9") for _ in range(3)))
    pipeline = world.pipeline(retry=RetryPolicy(quota=15.0, refill=0.0, throttle_waits=300))
    await asyncio.gather(*(send(pipeline, OPERATIONS["get"]) for _ in range(300)))
    assert world.api.count("get") == 303


@pytest.mark.parametrize("status", [200, 429, 500])
async def test_a_limit_named_in_the_headers_of_any_reply_is_believed(world: World, status: int) -> None:
    named = {"RateLimit-Policy": '"default";q=7;w=30', "RateLimit": '"default";r=6;t=30'}
    gate = Gate(clock=world.clock, on_event=world.events.append)
    reply = json_reply({"balance": 1, "unit": "seconds"}, headers=named) if status == 200 else None
    world.api.script("credits", reply or error_reply(status, "CODE", headers=named))
    await send(world.pipeline(gate=gate), OPERATIONS["credits"])
    assert gate.snapshot().limit == 7
    assert gate.budget().per == 30
    assert [(event.old, event.new) for event in world.of(LimitLearned)] == [(None, 7)]


async def test_headers_that_make_no_sense_break_no_reply(world: World) -> None:
    gate = Gate(clock=world.clock)
    world.api.script("get", answer(500, RateLimit=";;;=", RateLimit_Policy='"', X_RateLimit_Limit="9" * 9999))
    await send(world.pipeline(gate=gate), OPERATIONS["get"])
    assert gate.snapshot().limit is None


# --- hosts outside the API


async def run_upload(pipeline: Pipeline, once: Callable[[], Awaitable[int]], url: str) -> int:
    return await pipeline.run(Call("upload", Stage.UPLOAD), once, url=url)


def throttled(seconds: float) -> RateLimitedError:
    return RateLimitedError("slow down", status_code=429, retry_after=seconds)


async def test_a_429_of_a_host_pauses_that_host_for_every_call_and_no_other(world: World) -> None:
    pipeline = world.pipeline(random=lambda: 0.0)
    sent: list[tuple[str, float]] = []

    def upload(name: str, *faults: RateLimitedError) -> Callable[[], Awaitable[int]]:
        pending = list(faults)

        async def once() -> int:
            sent.append((name, world.elapsed()))
            await world.clock.sleep(1)
            if pending:
                raise pending.pop(0)
            return 1

        return once

    async def later(delay: float, once: Callable[[], Awaitable[int]], url: str) -> None:
        await world.clock.sleep(delay)
        await run_upload(pipeline, once, url)

    await asyncio.gather(
        later(0, upload("a", throttled(10)), "https://one.test/x"),  # paused until 11
        later(10.5, upload("b"), "https://one.test/y"),
        later(5, upload("c"), "https://two.test/z"),
    )
    assert sent == [("a", 0), ("c", 5), ("a", 11), ("b", 11)]


async def test_a_pause_that_is_extended_while_a_call_waits_for_it_is_kept(world: World) -> None:
    pipeline = world.pipeline(random=lambda: 0.0)
    sent: list[tuple[str, float]] = []

    async def first() -> int:
        sent.append(("first", world.elapsed()))
        if len(sent) == 1:
            await world.clock.sleep(1)
            raise throttled(9)
        return 1

    async def slow() -> int:  # sent before the pause, refused during it
        sent.append(("slow", world.elapsed()))
        if len(sent) == 2:
            await world.clock.sleep(5)
            raise throttled(50)
        return 1

    await asyncio.gather(
        run_upload(pipeline, first, "https://one.test/x"), run_upload(pipeline, slow, "https://one.test/y")
    )
    assert sent[:2] == [("first", 0), ("slow", 0)]
    assert sorted(sent[2:]) == [("first", 55), ("slow", 55)]


# --- quota


async def test_the_clients_quota_stops_the_retries_of_an_outage_and_refills(world: World) -> None:
    pipeline = world.pipeline()
    world.api.always("get", lambda _: broken())

    async def call() -> None:
        with pytest.raises(APIConnectionError):
            await send(pipeline, OPERATIONS["get"])

    await asyncio.gather(*(call() for _ in range(200)))
    retries = world.api.count("get") - 200
    assert retries <= 40  # 500 tokens at 14 each, and a little refill
    await world.clock.sleep(100)
    world.api.asked.clear()
    await call()
    assert world.api.count("get") == 4


# --- time


async def test_an_attempts_time_counts_from_its_admission(world: World) -> None:
    gate = Gate(RateLimit(1, per=100.0), clock=world.clock)
    (await gate.admit()).settle()

    async def slow(_: Exchange) -> None:
        await world.clock.sleep(29)

    world.api.script("get", slow)
    await send(world.pipeline(gate=gate), OPERATIONS["get"])
    assert world.elapsed() == 129


async def test_calls_and_creates_have_their_own_limits(world: World) -> None:
    world.api.script("get", hang)
    world.api.script("create", hang)
    timeouts = Timeouts(call=7, create=11)
    await send(world.pipeline(timeouts=timeouts, random=lambda: 0.0), OPERATIONS["get"])
    assert world.elapsed() == 7
    await send(world.pipeline(timeouts=timeouts, random=lambda: 0.0), OPERATIONS["create"])
    assert world.elapsed() == 18


# --- the owned task


async def start_create(world: World, gate: Gate, notes: list[str], **options: Any) -> asyncio.Task[CreatedSplit]:
    async def note(created: CreatedSplit) -> None:
        await asyncio.sleep(0)
        notes.append(created.id)

    pipeline = world.pipeline(gate=gate, **options)
    task = asyncio.create_task(send(pipeline, OPERATIONS["create"], on_created=note))
    await world.clock.settle()
    return task


def after(world: World, seconds: float, then: Script = None) -> Callable[[Exchange], Awaitable[Script]]:
    async def wait(_: Exchange) -> Script:
        await world.clock.sleep(seconds)
        return then

    return wait


async def test_a_create_cancelled_during_the_post_finishes_first_and_is_noted(still: World) -> None:
    gate, notes = Gate(clock=still.clock), list[str]()
    still.api.script("create", after(still, 4))
    task = await start_create(still, gate, notes)
    task.cancel()
    await still.clock.advance(3.9)
    assert not task.done()
    await still.clock.advance(0.2)
    assert task.cancelled()
    assert notes == ["split_1"]


async def test_a_create_that_hangs_is_cancelled_after_the_grace(still: World) -> None:
    gate, notes = Gate(RateLimit(1), clock=still.clock), list[str]()
    still.api.script("create", hang)
    task = await start_create(still, gate, notes)
    task.cancel()
    await still.clock.advance(4.9)
    assert not task.done()
    await still.clock.advance(0.2)
    assert task.cancelled()
    assert notes == []
    assert gate.snapshot().used == 1  # it may have counted
    await still.clock.advance(60)
    assert gate.snapshot().used == 0


async def test_further_cancellations_do_not_shorten_the_grace(still: World) -> None:
    gate, notes = Gate(RateLimit(1), clock=still.clock), list[str]()
    still.api.script("create", after(still, 4))
    task = await start_create(still, gate, notes)
    for _ in range(39):
        task.cancel()
        await still.clock.advance(0.1)
        assert not task.done()
    await still.clock.advance(0.2)
    assert task.cancelled()
    assert notes == ["split_1"]


async def test_a_cancelled_create_is_not_retried(still: World) -> None:
    gate, notes = Gate(clock=still.clock), list[str]()
    still.api.script("create", after(still, 1, broken()))
    task = await start_create(still, gate, notes)
    task.cancel()
    await still.clock.advance(100)
    assert task.cancelled()
    assert still.api.count("create") == 1


async def test_a_failure_that_no_call_waits_for_any_more_is_not_complained_about(
    still: World, caplog: pytest.LogCaptureFixture
) -> None:
    gate, notes = Gate(clock=still.clock), list[str]()
    still.api.script("create", after(still, 1, broken()))
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    task = await start_create(still, gate, notes)
    task.cancel()
    await still.clock.advance(100)
    del task
    await still.clock.settle()
    assert complaints == []
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_a_create_cancelled_while_it_waits_for_the_gate_is_never_sent(still: World) -> None:
    gate, notes = Gate(RateLimit(1), clock=still.clock), list[str]()
    held: Slot = await gate.admit()
    task = await start_create(still, gate, notes)
    task.cancel()
    await still.clock.settle()
    assert task.cancelled()
    held.restore()
    assert still.api.asked == []
    assert gate.snapshot().used == 0


@pytest.mark.parametrize("what", ["get", "reserve", "credits"])
async def test_other_calls_are_cancelled_at_once_and_their_slot_is_kept_a_window(still: World, what: str) -> None:
    gate = Gate(RateLimit(1), clock=still.clock)
    still.api.script(what, hang)
    task = asyncio.create_task(send(still.pipeline(gate=gate), OPERATIONS[what]))
    await still.clock.settle()
    task.cancel()
    await still.clock.settle()
    assert task.cancelled()
    assert gate.snapshot().used == 1
    await still.clock.advance(60)
    assert gate.snapshot().used == 0
