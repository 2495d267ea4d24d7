"""A spending limit over files that lie about their length, on a service that charges by the duration it finds."""

from __future__ import annotations

import json
import math
import os
import random
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import (
    APIConnectionError,
    BatchItem,
    ConfigurationError,
    Failed,
    Outcome,
    RateLimit,
    SpendLimitError,
    stream_source,
)
from aistemsplitter_async._audio.examine import Length
from aistemsplitter_async.batch import item as item_module, track as track_module
from aistemsplitter_async.batch.outcome import BatchReport
from aistemsplitter_async.batch.preflight import Price, charged_credits
from aistemsplitter_async.library.tags import measure_file
from aistemsplitter_async.testing import Exchange, error_reply, json_reply
from tests.io.fakes import CDN, World

pytestmark = pytest.mark.usefixtures("inline_threads")

GENEROUS = RateLimit(1000)
RATE = 100  # samples of a byte, a second


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


def wav(seconds: float, seed: int = 0, *, claimed: float | None = None, rate: int = RATE) -> bytes:
    """A file of 8-bit noise, whose header may state another length."""
    sound = random.Random(seed).randbytes(2 * round(seconds * RATE / 2))  # noqa: S311  # the same every time
    size = len(sound) if claimed is None else 2 * round(claimed * RATE / 2)
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate, 1, 8) + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", len(head) + size) + head + sound


class Service:
    """Charges by duration, as soon as a create arrives. An upload is recognised by its bytes, a URL by itself.

    Attributes:
        seconds: the durations it finds.
        charges: what it charged, in order.
        answer: what it answers instead of what it charged.
    """

    def __init__(self, world: World, seconds: Mapping[bytes | str, float]) -> None:
        self.seconds = dict(seconds)
        self.charges: list[int] = []
        self.answer: Callable[[int], Any] = lambda credits_used: credits_used
        self._world = world
        self._final: dict[str, int] = {}
        world.api.always("create", self.create)
        world.api.always("get", self.get)

    async def create(self, exchange: Exchange) -> Any:
        api = self._world.api
        source = json.loads(exchange.body)["input"]
        await self._world.clock.sleep(1)
        uploaded = source.get("fileUrl", "").removeprefix(f"{CDN}/sources/")
        cost = max(1, math.ceil(self.seconds[api.uploads[uploaded] if uploaded else source["url"]]))
        self.charges.append(cost)
        split_id = f"split_{len(self.charges)}"
        api.created[exchange.request.headers["Idempotency-Key"]] = split_id
        self._final[split_id] = cost
        reply = {"id": split_id, "status": "queued", "createdAt": "2027-01-01T00:00:00Z"}
        return json_reply(reply | {"creditsUsed": self.answer(cost)})

    def get(self, exchange: Exchange) -> Any:
        split_id = exchange.request.url.rpartition("/")[2]
        return self._world.api.split(split_id, "succeeded", creditsUsed=self._final[split_id])


async def run(world: World, sources: Any, **options: Any) -> tuple[list[Outcome], BatchReport]:
    """Run a batch to its end with a client of its own."""
    async with (
        world.client(rate_limit=GENEROUS) as client,
        client.split_many(sources, **options) as batch,
    ):
        return [outcome async for outcome in batch], await batch.report()


def codes(outcomes: list[Outcome]) -> dict[int, str]:
    """What each source came to, by its position."""
    return {
        outcome.position: outcome.error.code or "?" if isinstance(outcome, Failed) else type(outcome).__name__
        for outcome in outcomes
    }


@pytest.fixture
def home(tmp_path: Path) -> dict[str, Path]:
    return {"into": tmp_path / "out", "journal": tmp_path / "journal"}


