"""Output names from templates: with any tags, the result is one safe place that no other track has."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings, strategies as st

from aistemsplitter_async._transfer.names import check_name, fold, plan_names
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.library.template import FIELDS, Place, Tags, choose_place, disc_of_folder, parse_template

FULL = "{artist}/{album}/{title}/{stem}.{ext}"
SONG = Tags(
    artist="Björk", albumartist="Various", album="Début", title="Human", track=1, year="1993-07-05", genre="Pop"
)
HOSTILE = [
    "../..",
    "/etc/passwd",
    "..\\..\\x",
    "C:\\x",
    "{stem}",
    "{stem}.{ext}",
    "\uff5bstem\uff5d",
    "con",
    "COM\u00b9.x",
    "\x1b[2J",
    "\u202egpj.exe",
    "a\x00b",
    "...",
    " . ",
    "\ud800",
    "x" * 500,
    "\ufdfa" * 40,
    "🎵" * 100,
    "\uff0e\uff0e\uff0f",
    "",
]


def place(text: str, tags: Tags = SONG, *, filename: str = "01 human.flac", folder: str = "", id: str = "7") -> str:  # noqa: A002
    found = parse_template(text).fill(tags, filename=filename, folder=folder, id=id)
    return f"{found.folder} : {found.pattern}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FULL, "Björk/Début/Human : {stem}"),
        ("{title} - {stem}.{ext}", " : Human - {stem}"),
        ("{artist}/{title} - {stem}.{ext}", "Björk : Human - {stem}"),
        ("{albumartist}/{year} {album}/{track} {title}/{stem}.{ext}", "Various/1993 Début/01 Human : {stem}"),
        ("Stems/{genre}/{id}/{stem} of {filename}.{ext}", "Stems/Pop/7 : {stem} of 01 human"),
        ("{folder}/{filename}/{stem}.{ext}", "a/b/01 human : {stem}"),
        ("{filename}/{stem}.{ext}", "01 human : {stem}"),
    ],
)
def test_a_template_is_filled_with_what_is_known(text: str, expected: str) -> None:
    assert place(text, folder="a/b") == expected


@pytest.mark.parametrize(
    ("text", "filename", "expected"),
    [
        (FULL, "song.mp3", "Unknown Artist/Unknown Album/song : {stem}"),
        (FULL, "", "Unknown Artist/Unknown Album/7 : {stem}"),
        ("{year}/{genre}/{track} {title}/{stem}.{ext}", "a.b.mp3", "Unknown Year/Unknown Genre/00 a.b : {stem}"),
        ("{folder}/{title}/{stem}.{ext}", "song.mp3", "song : {stem}"),
    ],
)
def test_what_is_missing_falls_back(text: str, filename: str, expected: str) -> None:
    assert place(text, Tags(), filename=filename) == expected


def test_the_artist_and_the_album_artist_stand_in_for_each_other() -> None:
    assert place("{albumartist}/{artist}/{stem}.{ext}", Tags(artist="A")) == "A/A : {stem}"
    assert place("{albumartist}/{artist}/{stem}.{ext}", Tags(albumartist="B")) == "B/B : {stem}"


@pytest.mark.parametrize("field", ["Artist", "", "title!r", "title:>9", "0", "title.__class__", "bpm"])
def test_an_unknown_field_is_named_with_the_known_ones(field: str) -> None:
    with pytest.raises(ConfigurationError, match="no field") as caught:
        parse_template(f"{{{field}}}/{{stem}}.{{ext}}")
    assert f"{{{field}}};" in str(caught.value)
    assert all(f"{{{known}}}" in str(caught.value) for known in FIELDS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "{stem} must occur exactly once"),
        ("{title}.{ext}", "{stem} must occur exactly once"),
        ("{stem}/{title}.{ext}", "{stem} must occur exactly once"),
        ("{title}/{stem} {stem}.{ext}", "{stem} must occur exactly once"),
        ("{stem}/{title} {stem}.{ext}", "{stem} must occur exactly once"),
        ("{title}/{stem}", "must end in .{ext}"),
        ("{title}/{stem}.wav", "must end in .{ext}"),
        ("{ext}/{title}/{stem}.{ext}", "must end in .{ext}"),
        ("{stem}.{ext}", "same place"),
        ("stems/{stem}.{ext}", "same place"),
        ("x{folder}/{stem}.{ext}", "a separate part"),
        ("{folder} {stem}.{ext}", "a separate part"),
        ("{title/{stem}.{ext}", "brace"),
        ("{title}}/{stem}.{ext}", "brace"),
        ("/{title}/{stem}.{ext}", "nothing but dots"),
        ("{title}//{stem}.{ext}", "nothing but dots"),
        ("../{title}/{stem}.{ext}", "nothing but dots"),
        ("con/{title}/{stem}.{ext}", "reserved on Windows"),
        ("{artist}\\{title}/{stem}.{ext}", "one of /"),
        ("C:/{title}/{stem}.{ext}", "one of /"),
        (".{title}/{stem}.{ext}", "a dot or a space"),
        ("{title}/{stem} .{ext}", "a dot or a space"),
        ("{title}\x00/{stem}.{ext}", "control"),
        ("\uff0e\uff0e/{title}/{stem}.{ext}", "nothing but dots"),
        ("\ufb01{title}/{stem}.{ext}", "change characters"),
        ("x" * 61 + "{title}/{stem}.{ext}", "no room"),
        ("{title}/" + "x" * 41 + "{stem}.{ext}", "no room"),
    ],
)
def test_a_template_that_cannot_work_says_why(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_template(text)
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()


texts = st.text(max_size=20) | st.sampled_from(HOSTILE)
some_tags = st.builds(
    Tags,
    artist=texts | st.none(),
    albumartist=texts | st.none(),
    album=texts | st.none(),
    title=texts | st.none(),
    year=texts | st.none(),
    genre=texts | st.none(),
    track=st.integers(-5, 10**12) | st.none(),
)
TEMPLATES = [
    FULL,
    "{filename}/{stem}.{ext}",
    "{artist} - {title} - {stem}.{ext}",
    "{folder}/{year} {album}/{track} {title} {stem}.{ext}",
    "{genre}{genre}{genre}{id}/{title}{title}{title}{stem}{artist}.{ext}",
]


@settings(max_examples=150)
@given(st.sampled_from(TEMPLATES), some_tags, texts, texts, texts)
@example(FULL, Tags(artist="../..", album="..", title="/"), "", "../../..", "")
@example(TEMPLATES[2], Tags(artist="{stem}", title="\uff5bstem\uff5d"), "{stem}", "", "")
@example(TEMPLATES[4], Tags(title="x" * 500, artist="é" * 500, genre="🎵" * 500), "", "", "x" * 500)
def test_whatever_tags_say_every_part_is_a_safe_name(
    text: str, tags: Tags, filename: str, folder: str, track_id: str
) -> None:
    found = parse_template(text).fill(tags, filename=filename, folder=folder, id=track_id)
    for name in found.folder.split("/") if found.folder else []:
        assert check_name(name) == name
    stems = ["vocals", "drums", "a stem of forty bytes, which is the limit"[:40]]
    names, refused = plan_names(stems, found.pattern)
    assert not refused
    assert len({fold(name) for name in names.values()}) == len(stems)
    assert found == parse_template(text).fill(tags, filename=filename, folder=folder, id=track_id)


def test_the_longest_values_are_shortened_and_the_rest_is_kept() -> None:
    found = parse_template("{artist} - {title} - {stem}.{ext}").fill(
        Tags(artist="Short", title="x" * 500), filename="x.mp3"
    )
    assert found.pattern.startswith("Short - xxx")
    assert found.pattern.endswith("x - {stem}")
    assert len(found.pattern.replace("{stem}", "")) == 80


def take(wanted: list[Place]) -> list[Place]:
    """Give every track its place, one after the other."""
    taken: set[str] = set()
    chosen = []
    for want in wanted:
        chosen.append(choose_place(want, taken.__contains__))
        taken.add(chosen[-1].key)
    return chosen


def test_tracks_that_want_the_same_place_are_numbered() -> None:
    wanted = [Place("A/Song", "{stem}"), Place("a/SONG", "{stem}"), Place("A/Song", "{stem}"), Place("A", "{stem}")]
    assert [found.folder for found in take(wanted)] == ["A/Song", "a/SONG (2)", "A/Song (3)", "A"]
    files = [Place("A", "Song - {stem}"), Place("A", "song - {stem}"), Place("A", "Other - {stem}")]
    assert [found.pattern for found in take(files)] == ["Song - {stem}", "song - {stem} (2)", "Other - {stem}"]
    assert [found.folder for found in take([Place("", "{stem}"), Place("", "{stem}")])] == ["", "(2)"]


def test_a_number_that_a_title_has_by_itself_is_not_given_twice() -> None:
    wanted = [
        Place("Song (2)", "{stem}"),
        Place("Song", "{stem}"),
        Place("Song", "{stem}"),
        Place("Song (2)", "{stem}"),
    ]
    assert [found.folder for found in take(wanted)] == ["Song (2)", "Song", "Song (3)", "Song (2) (2)"]


def test_a_numbered_name_is_as_safe_and_as_short_as_any() -> None:
    long = Place("é" * 60, "{stem}")
    second = choose_place(long, {long.key}.__contains__)
    assert second.folder.endswith("é (2)")
    assert check_name(second.folder) == second.folder


def test_the_thousandth_track_of_a_name_asks_a_few_times_only() -> None:
    want = Place("audio", "{stem}")
    taken = {fold("audio/{stem}"), *(fold(f"audio ({number})/{{stem}}") for number in range(2, 1001))}
    asked = 0

    def is_taken(key: str) -> bool:
        nonlocal asked
        asked += 1
        return key in taken

    assert choose_place(want, is_taken).folder == "audio (1001)"
    assert asked < 25


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["A", "a", "A (2)", "a (3)", "é", "e\u0301", "ß", "SS", "K", "\u212a"]), max_size=20))
def test_no_two_tracks_get_the_same_place_and_a_repetition_gives_the_same_ones(names: list[str]) -> None:
    wanted = [Place(unicodedata.normalize("NFKC", name), "{stem}") for name in names]
    chosen = take(wanted)
    assert len({found.key for found in chosen}) == len(names)
    assert chosen == take(wanted)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (Tags(), "1-00"),
        (Tags(disc=2, track=3), "2-03"),
        (Tags(disc=2, discs=12, track=3, tracks=140), "02-003"),
        (Tags(disc=2, discs=2, track=100), "2-100"),
    ],
)
def test_disc_and_track_numbers_are_in_the_order_of_their_names(tags: Tags, expected: str) -> None:
    assert place("{disc}-{track}/{stem}.{ext}", tags) == f"{expected} : {{stem}}"


def test_a_format_of_a_number_is_refused_with_what_a_number_looks_like() -> None:
    with pytest.raises(ConfigurationError, match=r"no field \{track:02\}; numbers need no format: \{track\} has zeros"):
        parse_template("{track:02} {title}/{stem}.{ext}")


@pytest.mark.parametrize(
    ("folder", "disc"),
    [
        *(("CD1", 1), ("cd 02", 2), ("Disc 2", 2), ("Disk_3", 3), ("The Wall (Disc 2)", 2), ("X - CD12 Bonus", 12)),
        *(("ABCD1", None), ("CD", None), ("Disco 2", None), ("CD2001", None), ("CD0", None), ("", None)),
    ],
)
def test_the_name_of_a_folder_tells_the_disc(folder: str, disc: int | None) -> None:
    assert disc_of_folder(folder) == disc
