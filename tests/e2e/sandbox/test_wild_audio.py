"""Any bytes as audio, through the real API: a 422, or a split that ends; never a 5xx, a traceback, an endless wait."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Iterable, Iterator

import aiohttp
import attrs
import pytest

from aistemsplitter_async.sandbox import Sandbox
from benchmarks import damage

MOST_MEMORY = 900e6  # bytes of the largest process that separated: numpy, and six seconds of spectra


@attrs.frozen
class Service:
    sandbox: Sandbox
    http: aiohttp.ClientSession
    complaints: damage.Complaints

    async def split(self, corpus: Iterable[tuple[str, bytes]]) -> dict[str, str]:
        """Split every file, under a hostile name; return how each ended."""
        ends = {}
        for name, audio in corpus:
            ends[name] = await damage.split(self.sandbox, self.http, audio, f"../{name}\\x1b[31m\u202e<b>\0.wav")
            assert self.complaints.texts == [], name
        for shown in ("state", "ledger"):  # with every name in it
            async with self.http.get(f"{self.sandbox.base_url.removesuffix('/v1')}/control/{shown}") as response:
                assert response.status == 200
                assert await response.json()
        assert not [counted for counted in self.sandbox.ledger.counts if counted[1] >= 500]
        assert damage.measure_peak() < MOST_MEMORY
        return ends


@pytest.fixture
async def service(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    complaints = damage.Complaints()
    logging.getLogger().addHandler(complaints)
    options = {"separation": request.param, "requests_per_minute": None, "credits": 10**7}
    async with Sandbox(limits=damage.LIMITS, **options) as sandbox, aiohttp.ClientSession() as http:
        yield Service(sandbox, http, complaints)
    logging.getLogger().removeHandler(complaints)


real = pytest.mark.parametrize("service", ["real"], indirect=True)
silent = pytest.mark.parametrize("service", ["silent"], indirect=True)


def damages(number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    chance, kinds = random.Random(seed), list(damage.originals())  # noqa: S311  # repeatable
    return ((f"{kinds[n % len(kinds)]} {n}", damage.damaged(kinds[n % len(kinds)], chance)) for n in range(number))


@real
async def test_an_original_is_separated(service: Service) -> None:
    kinds = ("rf64", "alac", "vorbis", "mp3")
    assert await service.split((kind, damage.originals()[kind]) for kind in kinds) == dict.fromkeys(kinds, "succeeded")


@real
async def test_what_a_recorder_left_when_it_crashed_is_separated_up_to_its_end(service: Service) -> None:
    lies = dict(damage.lying())
    sizes = ("wav of 0x0", "wav of 0xffffffff", "wav cut", "extensible of 0x0", "ds64 8 0x0", "aiff of 0x0")
    ends = await service.split((name, lies[name]) for name in (*sizes, "wav header"))
    assert ends == dict.fromkeys(sizes, "succeeded") | {"wav header": "refused"}


@real
async def test_malice_ends(service: Service) -> None:
    malice = dict(damage.malice())
    await service.split((name, malice[name]) for name in ("floats of nan", "flac of 68719476735", "id3 of 256 MB"))
    ends = await service.split((name, malice[name]) for name in ("100 channels", "zeros", "1 samples", "caf of 8 EB"))
    assert ends["100 channels"] == ends["zeros"] == "refused"


@real
async def test_damage_ends(service: Service) -> None:
    await service.split(damages(4, seed=1))


@silent
async def test_in_silent_mode_any_bytes_are_audio(service: Service) -> None:
    for corpus in (damage.lying(), damage.formats(), damage.malice(), damages(150, seed=2)):
        assert set((await service.split(corpus)).values()) <= {"succeeded", "dear"}
    for kind, whole in damage.originals().items():
        cuts = ((f"{kind} {at}", whole[:at]) for at in damage.borders(whole)[:20] if at)
        assert set((await service.split(cuts)).values()) == {"succeeded"}
