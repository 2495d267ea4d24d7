"""Reservations and uploads that expire, under clocks that are wrong: as many uploads as are needed, and never more."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async import APIConnectionError, BatchItem, Done, Failed, Outcome, RateLimit, Reply, ValidationError
from aistemsplitter_async.journal.record import State
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.testing import Exchange, error_reply, json_reply
from tests.io.fakes import World, hang

pytestmark = pytest.mark.usefixtures("inline_threads")

HOUR = 3600.0
SKEWS = (0.0, 900.0, -900.0, 5 * HOUR, -5 * HOUR)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


@pytest.fixture
def home(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "a.wav").write_bytes(b"sound")
    return {"into": tmp_path / "out", "journal": tmp_path / "journal"}


@attrs.define
class Service:
    """A service with a clock of its own.

    Attributes:
        world: where it is.
        skew: seconds that its clock is ahead of ours.
        lifetime: of a reservation, or what its `expiresAt` says.
        dated: whether its replies have a `Date`.
        strict: whether it refuses creates of uploads whose reservation has expired.
    """

    world: World
    skew: float = 0.0
    lifetime: float | str = 20.0
    dated: bool = True
    strict: bool = True
    refusal: Callable[[], Reply] = lambda: error_reply(422, "VALIDATION_ERROR", "input.uploadId is not usable")
    expires: dict[str, float] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.world.api.always("reserve", self.reserve)
        self.world.api.always("create", self.create)

    @property
    def now(self) -> float:
        return self.world.clock.now() + self.skew

    def reserve(self, _: Exchange) -> Reply:
        name = f"upl_{self.world.api.count('reserve')}"
        if isinstance(self.lifetime, str):
            expires_at = self.lifetime
        else:
            self.expires[name] = self.now + self.lifetime
            expires_at = datetime.fromtimestamp(self.expires[name], UTC).isoformat()
        headers = {"date": format_datetime(datetime.fromtimestamp(self.now, UTC), usegmt=True)} if self.dated else {}
        data = {
            "uploadId": name,
            "uploadUrl": f"https://worker.test/put/{name}",
            "uploadHeaders": {"X-Upload-Token": name},
            "expiresAt": expires_at,
        }
        return json_reply(data, headers=headers)

    def create(self, exchange: Exchange) -> Reply:
        name = f"upl_{self.world.api.count('reserve')}"
        assert name.encode() in exchange.body, "an upload that was replaced is used"
        is_over = self.strict and name in self.expires and self.now >= self.expires[name]
        return self.refusal() if is_over else self.world.api.do_create(exchange)

    async def run(self, home: Any, **options: Any) -> Outcome:
        async with (
            self.world.client(rate_limit=RateLimit(1000)) as client,
            client.split_many([BatchItem(source=home["into"].parent / "a.wav", **options)], **home) as batch,
        ):
            (outcome,) = [outcome async for outcome in batch]
        return outcome


def busy_until(world: World, when: float) -> None:
    """Let no create reach the service before."""
    usual = world.api._always["create"]
    down = APIConnectionError("refused", may_have_arrived=False)
    world.api.always("create", lambda exchange: down if world.elapsed() < when else usual(exchange))  # type: ignore[operator, misc]


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("lifetime", [5.0, 20.0, 900.0])
@pytest.mark.parametrize("dated", [True, False])
async def test_a_clock_that_is_wrong_costs_no_second_upload(
    world: World, home: Any, skew: float, lifetime: float, dated: bool
) -> None:
    service = Service(world, skew=skew, lifetime=lifetime, dated=dated)
    assert isinstance(await service.run(home), Done)
    assert (world.api.count("upload"), world.api.count("create")) == (1, 1)


@pytest.mark.parametrize(
    "expires_at",
    [
        "1970-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "2001-09-09T01:46:40",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59.999999",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "1800000000",
        "1800000000000",
    ],
)
@pytest.mark.parametrize("skew", SKEWS)
async def test_an_expiry_of_any_kind_costs_no_second_upload(
    world: World, home: Any, expires_at: str, skew: float
) -> None:
    service = Service(world, skew=skew, lifetime=expires_at)
    assert isinstance(await service.run(home), Done)
    assert (world.api.count("upload"), world.api.count("create")) == (1, 1)


@pytest.mark.parametrize("lifetime", [40.0, -900.0])
async def test_an_upload_that_takes_longer_than_its_reservation_lives_is_used(
    world: World, home: Any, lifetime: float
) -> None:
    async def slow(exchange: Exchange) -> Reply:
        await world.clock.sleep(50)
        return world.api.do_upload(exchange)

    service = Service(world, lifetime=lifetime, strict=False)
    world.api.always("upload", slow)
    client = world.client(rate_limit=RateLimit(1000))
    async with client, client.split_many([home["into"].parent / "a.wav"], **home) as batch:
        assert [type(outcome) async for outcome in batch] == [Done]
    assert service.expires
    assert (world.api.count("upload"), world.api.count("create")) == (1, 1)


@pytest.mark.parametrize(
    ("status", "skew", "key"),
    [(400, SKEWS[0], None), (404, SKEWS[1], "mine"), (410, SKEWS[-2], None), (422, SKEWS[-1], "mine")],
)
async def test_an_upload_that_expired_while_its_create_waited_is_made_once_more(
    world: World, home: Any, status: int, skew: float, key: str | None
) -> None:
    service = Service(world, skew=skew, lifetime=100, refusal=lambda: error_reply(status, "CODE"))
    busy_until(world, 200)
    assert isinstance(await service.run(home, idempotency_key=key), Done)
    assert world.api.count("upload") == 2
    refused, accepted = world.api.of("create")[-2:]
    assert (b"upl_1" in refused.body, b"upl_2" in accepted.body) == (True, True)
    assert refused.headers["Idempotency-Key"] != accepted.headers["Idempotency-Key"], "another body under the same key"
    assert len(world.api.created) == 1


async def test_without_times_of_the_servers_own_a_refusal_a_while_later_may_be_for_the_upload(
    world: World, home: Any
) -> None:
    service = Service(world, skew=900.0, lifetime=100, dated=False)  # by our clock it lives for 1000 s
    busy_until(world, 200)
    assert isinstance(await service.run(home), Done)
    assert world.api.count("upload") == 2


async def test_a_refusal_that_says_so_is_believed_whatever_the_times_say(world: World, home: Any) -> None:
    service = Service(world, lifetime=HOUR)
    refusal = error_reply(422, "VALIDATION_ERROR", "the upload has expired")
    world.api.script("create", refusal)
    assert isinstance(await service.run(home), Done)
    assert world.api.count("upload") == 2


async def test_a_file_that_the_service_does_not_want_is_uploaded_once(world: World, home: Any) -> None:
    service = Service(world, lifetime=900.0)
    world.api.always("create", error_reply(422, "VALIDATION_ERROR", "no audio"))
    outcome = await service.run(home)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ValidationError)
    assert (world.api.count("upload"), world.api.count("create")) == (1, 1)


@pytest.mark.parametrize("lifetime", [-900.0, 0.0, 1.0, 900.0])
async def test_uploads_that_are_refused_each_time_come_to_an_end(world: World, home: Any, lifetime: float) -> None:
    service = Service(world, lifetime=lifetime)
    world.api.always("create", error_reply(410, "GONE", "there is no such upload"))
    outcome = await service.run(home)
    assert isinstance(outcome, Failed)
    assert "there is no such upload" in str(outcome.error)
    assert (world.api.count("upload"), world.api.count("create")) == (3, 3)
    assert len({asked.headers["Idempotency-Key"] for asked in world.api.of("create")}) == 3
    store = JournalStore(home["journal"])
    (record,) = store.page(0, 9)
    store.close()
    assert (record.state, record.submission) == (State.UPLOADED, None)
    assert world.elapsed() < 60


async def test_a_create_that_may_have_happened_is_never_answered_with_another_upload(world: World, home: Any) -> None:
    service = Service(world, lifetime=20.0)
    world.api.script("create", APIConnectionError("the connection broke", may_have_arrived=True))
    world.api.always("create", error_reply(410, "GONE"))
    outcome = await service.run(home)
    assert isinstance(outcome, Failed)
    assert outcome.error.idempotency_key is not None
    assert world.api.count("upload") == 1
    assert len({asked.body for asked in world.api.of("create")}) == 1


@pytest.mark.parametrize("shift", [-2 * HOUR, 0.0, 2 * HOUR])
@pytest.mark.parametrize("skew", SKEWS)
async def test_another_run_under_another_clock_needs_one_more_upload_at_most(
    world: World, home: Any, shift: float, skew: float
) -> None:
    service = Service(world, skew=skew, lifetime=900.0)
    world.api.script("create", *[APIConnectionError("refused", may_have_arrived=False)] * 5)
    async with (
        world.client(rate_limit=RateLimit(1000)) as client,
        client.split_many([home["into"].parent / "a.wav"], patience=0, **home) as batch,
    ):
        assert [type(outcome) async for outcome in batch] == [Failed]
    assert world.api.count("upload") == 1
    world.clock._now += shift  # somebody sets it
    service.skew -= shift  # the service knows nothing of that
    assert isinstance(await service.run(home), Done)
    assert world.api.count("upload") == (2 if shift > 0 else 1)  # by this clock it has expired
    assert len(world.api.created) == 1


async def test_what_another_run_uploaded_and_the_service_has_forgotten_is_uploaded_again(
    world: World, home: Any
) -> None:
    service = Service(world, lifetime=900.0)
    world.api.script("create", *[APIConnectionError("refused", may_have_arrived=False)] * 5)
    async with (
        world.client(rate_limit=RateLimit(1000)) as client,
        client.split_many([home["into"].parent / "a.wav"], patience=0, **home) as batch,
    ):
        assert [type(outcome) async for outcome in batch] == [Failed]
    world.clock._now -= 5 * HOUR  # it looks valid for longer than it is
    service.skew += 6 * HOUR
    assert isinstance(await service.run(home), Done)
    assert world.api.count("upload") == 2


@pytest.mark.parametrize(("status", "most"), [(400, 3), (403, 3), (404, 3), (410, 3), (413, 3)])
@pytest.mark.parametrize("lifetime", [-900.0, 1.0, 900.0])
async def test_a_worker_that_refuses_each_whole_upload_is_given_up(
    world: World, home: Any, status: int, most: int, lifetime: float
) -> None:
    service = Service(world, lifetime=lifetime)
    world.api.always("upload", error_reply(status, "NO"))
    assert isinstance(await service.run(home), Failed)
    assert world.api.count("upload") == most
    assert world.api.count("create") == 0


@pytest.mark.parametrize("answer", [error_reply(500, "BROKEN"), hang])
async def test_a_worker_that_fails_after_each_whole_upload_is_given_up_in_time(
    world: World, home: Any, answer: Any
) -> None:
    """What the worker says itself is about the track; nothing at all is an outage, which is waited out for an hour."""
    service = Service(world, lifetime=-900.0)
    world.api.always("upload", answer)
    longest, most = (1.3 * HOUR, 5 * HOUR / 30) if answer is hang else (0.2 * HOUR, 100)
    assert isinstance(await service.run(home), Failed)
    assert world.elapsed() < longest
    assert world.api.count("upload") < most
    assert world.api.count("create") == 0
