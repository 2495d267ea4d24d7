"""A batch meets songs again: with other tags, under other names, with options in other words. None is bought twice."""

from __future__ import annotations

import asyncio
import io
import os
import struct
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async import (
    APIConnectionError,
    BatchItem,
    BoughtBefore,
    ConfigurationError,
    Done,
    Failed,
    Skipped,
    SourceChangedError,
    SplitCreated,
    SubmissionUncertainError,
    stream_source,
)
from aistemsplitter_async.batch import item as item_module
from aistemsplitter_async.journal import rows
from aistemsplitter_async.testing import error_reply
from tests.core.audio.made import encoded
from tests.io.batch.test_runner import GENEROUS, kinds, run
from tests.io.fakes import World

pytestmark = pytest.mark.usefixtures("inline_threads")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


@pytest.fixture
def home(tmp_path: Path) -> dict[str, Path]:
    return {"into": tmp_path / "out", "journal": tmp_path / "journal"}


def build_song(pitch: int = 40, title: str | None = None) -> bytes:
    """A short WAV file, with a title tag where one is given."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"".join(struct.pack("<h", n * pitch % 4000 - 2000) for n in range(8000)))
    data = buffer.getvalue()
    if title is None:
        return data
    text = title.encode() + b"\0" * (1 + (len(title) + 1) % 2)
    tag = b"INFO" + b"INAM" + struct.pack("<I", len(text)) + text
    data += b"LIST" + struct.pack("<I", len(tag)) + tag
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def write(path: Path, *args: Any) -> str:
    path.write_bytes(build_song(*args))
    return str(path)


def stream(data: bytes, name: str = "song.wav") -> Any:
    async def read() -> AsyncIterator[bytes]:
        yield data

    return stream_source(read, content_length=len(data), filename=name)


async def test_a_song_whose_tags_were_edited_is_finished(world: World, home: Any, tmp_path: Path) -> None:
    song = write(tmp_path / "song.wav")
    await run(world, [song], **home)
    write(tmp_path / "song.wav", 40, "Another title")
    renamed = (tmp_path / "song.wav").rename(tmp_path / "01 Another title.wav")
    asked = len(world.api.asked)
    (again,) = await run(world, [renamed], **home)
    assert isinstance(again, Skipped)
    assert (again.reason, len(again.files)) == ("finished", 4)
    assert len(world.api.asked) == asked


def id3(size: int) -> bytes:
    """An ID3v2 tag of padding."""
    return b"ID3\x04\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + bytes(size)


async def test_an_mp3_with_new_tags_at_both_ends_is_finished(world: World, home: Any, tmp_path: Path) -> None:
    audio, song = encoded("MP3", "MPEG_LAYER_III"), tmp_path / "song.mp3"
    song.write_bytes(audio)
    await run(world, [song], **home)
    song.write_bytes(id3(2000) + audio + b"TAG" + b"A title".ljust(125, b"\0"))
    assert kinds(await run(world, [song], **home)) == {"Skipped finished": 1}
    song.write_bytes(id3(2000) + encoded("MP3", "MPEG_LAYER_III", seed=2))
    assert kinds(await run(world, [song], **home)) == {"Done": 1}


async def test_another_recording_under_the_same_name_is_bought(world: World, home: Any, tmp_path: Path) -> None:
    await run(world, [write(tmp_path / "song.wav")], **home)
    assert kinds(await run(world, [write(tmp_path / "song.wav", 41)], **home)) == {"Done": 1}
    assert len(world.api.created) == 2


async def test_two_files_of_one_song_with_different_tags_are_split_once(
    world: World, home: Any, tmp_path: Path
) -> None:
    songs = [write(tmp_path / "a.wav", 40, "A"), write(tmp_path / "b.wav", 40, "B")]
    outcomes = await run(world, songs, **home)
    assert kinds(outcomes) == {"Done": 1, "Skipped duplicate": 1}
    assert [outcome.same_as for outcome in outcomes if isinstance(outcome, Skipped)] == [songs[0]]
    assert len(world.api.created) == 1


async def test_bytes_are_known_by_their_audio_and_a_stream_by_its_bytes(
    world: World, home: Any, tmp_path: Path
) -> None:
    tagged = build_song(40, "A title")
    await run(world, [BatchItem(source=build_song(), filename="song.wav")], **home)
    again = [BatchItem(source=tagged, filename="b.wav"), write(tmp_path / "c.wav", 40, "B"), stream(build_song())]
    assert kinds(await run(world, again, **home)) == {"Skipped finished": 1, "Skipped duplicate": 2}
    assert len(world.api.created) == 1
    await run(world, [stream(build_song(41, "first"))], **home)
    write(tmp_path / "d.wav", 41, "first")
    assert kinds(await run(world, [tmp_path / "d.wav"], **home)) == {"Skipped finished": 1}
    write(tmp_path / "d.wav", 41, "second")  # the file told which audio those bytes are
    assert kinds(await run(world, [tmp_path / "d.wav"], **home)) == {"Skipped finished": 1}
    assert len(world.api.created) == 2


async def test_an_upload_with_the_old_tags_is_used(world: World, home: Any, tmp_path: Path) -> None:
    world.api.script("create", error_reply(402, "INSUFFICIENT_CREDITS"))
    await run(world, [write(tmp_path / "song.wav")], **home)
    assert kinds(await run(world, [write(tmp_path / "song.wav", 40, "New")], **home)) == {"Done": 1}
    assert (world.api.count("upload"), len(world.api.created)) == (1, 1)


async def test_files_that_did_not_change_are_not_read_again(
    world: World, home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = [write(tmp_path / f"{pitch}.wav", pitch) for pitch in (40, 41, 42, 40)]
    monkeypatch.setattr(rows, "_FINE", -3600.0)  # as if they were written an hour ago; no file's ctime can be set
    monkeypatch.setattr(rows, "_COARSE", -3600.0)
    await run(world, songs, **home)
    examined = list[str]()
    monkeypatch.setattr(item_module, "_examine_file", lambda path: examined.append(str(path)))
    assert kinds(await run(world, songs[:3], **home)) == {"Skipped finished": 3}
    assert examined == []


async def test_another_song_within_the_same_tick_of_the_time_stamps_is_not_taken_for_the_first(
    world: World, home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT has times of two seconds: a file that is written twice in them has one stamp, if it has one length."""
    stamp = item_module._stamp(Path(write(tmp_path / "a.wav", 40)))
    assert stamp is not None
    coarse = attrs.evolve(stamp, mtime_ns=stamp.mtime_ns // 2_000_000_000 * 2_000_000_000)
    coarse = attrs.evolve(coarse, ctime_ns=coarse.mtime_ns)
    monkeypatch.setattr(item_module, "_stamp", lambda _: coarse)
    await run(world, [tmp_path / "a.wav"], **home)
    write(tmp_path / "a.wav", 41)
    assert (tmp_path / "a.wav").stat().st_size == coarse.size
    assert kinds(await run(world, [tmp_path / "a.wav"], **home)) == {"Done": 1}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"stem_model": "4s"}),
        ({"stem_model": "4s"}, {}),
        ({}, {"output_format": "mp3"}),
        ({"output_format": "mp3"}, {}),
        ({"stem_model": "4s"}, {"stem_model": "4s", "output_format": "mp3"}),
        ({"stem_model": "4s", "output_format": "mp3"}, {}),
    ],
)
@pytest.mark.parametrize("into", [True, False])
async def test_options_that_say_what_was_delivered_buy_nothing(
    world: World, home: Any, first: Any, then: Any, into: bool
) -> None:
    options = home if into else {"journal": home["journal"]}
    await run(world, ["https://example.com/a.mp3"], **first, **options)
    assert kinds(await run(world, ["https://example.com/a.mp3"], **then, **options)) == {"Skipped finished": 1}
    assert len(world.api.created) == 1
    assert world.of(BoughtBefore) == []


