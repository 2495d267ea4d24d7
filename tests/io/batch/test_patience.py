"""Outages in virtual time: few requests while they last, and no track delayed by another's own failure."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Awaitable, Callable

import pytest

from aistemsplitter_async import (
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    DownloadError,
    JournalError,
    RateLimitedError,
    ServerError,
    Submission,
    SubmissionUncertainError,
    ValidationError,
)
from aistemsplitter_async.batch.patience import Patience, is_storage_out, is_transient
from aistemsplitter_async.testing import FakeClock

MINUTE = 60.0


class Service:
    """Something that is down from time to time."""

    def __init__(self, *, concurrency: int | None = None) -> None:
        self.clock = FakeClock(autojump=True)
        self.given_up: list[AIStemSplitterError] = []
        self.patience = Patience(
            clock=self.clock, random=lambda: 1.0, on_give_up=self.given_up.append, concurrency=concurrency
        )
        self.asked: list[float] = []
        self.down_until = 0.0
        self.error: AIStemSplitterError = ServerError("down", status_code=503)

    @property
    def now(self) -> float:
        return self.clock.monotonic() - 1000.0

    async def ask(self) -> float:
        self.asked.append(self.now)
        await self.clock.sleep(0.1)
        if self.now < self.down_until:
            raise self.error
        return self.now

    async def run(self, tracks: int, attempt: Callable[[], Awaitable[float]] | None = None) -> list[float]:
        return await asyncio.gather(*(self.patience.retry_through_outage(attempt or self.ask) for _ in range(tracks)))


async def test_an_outage_of_ten_minutes_costs_a_probe_every_half_minute_and_then_all_go_on() -> None:
    service = Service()
    service.down_until = 10 * MINUTE
    ends = await service.run(50)
    during = [at for at in service.asked if at < 10 * MINUTE]
    assert 50 + 19 <= len(during) <= 50 + 27
    assert max(ends) < 11 * MINUTE
    assert len(service.asked) - len(during) <= 51
    assert service.patience.notice is None


async def test_tracks_beyond_the_concurrency_do_not_probe_during_an_outage() -> None:
    service = Service(concurrency=4)
    service.down_until = 10 * MINUTE
    await service.run(50)
    assert len([at for at in service.asked if at < 10 * MINUTE]) <= 4 + 27


async def test_a_short_outage_of_many_tracks_is_a_short_wait() -> None:
    service = Service()
    service.down_until = 0.5
    assert max(await service.run(50)) < 2.5


async def test_a_probe_that_takes_for_ever_keeps_no_other_track_from_probing() -> None:
    service = Service()
    service.down_until = 5.0
    hung = asyncio.Event()
    attempts = 0

    async def hang_once() -> float:
        nonlocal attempts
        attempts += 1
        if attempts == 11:  # the first poll after the first ten failed
            await hung.wait()
        return await service.ask()

    running = [asyncio.create_task(service.patience.retry_through_outage(hang_once)) for _ in range(10)]
    done, pending = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION, timeout=1)
    assert (len(done), len(pending)) == (9, 1)
    hung.set()
    await asyncio.gather(*running)


@pytest.mark.parametrize("concurrency", [None, 1, 4])
async def test_a_track_that_fails_while_others_succeed_fails_alone(concurrency: int | None) -> None:
    service = Service(concurrency=concurrency)

    async def poisoned() -> float:
        await service.clock.sleep(2.0)
        raise ServerError("this one is always refused", status_code=500)

    bad = asyncio.create_task(service.patience.retry_through_outage(poisoned))
    for _ in range(40):
        await service.run(5)
    with pytest.raises(ServerError, match="always refused"):
        await bad
    assert service.now < 3 * MINUTE
    assert service.given_up == []


async def test_a_journal_that_comes_and_goes_is_waited_for_whoever_meets_that() -> None:
    """What one track cannot write, the next one can: that is no fault of the track's, and would end the batch."""
    service, failures = Service(), 0

    async def unlucky() -> int:
        nonlocal failures
        await service.clock.sleep(2.0)
        if failures < 20:
            failures += 1
            raise JournalError("the connection broke", code="JOURNAL_DOWN")
        return failures

    writing = asyncio.create_task(service.patience.retry_through_outage(unlucky))
    while not writing.done():
        await service.run(5)
    assert await writing == 20
    assert service.given_up == []


async def test_a_single_track_in_an_outage_gives_up_after_an_hour() -> None:
    service = Service()
    service.down_until = 99 * MINUTE
    with pytest.raises(ServerError):
        await service.run(1)
    assert 59 * MINUTE < service.now < 61 * MINUTE
    assert len(service.given_up) == 1


