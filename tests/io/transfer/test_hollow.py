"""Files of which nothing is on the disk: clouds and reserved downloads leave them in the place of songs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aistemsplitter_async._transfer.audio import build_source, guess_content_type
from aistemsplitter_async._transfer.file_source import FileSource
from aistemsplitter_async.errors import SourceUnreadableError

SIZE = 4 * 1024 * 1024
finds_data = pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="the system does not tell where data is")


def hollow(path: Path) -> Path:
    """Write a file without data, or skip where the file system stores zeros."""
    with path.open("wb") as file:
        file.truncate(SIZE)
    if path.stat().st_blocks:
        pytest.skip("this file system has no holes")
    return path


@finds_data
async def test_a_file_of_which_nothing_is_on_the_disk_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    path = hollow(tmp_path / "song.mp3")
    with pytest.raises(SourceUnreadableError, match="nothing of it is on this disk; download it first"):
        await build_source(path)
    with path.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"x")
    source = await build_source(path)
    assert isinstance(source, FileSource), "a file with holes is a file"


async def test_a_small_file_is_not_taken_for_a_hollow_one(tmp_path: Path) -> None:
    (tmp_path / "song.mp3").write_bytes(b"x")  # some file systems keep such a file in the inode: it has no blocks
    assert isinstance(await build_source(tmp_path / "song.mp3"), FileSource)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.ts", "video/mp2t"), ("a.MTS", "video/mp2t"), ("a.mkv", "video/x-matroska"), ("a.wv", "audio/x-wavpack")],
)
def test_a_name_that_other_trades_have_too_is_that_of_sound(name: str, kind: str) -> None:
    assert guess_content_type(name) == kind