async def test_another_model_is_bought_and_that_is_said_before(world: World, home: Any) -> None:
    url = "https://example.com/a.mp3"
    await run(world, [url], **home)
    assert kinds(await run(world, [url], stem_model="6s", **home)) == {"Done": 1}
    (said,) = world.of(BoughtBefore)
    assert (said.source, said.split_id, said.delivered, said.asked) == (url, "split_1", "4s/mp3", "6s/")
    assert world.events.index(said) < world.events.index(world.of(SplitCreated)[1])
    assert len(world.api.created) == 2


async def leave(world: World, home: Any, url: str, **options: Any) -> None:
    """Leave a batch once its split is created and still running."""
    world.api.always("get", lambda exchange: world.api.split(exchange.request.url.rpartition("/")[2], "processing"))
    async with world.client(rate_limit=GENEROUS) as client, client.split_many([url], **home, **options):
        while not world.of(SplitCreated):  # virtual time
            await world.clock.sleep(1.0)
    world.api.always("get", None)


@pytest.mark.parametrize(("wanted", "bought"), [("4s", 1), ("6s", 2)])
async def test_what_the_service_chooses_is_waited_for_and_compared(
    world: World, home: Any, wanted: str, bought: int
) -> None:
    url = "https://example.com/a.mp3"
    await leave(world, home, url)
    world.api.statuses["split_1"] = ["processing", "processing", "succeeded"]
    outcomes = await run(world, [url, url], stem_model=wanted, **home)
    assert kinds(outcomes) == {"Done": 1, "Skipped duplicate": 1}
    assert len(world.api.created) == bought
    creates = [asked.at for asked in world.api.of("create")]
    polls = [asked.at for asked in world.api.of("get") if asked.exchange.request.url.endswith("split_1")]
    assert len(polls) == 3
    assert all(create >= max(polls) for create in creates[1:])


