"""A library with what programs leave among the songs: all commands count the same songs, and say what they left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.harness import CLI, build_wav

IGNORED = {"video": 2, "elsewhere": 1, "unfinished": 1, "protected": 1, "stem": 2, "hidden": 1, "system": 4, "other": 1}
NO_SONGS = (
    *("#recycle/old.wav", "lost+found/x.wav", "System Volume Information/x.wav", "._01.wav", "film.mkv", "clip.MP4"),
    *("a.mp3.part", ".b.mp3.icloud", "c.m4p", ".d.wav", "cover.jpg", "sep/vocals.wav", "sep/no_vocals.wav"),
)
TEMPLATE = "{albumartist}/{year}/{album}/{disc}-{track} {title}/{stem}.{ext}"


@pytest.fixture
def music(cli: CLI) -> Path:
    folder = cli.folder / "m"
    for number, name in enumerate((*NO_SONGS, "Album/CD1/01.wav", "Album/Disc 2/01.wav")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(build_wav(1.0 + number / 8))
    return folder


async def test_what_is_no_song_is_counted_alike_by_all_commands_and_fails_none(cli: CLI, music: Path) -> None:
    async with Sandbox(separation="silent") as sandbox:
        using = cli.using(sandbox)
        estimate = await using.run("estimate", music, "--json")
        plan = await using.run("batch", music, "--into", "out", "--dry-run", "--json")
        ended = await using.run("batch", music, "--into", "out")
        assert len(sandbox.ledger.charges) == 2
    assert [one.code for one in (estimate, plan, ended)] == [0, 0, 0], ended.err
    assert (estimate.json[0]["tracks"], estimate.json[0]["ignored"]) == (2, IGNORED)
    assert [one["folder"] for one in plan.json[:-1]] == ["out/01", "out/01 (2)"]
    assert plan.json[-1]["ignored"] == IGNORED
    assert "2 split, 1 other file ignored" in ended.err
    for error in (estimate.err, plan.err, ended.err):
        (videos,) = [
            line for line in error.splitlines() if line.startswith("left out: 2 videos (clip.MP4, film.mkv); ")
        ]
        assert f"{music}/**/*.mkv" in videos
        assert f"{music}/**/*.MP4" in videos
    assert {path.parent.name for path in (cli.folder / "out").glob("*/vocals.mp3")} == {"01", "01 (2)"}


async def test_what_is_named_is_taken(cli: CLI, music: Path) -> None:
    paths = (music, f"{music}/**/*.mkv", music / "lost+found", music / "sep" / "vocals.wav")
    estimate = await cli.run("estimate", *paths, "--json")
    assert estimate.code == 0
    left_out = estimate.json[0]["ignored"]
    assert (estimate.json[0]["tracks"], left_out["video"], left_out["stem"]) == (5, 1, IGNORED["stem"] - 1)


async def test_two_discs_keep_their_discs(cli: CLI, music: Path) -> None:
    plan = await cli.run("batch", music, "--into", "out", "--dry-run", "--json", "--template", TEMPLATE)
    above = "out/Unknown Artist/Unknown Year/Unknown Album"
    assert [one["folder"] for one in plan.json[:-1]] == [f"{above}/1-00 01", f"{above}/2-00 01"]


async def test_an_estimate_refuses_the_files_that_a_run_refuses(cli: CLI) -> None:
    folder = cli.folder / "m"
    folder.mkdir()
    (folder / "empty.mp3").touch()
    (folder / "song.wav").write_bytes(build_wav())
    ended = await cli.run("estimate", folder)
    assert (ended.code, ended.out.splitlines()[0].split()[1]) == (1, "1")
    assert "empty.mp3: it is empty" in ended.err