def put(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


def draw_library(folder: Path, chance: random.Random) -> tuple[list[Any], dict[bytes | str, float]]:
    """Write songs whose headers, names and owners may lie; a URL's owner does not. Return them, and what is true."""
    sources, seconds = list[Any](), dict[bytes | str, float]()
    for number in range(25):
        true = float(chance.randint(1, 40))
        lie = chance.choice([None, None, chance.uniform(0.1, 200.0)])
        data = wav(true, number, claimed=chance.choice([None, true / 2, 0.0, true * 3, true - 1]))
        if chance.random() < 0.2:  # two files in one
            data += wav(true, 100 + number)
            true *= 2
        if chance.random() < 0.1:
            data = b"nobody knows" + data
            lie = chance.choice([None, true + chance.random()])
        kind = chance.choice(["file", "file", "file", "bytes", "url"])
        source: str | bytes = data
        if kind == "url":
            source = f"https://example.com/{number}"
            lie = chance.choice([None, true, true + 10])
        elif kind == "file":
            source = put(folder, f"{number}.{chance.choice(['wav', 'mp3', 'ogg'])}", data)
        seconds[source if kind == "url" else data] = true
        sources.append(BatchItem(source=source, seconds=lie))
    return sources, seconds


@pytest.mark.parametrize("seed", range(25))
async def test_no_library_makes_a_service_that_charges_by_duration_charge_more_than_the_limit(
    world: World, home: Any, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311  # the same every time
    sources, seconds = draw_library(tmp_path, chance)
    service = Service(world, seconds)
    service.answer = chance.choice([lambda cost: cost, lambda cost: -cost])
    most = chance.choice([30, 100, 400])
    outcomes, report = await run(world, sources, max_credits=most, **home)
    assert sum(service.charges) <= report.credits_used <= most
    if most == 400:
        assert "Done" in codes(outcomes).values()


async def test_the_limit_would_not_hold_if_what_callers_and_headers_say_were_the_price(
    world: World, home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(track_module, "plan_price", lambda _, claimed: Price(charged_credits(claimed or 1.0)))
    sources, seconds = draw_library(tmp_path, random.Random(3))  # noqa: S311
    service = Service(world, seconds)
    await run(world, sources, max_credits=100, **home)
    assert sum(service.charges) > 100


LIES = {
    "a header with half of the sound": wav(40, claimed=20),
    "a header with none of the sound": wav(40, claimed=0),
    "two files in one": wav(20) + wav(20, 1),
    "a header from a pipe": wav(40).replace(b"data\xa0\x0f\0\0", b"data\xff\xff\xff\xff"),
    "a rate that makes it short": wav(40).replace(struct.pack("<II", RATE, RATE), struct.pack("<II", 100 * RATE, RATE)),
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("claimed", [None, 5.0])
async def test_a_file_that_contradicts_itself_costs_what_it_can_cost_and_the_others_go_on(
    world: World, home: Any, tmp_path: Path, name: str, claimed: float | None
) -> None:
    lie = LIES[name]
    songs = [wav(5, number) for number in range(2, 5)]
    service = Service(world, {lie: 40.0, **dict.fromkeys(songs, 5.0)})
    sources = [BatchItem(source=put(tmp_path, "lie.mp3", lie), seconds=claimed), *songs]
    outcomes, report = await run(world, sources, max_credits=30, **home)
    assert codes(outcomes) == {0: "LENGTH_UNKNOWN", 1: "Done", 2: "Done", 3: "Done"}
    assert (service.charges, report.stopped_by) == ([5, 5, 5], None)
    (failed,) = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert failed.stage == "prepare"
    assert isinstance(failed.error, SpendLimitError)
    assert "its length is not certain, so it could cost up to" in str(failed.error)
    assert world.api.count("reserve") == 3, "what cannot be created is not uploaded"


def aac(seconds: float) -> bytes:
    """AAC in ADTS: frames of 1,024 samples at 44.1 kHz; nothing says how many there are."""
    size = 7 + 93
    header = bytes([0xFF, 0xF1, 0x50, 0x80 | size >> 11, size >> 3 & 0xFF, (size & 7) << 5 | 0x1F, 0xFC])
    frames = math.ceil(seconds * 44100 / 1024)
    return b"".join(header + random.Random(number).randbytes(93) for number in range(frames))  # noqa: S311


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.wav", "a"])
async def test_an_extension_does_not_make_a_song_shorter(world: World, home: Any, tmp_path: Path, name: str) -> None:
    song = aac(240.0)
    service = Service(world, {song: 240.0})
    path = put(tmp_path, name, song)
    outcomes, _ = await run(world, [path], max_credits=30, **home)
    assert codes(outcomes)[0] in ("SPEND_LIMIT", "LENGTH_UNKNOWN")
    assert service.charges == []
    outcomes, _ = await run(world, [path], max_credits=2 * 241, **home)
    assert codes(outcomes) == {0: "Done"}


async def test_what_may_have_any_length_is_not_created_under_a_limit_and_the_next_run_without_one_creates_it(
    world: World, home: Any, tmp_path: Path
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"a stream"

    url = "https://example.com/a.mp3"
    vague: list[Any] = [
        url,
        put(tmp_path, "a.mp3", b"nobody knows"),
        b"nobody knows either",
        stream_source(chunks, content_length=8, filename="a.mp3"),
    ]
    seconds: dict[bytes | str, float] = dict.fromkeys([url, b"nobody knows", b"nobody knows either", b"a stream"], 9.0)
    service = Service(world, seconds | {wav(9): 9.0})
    outcomes, report = await run(world, [*vague, wav(9)], max_credits=1000, **home)
    assert codes(outcomes) == dict.fromkeys(range(4), "LENGTH_UNKNOWN") | {4: "Done"}
    assert (service.charges, report.stopped_by) == ([9], None)
    told = [BatchItem(source=source, seconds=10.0) for source in vague[:2]]
    outcomes, _ = await run(world, told, max_credits=20, **home)
    assert codes(outcomes) == {0: "Done", 1: "Done"}
    outcomes, _ = await run(world, [*vague, wav(9)], **home)
    assert sorted(codes(outcomes).values()) == ["Done", "Done", "Skipped", "Skipped", "Skipped"]
    assert service.charges == [9] * 5


async def test_a_file_is_measured_once_and_only_under_a_limit(
    world: World, home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = list[Path]()

    def measure(path: Path) -> Length:
        measured.append(path)
        return measure_file(path)

    monkeypatch.setattr(item_module, "measure_file", measure)
    path = put(tmp_path, "a.wav", wav(9))
    Service(world, {wav(9): 9.0})
    await run(world, [path])
    assert measured == []
    await run(world, [path], max_credits=9, **home)
    assert measured == [Path(path)]
    await run(world, [path], max_credits=9, **home)
    assert measured == [Path(path)], "what is finished costs nothing"


async def test_a_negative_figure_does_not_raise_the_limit(world: World, home: Any) -> None:
    service = Service(world, dict.fromkeys([wav(9, number) for number in range(10)], 9.0))
    service.answer = lambda _: -1000
    outcomes, report = await run(world, list(service.seconds), max_credits=30, **home)
    assert (service.charges, report.credits_used) == ([9, 9, 9], 27)
    assert sorted(set(codes(outcomes).values())) == ["Done", "SPEND_LIMIT", "Skipped"]


async def test_a_service_that_charges_more_than_by_duration_is_noticed_at_once(world: World, home: Any) -> None:
    service = Service(world, dict.fromkeys([wav(9, number) for number in range(10)], 18.0))
    outcomes, report = await run(world, list(service.seconds), max_credits=60, in_flight=1, **home)
    assert service.charges == [18]
    assert codes(outcomes)[0] == "Done", "what is paid for is finished"
    assert isinstance(report.stopped_by, SpendLimitError)
    assert "the service charged 18 credits for a split that was to cost 9" in str(report.stopped_by)
    assert report.credits_used == 18


async def test_a_price_that_rises_until_the_split_is_done_counts(world: World, home: Any) -> None:
    service = Service(world, dict.fromkeys([wav(9, number) for number in range(10)], 9.0))
    service.answer = lambda _: 1
    _, report = await run(world, list(service.seconds), max_credits=30, in_flight=1, **home)
    assert service.charges == [9]
    assert report.credits_used == 9
    assert isinstance(report.stopped_by, SpendLimitError)


async def test_tracks_do_not_race_for_the_last_credits(world: World, home: Any) -> None:
    service = Service(world, dict.fromkeys([wav(9, number) for number in range(20)], 9.0))
    outcomes, _ = await run(world, list(service.seconds), max_credits=50, in_flight=20, **home)
    assert service.charges == [9] * 5
    assert list(codes(outcomes).values()).count("Done") == 5


async def test_a_create_that_was_refused_gives_its_price_back(world: World, home: Any) -> None:
    service = Service(world, dict.fromkeys([wav(9, number) for number in range(3)], 9.0))
    world.api.script("create", error_reply(422, "VALIDATION_ERROR"))
    outcomes, report = await run(world, list(service.seconds), max_credits=18, in_flight=1, **home)
    assert codes(outcomes) == {0: "VALIDATION_ERROR", 1: "Done", 2: "Done"}
    assert report.credits_used == 18


async def test_a_duplicate_that_shares_a_split_is_charged_once(world: World, home: Any) -> None:
    service = Service(world, {wav(9): 9.0, wav(9, 1): 9.0})
    outcomes, report = await run(world, [wav(9), wav(9), wav(9, 1)], max_credits=18, **home)
    assert codes(outcomes) == {0: "Done", 1: "Skipped", 2: "Done"}
    assert (service.charges, report.credits_used) == ([9, 9], 18)


async def test_a_duplicate_of_what_has_no_price_may_have_one(world: World, home: Any) -> None:
    service = Service(world, {b"nobody knows": 9.0})
    twins: list[Any] = [b"nobody knows", BatchItem(source=b"nobody knows", seconds=9.0), b"nobody knows"]
    outcomes, _ = await run(world, twins, max_credits=30, **home)
    assert codes(outcomes) == {0: "LENGTH_UNKNOWN", 1: "Done", 2: "Skipped"}
    assert service.charges == [9]


async def test_the_limit_is_that_of_a_run_and_what_an_earlier_one_left_open_counts(world: World, home: Any) -> None:
    service = Service(world, dict.fromkeys([wav(9, number) for number in range(4)], 9.0))
    songs = list(service.seconds)
    create = service.create

    async def lose(exchange: Exchange) -> Any:
        await create(exchange)
        return APIConnectionError("reset")

    world.api.always("create", lose)
    outcomes, report = await run(world, songs[:1], max_credits=9, patience=0, **home)
    assert isinstance(outcomes[0], Failed)
    assert report.credits_used == 0
    service.charges.clear()
    world.api.always("create", create)
    outcomes, report = await run(world, songs, max_credits=20, **home)
    assert sorted(codes(outcomes).values()) == ["Done", "Done", "SPEND_LIMIT", "Skipped"]
    assert report.credits_used == 18, "the one that was left open, and one more"


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_a_length_that_no_song_has_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match=r"seconds must be more than 0.*leave out"):
        BatchItem(source="a.wav", seconds=seconds)