async def test_as_long_as_it_cannot_be_known_what_was_delivered_nothing_is_bought(world: World, home: Any) -> None:
    url = "https://example.com/a.mp3"

    def lose(exchange: Any) -> Any:
        world.api.do_create(exchange)
        return APIConnectionError("the connection broke")

    world.api.always("create", lose)
    await run(world, [url], patience=0.0, **home)
    (outcome,) = await run(world, [url], stem_model="4s", patience=0.0, **home)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, SubmissionUncertainError)
    await world.clock.sleep(82_801)
    (outcome,) = await run(world, [url], stem_model="4s", patience=0.0, **home)
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "NEEDS_REVIEW"
    assert len(world.api.created) == 1


async def test_a_split_that_failed_stays_failed_in_other_words(world: World, home: Any) -> None:
    url = "https://example.com/a.mp3"
    world.api.statuses["split_1"] = ["failed"]
    await run(world, [url], **home)
    for options in ({}, {"stem_model": "4s"}, {"output_format": "mp3"}, {"retry_failed": "unpaid"}):
        assert kinds(await run(world, [url], **home, **options)) == {"Failed wait": 1}
    assert len(world.api.created) == 1
    assert kinds(await run(world, [url], stem_model="4s", retry_failed=True, **home)) == {"Done": 1}
    assert b'"stemModel":"4s"' in world.api.of("create")[1].body


async def test_a_refused_create_is_tried_again_where_that_costs_nothing(world: World, home: Any) -> None:
    world.api.script("create", error_reply(422, "VALIDATION_ERROR", "no audio"))
    await run(world, ["https://example.com/a.mp3"], **home)
    assert kinds(await run(world, ["https://example.com/a.mp3"], retry_failed="unpaid", **home)) == {"Done": 1}
    assert len(world.api.created) == 1


