"""What a search left out, as it is told: how much, which, and what to do."""

from __future__ import annotations

from aistemsplitter_async.cli.ignored import IgnoredFiles
from aistemsplitter_async.library.found import Ignored
from aistemsplitter_async.library.kinds import Kind


def tally(*found: Ignored) -> IgnoredFiles:
    files = IgnoredFiles()
    for one in found:
        files.note(one)
    return files


def test_videos_are_told_with_examples_and_the_patterns_that_take_them() -> None:
    files = tally(
        Ignored("/m y/a", 2, Kind.VIDEO, ("1.mkv", "2.mkv"), "/m y"),
        Ignored("/m y", 1, Kind.VIDEO, ("3.MP4",), "/m y"),
        Ignored("/m y", 2, Kind.VIDEO, ("4.ts", "5.ts"), "/m y"),
    )
    (line,) = files.lines()
    assert line.startswith("left out: 5 videos (a/1.mkv, a/2.mkv, 3.MP4, ..); ")
    assert line.endswith("'/m y/**/*.mkv' '/m y/**/*.MP4' '/m y/**/*.ts'")


def test_videos_that_are_taken_after_all_are_not_left_out() -> None:
    left, taken = ("/m/a", "/m"), Ignored("/m/a", -1, Kind.VIDEO, ("1.mkv",), None)
    files = tally(
        Ignored(left[0], 1, Kind.VIDEO, ("1.mkv",), left[1]), Ignored(left[0], 1, Kind.VIDEO, ("2.ts",), left[1]), taken
    )
    (line,) = files.lines()
    assert line.startswith("left out: 1 video (a/2.ts); ")
    assert line.endswith(": '/m/**/*.ts'")
    assert tally(Ignored("/m/a", 1, Kind.VIDEO, ("1.mkv",), "/m"), taken).lines() == []


def test_every_kind_is_told_once_and_counted_in_json() -> None:
    files = tally(*(Ignored("/m", 2, kind, ("x.y", "\x1b.z"), "/m") for kind in Kind), Ignored("/m", 1))
    assert len(files.lines()) == len(Kind)
    assert all(line.isprintable() for line in files.lines())
    assert files.lines()[-1] == "left out: 3 other files"
    assert files.lines(without=Kind.OTHER) == files.lines()[:-1]
    assert files.as_json() == {**{kind.value: 2 for kind in Kind}, "other": 3}
    assert IgnoredFiles().lines() == []