async def test_after_giving_up_each_track_tries_at_once_and_by_itself() -> None:
    service = Service()
    service.down_until = 99 * MINUTE
    outcomes = await asyncio.gather(
        *(service.patience.retry_through_outage(service.ask) for _ in range(20)), return_exceptions=True
    )
    assert all(isinstance(outcome, ServerError) for outcome in outcomes)
    assert service.now < 61 * MINUTE
    assert len([at for at in service.asked if at > 59 * MINUTE]) <= 21
    await service.patience.wait_until_over()  # a new track need not wait


@pytest.mark.parametrize(("kind", "status"), [(RateLimitedError, 429), (ServerError, 503)])
async def test_a_retry_after_is_waited_for_and_of_a_longer_one_an_hour(kind: type[APIStatusError], status: int) -> None:
    service = Service()
    service.down_until, service.error = 50 * MINUTE, kind("later", retry_after=50 * MINUTE, status_code=status)
    await service.run(20)
    assert [at for at in service.asked if 1 < at < 50 * MINUTE] == []
    service = Service()
    service.down_until = 90 * MINUTE
    service.error = kind("in the year 9999", retry_after=2.5e11, status_code=status)
    with pytest.raises(kind):
        await service.run(1)
    first, second = service.asked
    assert second - first == pytest.approx(60 * MINUTE + 0.1)
    assert service.given_up == [service.error]


async def test_a_refusal_that_is_heard_of_late_is_waited_for_as_well() -> None:
    """The song that was refused gets its answer after others have met the closed gate."""
    service = Service()
    service.down_until = 59 * MINUTE
    service.error = RateLimitedError("later", retry_after=99 * MINUTE, status_code=429)
    tracks = [asyncio.create_task(service.patience.retry_through_outage(service.ask))]
    await service.clock.sleep(0.01)
    await asyncio.gather(*tracks, service.run(1))
    assert (len(service.asked), service.given_up) == (4, [])


def disk_full() -> DownloadError:
    error = DownloadError("cannot write vocals.mp3: No space left on device", code="DISK")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize("error", [disk_full(), JournalError("the disk is full", code="DISK")], ids=repr)
async def test_a_full_disk_waits_for_its_owner_as_long_as_it_takes(error: AIStemSplitterError) -> None:
    service = Service()
    service.down_until, service.error = 600 * MINUTE, error
    watching = asyncio.create_task(service.run(5))
    await asyncio.sleep(0.01)
    assert min(await watching) < 601 * MINUTE
    assert service.given_up == []


async def test_an_outage_has_a_notice() -> None:
    service = Service()
    service.down_until = 5 * MINUTE
    running = asyncio.create_task(service.run(3))
    await service.clock.sleep(MINUTE)
    assert service.patience.notice is not None
    assert re.fullmatch(r"paused for (59 s|1 min), trying again( in \d+ s)?: down", service.patience.notice)
    await service.clock.sleep(3 * MINUTE)
    assert service.patience.notice.startswith("paused for 3 min, trying again")
    await running
    assert service.patience.notice is None


async def test_a_cancelled_probe_leaves_the_turn_to_the_next() -> None:
    service = Service()
    service.down_until = MINUTE
    first = asyncio.create_task(service.patience.retry_through_outage(service.ask))
    rest = asyncio.create_task(service.run(3))
    await service.clock.sleep(5)
    first.cancel()
    assert max(await rest) < 2 * MINUTE
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_an_answer_ends_the_waiting_of_others_even_if_it_is_a_refusal() -> None:
    service = Service()
    service.down_until = 10 * MINUTE
    running = asyncio.create_task(service.run(3))
    await service.clock.sleep(5 * MINUTE)
    service.down_until = 0.0

    async def refused() -> float:
        raise ValidationError("no", status_code=422)

    with pytest.raises(ValidationError):
        await service.patience.retry_through_outage(refused)
    await running
    assert service.now < 6 * MINUTE


def test_transient_is_what_may_end_by_itself() -> None:
    unclear = Submission("key", b"{}")
    assert is_transient(ServerError("down", status_code=503))
    assert is_transient(APIConnectionError("reset"))
    assert is_transient(SubmissionUncertainError("?", submission=unclear))
    assert is_transient(SubmissionUncertainError("?", submission=unclear, status_code=503))
    assert not is_transient(APIConnectionError("certificate", permanent=True))
    assert not is_transient(SubmissionUncertainError("?", submission=unclear, status_code=422))
    assert not is_transient(ValidationError("no", status_code=422))
    assert not is_transient(AuthenticationError("the API's own word", status_code=403, code="UNAUTHORIZED"))
    for code in (400, 401, 403, 404, 405, 410):
        assert is_transient(APIStatusError("a web page", status_code=code)), "of a gateway"
        assert is_transient(SubmissionUncertainError("?", submission=unclear, status_code=code))
        assert not is_transient(SubmissionUncertainError("?", submission=unclear, status_code=code, code="NO"))
    assert not is_storage_out(DownloadError("no", code="DISK"))