async def test_a_refused_model_leaves_its_folder_to_the_next(world: World, home: Any) -> None:
    world.api.script("create", error_reply(422, "VALIDATION_ERROR", "there is no model 9s"))
    await run(world, ["https://example.com/song.mp3"], stem_model="9s", **home)
    assert kinds(await run(world, ["https://example.com/song.mp3"], stem_model="9s", **home)) == {"Failed create": 1}
    (done,) = await run(world, ["https://example.com/song.mp3"], stem_model="6s", **home)
    assert isinstance(done, Done)
    assert {path.parent.name for path in done.files.values()} == {"song"}
    assert len(world.api.created) == 1


async def test_a_changed_file_of_an_unknown_format_is_refused_until_a_person_decides(
    world: World, home: Any, tmp_path: Path
) -> None:
    song = tmp_path / "song.wma"
    song.write_bytes(b"some sound")
    await run(world, [song], **home)
    song.write_bytes(b"some sound with a title")
    for _ in range(2):
        (refused,) = await run(world, [song], **home)
        assert isinstance(refused, Failed)
        assert isinstance(refused.error, SourceChangedError)
        assert (refused.stage, refused.error.code) == ("prepare", "CHANGED")
        assert "split_1" in str(refused.error)
    assert kinds(await run(world, [song], changed="same", **home)) == {"Skipped finished": 1}
    assert kinds(await run(world, [song], **home)) == {"Skipped finished": 1}
    assert len(world.api.created) == 1
    song.write_bytes(b"some other sound")
    assert kinds(await run(world, [song], changed="new", **home)) == {"Done": 1}
    with pytest.raises(ConfigurationError, match="changed"):
        await run(world, [song], changed="maybe", **home)


async def test_a_re_split_in_which_one_is_uncertain_is_continued_and_not_begun_again(world: World, home: Any) -> None:
    """The advice after an uncertain create is to run the same command again, and that may have `--overwrite`."""
    songs = [f"https://example.com/{name}.mp3" for name in "ab"]
    await run(world, songs, **home)

    def lose(exchange: Any) -> Any:
        world.api.do_create(exchange)
        return APIConnectionError("the connection broke")

    def items() -> list[BatchItem]:
        return [BatchItem(source=song, anew=True) for song in songs]

    world.api.script("create", None, *[lose] * 5)
    outcomes = await run(world, items(), overwrite=True, patience=0.0, in_flight=1, **home)
    assert kinds(outcomes) == {"Done": 1, "Failed create": 1}
    assert len(world.api.created) == 4
    await run(world, items(), overwrite=True, **home)
    assert len(world.api.created) == 4


async def test_a_source_that_waits_for_a_running_split_can_be_left_and_loses_nothing(world: World, home: Any) -> None:
    url = "https://example.com/a.mp3"
    await leave(world, home, url)
    world.api.always("get", lambda exchange: world.api.split(exchange.request.url.rpartition("/")[2], "processing"))
    async with world.client(rate_limit=GENEROUS) as client, client.split_many([url], stem_model="4s", **home) as batch:
        while not batch.progress().stages.get("wait"):  # noqa: ASYNC110  # virtual time
            await asyncio.sleep(0)
    world.api.always("get", None)
    assert kinds(await run(world, [url], stem_model="4s", **home)) == {"Done": 1}
    assert len(world.api.created) == 1


@pytest.mark.parametrize(("wanted", "expected"), [("4s", {"Done": 1}), ("6s", {"Skipped not begun": 1})])
async def test_a_drained_batch_finishes_a_split_that_may_be_what_was_asked_for(
    world: World, home: Any, wanted: str, expected: dict[str, int]
) -> None:
    url = "https://example.com/a.mp3"
    await leave(world, home, url)
    world.api.statuses["split_1"] = ["processing", "processing", "succeeded"]
    async with (
        world.client(rate_limit=GENEROUS) as client,
        client.split_many([url], stem_model=wanted, **home) as batch,
    ):
        while not batch.progress().stages.get("wait"):  # noqa: ASYNC110  # virtual time
            await asyncio.sleep(0)
        batch.drain()
        assert kinds([outcome async for outcome in batch]) == expected
    assert len(world.api.created) == 1
