from __future__ import annotations

import unicodedata
from pathlib import Path

from hypothesis import given, strategies as st

from aistemsplitter_async.cli.sources import advise_on, plan_folders, plan_labels, settle_sources


def test_a_folder_is_named_like_its_source() -> None:
    assert plan_folders(["a/song.mp3", "https://x.example/path/tune.wav?sig=1"]) == ["song", "tune"]


def test_sources_of_one_name_get_numbers() -> None:
    assert plan_folders(["a/song.mp3", "b/song.wav", "c/Song.ogg"]) == ["song", "song-2", "Song-3"]


def test_a_number_does_not_run_into_another_sources_name() -> None:
    assert plan_folders(["a/song.mp3", "b/song.mp3", "song-2.mp3"]) == ["song", "song-3", "song-2"]


def test_a_url_without_a_name_gets_one() -> None:
    assert plan_folders(["https://x.example", "https://y.example/"]) == ["audio", "audio-2"]


@given(st.lists(st.sampled_from(["a", "A", "a-2", "a-3", "a-2-2", "b", "B-2"])))
def test_no_two_folders_are_the_same_even_where_case_does_not_count(names: list[str]) -> None:
    folders = plan_folders([f"{place}/{name}.mp3" for place, name in enumerate(names)])
    assert len({folder.casefold() for folder in folders}) == len(names)


def test_a_file_given_twice_is_split_once(tmp_path: Path) -> None:
    song = tmp_path / "song.mp3"
    song.touch()
    other = tmp_path / "other.mp3"
    other.symlink_to(song)
    (tmp_path / "hard.mp3").hardlink_to(song)
    given = [str(song), f"{tmp_path}/./song.mp3", str(other), "b.mp3", str(tmp_path / "hard.mp3"), "b.mp3"]
    assert settle_sources(given) == [str(song), "b.mp3"]


def test_a_file_is_found_whatever_the_form_of_its_accents(tmp_path: Path) -> None:
    song = tmp_path / "Mu\u0301sica" / "\xe9.mp3"
    song.parent.mkdir()
    song.touch()
    for form in ("NFC", "NFD"):
        (found,) = settle_sources([unicodedata.normalize(form, str(song))])
        assert Path(found).samefile(song)
    assert settle_sources([str(song).upper(), "a\x00b"]) == [str(song).upper(), "a\x00b"], "capitals count"


def test_a_label_is_as_short_as_it_can_be() -> None:
    assert plan_labels(["x/a.mp3", "y/a.mp3", "z/b.mp3", "https://h.example/"]) == [
        "x/a.mp3",
        "y/a.mp3",
        "b.mp3",
        "https://h.example/",
    ]


def test_folders_lists_and_patterns_are_sent_to_batch(tmp_path: Path) -> None:
    (tmp_path / "songs.m3u").write_text("a.wav")
    (tmp_path / "page.mp3").write_text("<html>")
    for name in (".", "songs.m3u", "*.wav"):
        advice = advise_on(str(tmp_path / name))
        assert advice is not None
        assert "batch" in advice
    for source in (str(tmp_path / "page.mp3"), str(tmp_path / "missing.wav"), "https://x.example/a?b=[c]"):
        assert advise_on(source) is None
