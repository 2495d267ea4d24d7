"""Vocals of a library, over sockets: the server counts the bytes, and only those of vocals leave it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import AsyncAIStemSplitter, Done, RateLimit
from tests.e2e.batch.bare_service import BareService, serving


async def run(service: BareService, songs: list[Path], home: Any, *stems: str) -> list[str]:
    async with (
        AsyncAIStemSplitter("ast_test", base_url=service.base_url, rate_limit=RateLimit(10_000)) as client,
        client.split_many(songs, stems=stems or None, **home) as batch,
    ):
        return [type(outcome).__name__ async for outcome in batch]


def bytes_here(into: Path, *stems: str) -> Counter[str]:
    """Bytes of the files of these stems, by the stem."""
    return Counter({stem: sum(file.stat().st_size for file in into.rglob(f"{stem}.mp3")) for stem in stems})


def sent_by(service: BareService) -> Counter[str]:
    sent = Counter[str]()
    for path, count in service.sent.items():
        sent[Path(path).stem] += count
    return sent


@pytest.mark.parametrize("wanted", [("vocals",), ()], ids=["vocals", "the control: everything"])
async def test_only_the_bytes_of_vocals_leave_the_server(wanted: tuple[str, ...], tmp_path: Path) -> None:
    songs = [tmp_path / f"song {number}.wav" for number in range(3)]
    for song in songs:
        song.write_bytes(song.name.encode() * 100)
    home = {"into": tmp_path / "stems", "journal": tmp_path / "journal"}
    async with serving() as service:
        assert await run(service, songs, home, *wanted) == ["Done"] * 3
        only_vocals = sent_by(service) == bytes_here(home["into"], "vocals")
        assert only_vocals == (wanted == ("vocals",))
        if not wanted:
            return
        gets = service.gets.total()
        assert await run(service, songs, home, "vocals", "bass") == ["Done"] * 3
        assert service.gets.total() == gets + 3, "one to renew the URLs of each"
        assert sent_by(service) == bytes_here(home["into"], "vocals", "bass")
        assert await run(service, songs, home, "bass") == ["Skipped"] * 3
        assert service.gets.total() == gets + 3
        assert sorted({file.name for file in home["into"].rglob("*") if file.is_file()}) == [
            ".stems.json", "bass.mp3", "vocals.mp3",
        ]  # fmt: skip
        assert set(service.charged.values()) == {1}
        assert len(service.charged) == 3


async def test_one_song_by_a_client_and_by_its_job(tmp_path: Path) -> None:
    async with (
        serving() as service,
        AsyncAIStemSplitter("ast_test", base_url=service.base_url, rate_limit=RateLimit(10_000)) as client,
    ):
        done = await client.split(b"sound" * 100, into=tmp_path, name="song", stems=("vocals",))
        assert isinstance(done, Done)
        assert list(done.files) == ["vocals"]
        files = await client.job(done.split.id).download(tmp_path, name="song", stems=("vocals", "other"))
        assert list(files) == ["vocals", "other"]
        assert sent_by(service) == bytes_here(tmp_path, "vocals", "other")
        assert sorted(path.name for path in (tmp_path / "song").iterdir()) == [
            ".stems.json", "other.mp3", "vocals.mp3",
        ]  # fmt: skip
