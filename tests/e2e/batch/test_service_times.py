"""A service on bare sockets whose clock is not ours: its reservations, and when it wants to be asked again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async import AsyncAIStemSplitter, RateLimit
from aistemsplitter_async.sandbox import Lifetimes, Sandbox
from tests.e2e.batch.bare_service import BareService
from tests.e2e.harness import CLI, build_wav
from tests.e2e.raw import Got, answer, envelope, head, listening, read_request

HOUR = 3600.0


@attrs.define
class Service(BareService):
    """A service with a clock of its own.

    Attributes:
        skew: seconds that its clock is ahead of ours.
        dated: whether its replies have a `Date`.
        lifetime: of its reservations, in seconds.
        refuse: returns the whole answer to a request that is not served.
        times: of all requests, by what they ask for.
    """

    skew: float = 0.0
    dated: bool = True
    lifetime: float = 900.0
    refuse: Callable[[Got], bytes | None] = lambda _: None
    times: list[tuple[str, float]] = attrs.field(factory=list)

    @property
    def date(self) -> list[str]:
        return [f"Date: {formatdate(time.time() + self.skew, usegmt=True)}"] if self.dated else []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        while True:
            got = await read_request(reader)
            self.times.append((f"{got.method} {got.path}", time.monotonic()))
            said = self.refuse(got)
            if said is None:
                data = self.answer(got.method, got.path, got.headers, got.body)
                if got.path == "/v1/audio/uploads":
                    expires = datetime.fromtimestamp(time.time() + self.skew + self.lifetime, UTC)
                    data["expiresAt"] = expires.isoformat()
                said = answer(data if isinstance(data, bytes) else envelope(data), *self.date)
            writer.write(said)
            await writer.drain()


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Service]:
    service = Service("", "split_{}".format, **options)
    async with asyncio.timeout(60), listening(service.talk) as port:
        service.base_url = f"http://127.0.0.1:{port}/v1"
        yield service


@pytest.fixture
def songs(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"song {number}.wav" for number in range(4)]
    for number, song in enumerate(found):
        song.write_bytes(build_wav(0.1 + number / 100))
    return found


async def run(service: Service, songs: list[Path], tmp_path: Path) -> list[str]:
    client = AsyncAIStemSplitter("ast_test", base_url=service.base_url, rate_limit=RateLimit(10_000))
    async with client, client.split_many(songs, into=tmp_path / "stems", journal=tmp_path / "journal") as batch:
        return [type(outcome).__name__ async for outcome in batch]


@pytest.mark.parametrize(
    ("skew", "dated", "lifetime"),
    [
        *((0.0, True, 2.0), (7 * HOUR, True, 20.0), (-7 * HOUR, True, -HOUR)),
        *((0.0, False, -HOUR), (7 * HOUR, False, 2.0), (-7 * HOUR, False, 20.0)),
    ],
)
async def test_whatever_its_clock_says_each_song_is_uploaded_once(
    songs: list[Path], tmp_path: Path, skew: float, dated: bool, lifetime: float
) -> None:
    async with serving(skew=skew, dated=dated, lifetime=lifetime) as service:
        assert await run(service, songs, tmp_path) == ["Done"] * 4
    assert len(service.uploads) == len(service.charged) == 4


@pytest.mark.parametrize("skew", [0.0, 7 * HOUR, -7 * HOUR])
async def test_an_upload_that_it_has_forgotten_is_made_once_more(
    songs: list[Path], tmp_path: Path, skew: float
) -> None:
    def forget(got: Got) -> bytes | None:
        if got.path != "/v1/audio/splits" or b'"upl_1"' not in got.body:
            return None
        refusal = {"success": False, "error": {"code": "VALIDATION_ERROR", "message": "no such upload"}}
        return answer(refusal, *service.date, status="422 Unprocessable Content")

    async with serving(skew=skew, lifetime=20.0, refuse=forget) as service:
        assert await run(service, songs, tmp_path) == ["Done"] * 4
    assert (len(service.uploads), len(service.charged)) == (5, 4)


@pytest.mark.parametrize("lifetime", [3.0, 20.0])
async def test_a_short_reservation_of_the_sandbox_costs_no_second_upload(
    songs: list[Path], tmp_path: Path, lifetime: float
) -> None:
    sandbox = Sandbox(separation="silent", lifetimes=Lifetimes(reservation=lifetime))
    async with sandbox, AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url) as client:
        async with client.split_many(songs, into=tmp_path / "stems") as batch:
            assert [type(outcome).__name__ async for outcome in batch] == ["Done"] * 4
        assert len(sandbox.ledger.uploads) == 4


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (["1", "3", "2"], 3),
        (["{0}"], 2),  # its `Date` is in whole seconds
        (["{1}"], 2),
    ],
)
async def test_it_is_not_asked_earlier_than_it_says(lines: list[str], seconds: float) -> None:
    def refuse(_: Got) -> bytes | None:
        until = int(time.time() + service.skew) + 3
        said = [f"Retry-After: {line.format(until, formatdate(until, usegmt=True))}" for line in lines]
        refusal = head("429 Too Many Requests", "Content-Length: 0", *service.date, *said)
        return refusal if len(service.times) == 1 else None

    async with serving(skew=7 * HOUR, refuse=refuse) as service:
        client = AsyncAIStemSplitter("ast_test", base_url=service.base_url)
        async with client:
            await client.get_credits()
    first, second = (at for _, at in service.times)
    assert second - first >= seconds


async def test_a_command_that_would_have_to_wait_for_thirty_years_ends_and_says_so(cli: CLI) -> None:
    def refuse(_: Got) -> bytes:
        return head("429 Too Many Requests", "Content-Length: 0", "Retry-After: 1000000000")

    async with serving(refuse=refuse) as service:
        command = cli.with_(AISTEMSPLITTER_BASE_URL=service.base_url, AISTEMSPLITTER_API_KEY="ast_raw_7c1e55")
        for arguments in (("credits",), ("get", "split_1"), ("wait", "split_1", "--timeout", "1")):
            ended = await command.run(*arguments)
            assert ended.code == (1 if "wait" in arguments else 75)
            assert "asked to send nothing" in ended.err or "try again later" in ended.err
            assert "1000000000" not in ended.err
    assert len(service.times) == 3
