"""Any bytes as audio, through the real API: a 422, or a split that ends; never a 5xx, a traceback, or an endless wait."""

from __future__ import annotations

import asyncio
import logging
import random
import resource
import sys
from collections.abc import AsyncIterator, Iterable

import aiohttp
import pytest

from aistemsplitter_async.sandbox import Limits, Sandbox
from tests.e2e.harness import BareAPI
from tests.e2e.sandbox import songs

ENDS_WITHIN = 60.0  # s; the tests' machine may be busy
MOST_MEMORY = 900e6  # bytes of the largest process that separated: numpy, and six seconds of spectra
SHORT = Limits(probe_timeout=20.0, separation_timeout=30.0, separation_pace=0.1)


@pytest.fixture(scope="module")
async def real() -> AsyncIterator[BareAPI]:
    async with (
        Sandbox(requests_per_minute=None, limits=SHORT, credits=10**7) as sandbox,
        aiohttp.ClientSession() as http,
    ):
        yield BareAPI(sandbox, http)


@pytest.fixture
async def silent(connect: object) -> AsyncIterator[BareAPI]:
    async with Sandbox(separation="silent", requests_per_minute=None) as sandbox, aiohttp.ClientSession() as http:
        yield BareAPI(sandbox, http)


async def split(api: BareAPI, audio: bytes, filename: str) -> str:
    """Upload and split; return how that ended."""
    before = api.sandbox.credits
    created = await api.create(await api.upload(audio, filename=filename))
    if created.status == 422:
        assert created.json["error"]["code"] == "VALIDATION_ERROR"
        assert created.json["error"]["message"]
        assert api.sandbox.credits == before
        return "refused"
    if created.status == 402:
        return "dear"
    assert created.status == 200, (filename, created)
    async with asyncio.timeout(ENDS_WITHIN):
        while (ended := await api.get(created.json["data"]["id"]))["status"] not in ("succeeded", "failed"):
            await asyncio.sleep(0.02)
    if ended["status"] == "failed":
        assert ended["error"]["message"]
        assert api.sandbox.credits == before
    return str(ended["status"])


async def split_all(api: BareAPI, corpus: Iterable[tuple[str, bytes]], caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    ends = {}
    for name, audio in corpus:
        if not audio:
            continue
        ends[name] = await split(api, audio, f"{name} \udfff\x1b[31m".encode("utf-8", "replace").decode())
        worst = [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
        assert not worst, (name, worst)
        assert "Traceback" not in caplog.text, name
    assert not api.sandbox.ledger.count(status=500)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert largest < MOST_MEMORY
    return ends


def damage(number: int, seed: int) -> Iterable[tuple[str, bytes]]:
    chance = random.Random(seed)
    kinds = list(songs.originals())
    return ((f"{kind} {n}", songs.damaged(kind, chance)) for n in range(number) if (kind := kinds[n % len(kinds)]))


async def test_every_original_is_separated(real: BareAPI, caplog: pytest.LogCaptureFixture) -> None:
    ends = await split_all(real, songs.originals().items(), caplog)
    assert set(ends.values()) == {"succeeded"}, ends


async def test_what_a_recorder_left_when_it_crashed_is_separated_up_to_its_end(
    real: BareAPI, caplog: pytest.LogCaptureFixture
) -> None:
    ends = await split_all(real, songs.lying(), caplog)
    assert set(ends.values()) <= {"succeeded", "refused"}
    assert {name for name, end in ends.items() if end == "refused"} == {
        *("wav of 0x1", "wav of 0x2", "extensible of 0x1", "extensible of 0x2"),  # not a whole sample, by its header
        *("wav header", "extensible header", "rf64 header", "aiff header"),
        "ds64 8 0x1",
        "ds64 8 0xffffffffffffffff",
    }


async def test_odd_formats_end(real: BareAPI, caplog: pytest.LogCaptureFixture) -> None:
    await split_all(real, songs.formats(), caplog)


async def test_malice_ends(real: BareAPI, caplog: pytest.LogCaptureFixture) -> None:
    ends = await split_all(real, songs.malice(), caplog)
    assert ends["100 channels"] == ends["floats of nan"] == ends["zeros"] == ends["one byte"] == "refused"


async def test_damage_ends(real: BareAPI, caplog: pytest.LogCaptureFixture) -> None:
    await split_all(real, damage(40, seed=1), caplog)


async def test_in_silent_mode_any_bytes_are_audio(silent: BareAPI, caplog: pytest.LogCaptureFixture) -> None:
    for corpus in (songs.lying(), songs.formats(), songs.malice(), damage(300, seed=2)):
        ends = await split_all(silent, corpus, caplog)
        assert set(ends.values()) <= {"succeeded", "dear"}
    for kind, whole in songs.originals().items():
        cuts = ((f"{kind} {at}", whole[:at]) for at in songs.borders(whole)[:40])
        assert set((await split_all(silent, cuts, caplog)).values()) == {"succeeded"}
