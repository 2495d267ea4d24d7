"""Names from elsewhere: what is accepted is one harmless path component on every system."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import pytest
from hypothesis import example, given, settings, strategies as st

from aistemsplitter_async._transfer.names import (
    AUDIO_EXTENSIONS,
    KNOWN_STEMS,
    NAME_CAP_BYTES,
    check_name,
    extension_for,
    fold,
    folder_name,
    make_name,
    plan_names,
)
from aistemsplitter_async._wire.urls import filename_of_url
from aistemsplitter_async.errors import UnsafeNameError

REFUSED = {
    "empty": "",
    "dot": ".",
    "two dots": "..",
    "dots": "....",
    "space": " ",
    "dots and spaces": ". .",
    "ideographic space": "\u3000",
    "no-break space": "\u00a0vocals",
    "parent": "../vocals",
    "deep parent": "a/../../etc/passwd",
    "absolute": "/etc/passwd",
    "backslash": "..\\vocals",
    "drive": "C:vocals",
    "unc": "\\\\server\\share",
    "stream": "vocals:hidden",
    "fullwidth solidus": "a\uff0fb",
    "fullwidth reverse solidus": "a\uff3cb",
    "fullwidth colon": "a\uff1ab",
    "fullwidth dots": "\uff0e\uff0e",
    "one dot leader": "\u2024\u2024",
    "ellipsis": "\u2026",
    "care of": "\u2105vocals",
    "account of": "\u2100",
    "small colon": "a\ufe55b",
    "nul": "a\x00b",
    "newline": "a\nb",
    "escape": "\x1b[31m",
    "delete": "a\x7f",
    "next line": "a\x85b",
    "right to left override": "a\u202egpj.exe",
    "isolate": "\u2066a",
    "arabic letter mark": "a\u061cb",
    "zero width": "vo\u200bcals",
    "byte order mark": "\ufeffvocals",
    "line separator": "a\u2028b",
    "tag": "a\U000e0041",
    "tag behind a flag": "\U0001f3f4\U000e0041",
    "flag without its end": "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e",
    "joiner between letters that do not join": "vo\u200dcals",
    "joiner of nothing": "\u200dvocals",
    "two joiners": "\u0647\u200d\u200d",
    "joiner behind a space": "a \u200cb",
    "override behind an emoji": "\U0001f3b5\u202egpj",
    "private use": "a\ue000",
    "unassigned": "a\u0378",
    "noncharacter": "a\uffff",
    "surrogate": "a\ud800",
    "star": "a*",
    "question": "a?",
    "quote": 'a"',
    "angle": "<a>",
    "pipe": "a|b",
    "trailing dot": "vocals.",
    "trailing space": "vocals ",
    "leading space": " vocals",
    "hidden": ".bashrc",
    "our memory": ".stems",
    "our part": ".vocals",
    "con": "con",
    "CON": "CON",
    "con with extension": "Con.vocals",
    "con with spaces": "con  .vocals",
    "aux": "aux",
    "nul device": "NUL.tar.gz",
    "com1": "com1",
    "com superscript one": "COM\u00b9",
    "lpt superscript three": "lpt\u00b3.x",
    "conin": "CONIN$",
    "conout": "conout$",
    "fullwidth con": "\uff23\uff2f\uff2e",
    "long": "x" * (NAME_CAP_BYTES + 1),
    "long in bytes": "é" * 61,
    "long once normalised": "\ufdfa" * 5,
}
ACCEPTED = [
    *sorted(KNOWN_STEMS),
    "Lead Vocals (2)",
    "vocals.dry",
    "contrabass",
    "com10",
    "console",
    "Stimme für Björk",
    "ボーカル",
    "-rf",
    "~",
    "x" * NAME_CAP_BYTES,
    "🎵",
    "a..b",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian: a joiner keeps the parts of the word apart
    "\u0647\u200d",
    "\u0dc1\u0dca\u200d\u0dbb\u0dd3",  # Sinhala: Shri
    "\u0915\u094d\u200d\u0937",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    "\u2764\ufe0f\u200d\U0001f525",
    "\U0001f3c3\U0001f3fd\u200d\u2640\ufe0f",
    "\U0001f642\u200d\u2194\ufe0f",
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # England
    "\U0001faea",  # newer than the Unicode of every Python there is
]


@pytest.mark.parametrize("name", REFUSED.values(), ids=REFUSED.keys())
def test_a_hostile_name_is_refused_in_words_safe_to_show(name: str) -> None:
    with pytest.raises(UnsafeNameError) as caught:
        check_name(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_ordinary_name_passes_unchanged(name: str) -> None:
    assert check_name(name) == name


def test_a_name_is_normalised_before_it_is_judged() -> None:
    assert check_name("\uff56\uff4f\uff43\uff41\uff4c\uff53") == "vocals"
    assert check_name("u\u0308ber") == "über"


def one_component(name: str) -> bool:
    """Whether `name` is one file in the folder it is joined to, by the rules of POSIX and of Windows."""
    return (
        bool(name.strip("."))
        and PurePosixPath("folder", name).parent == PurePosixPath("folder")
        and PureWindowsPath("folder", name).parent == PureWindowsPath("folder")
        and PurePosixPath("folder", name).name == PureWindowsPath("folder", name).name == name
        and not PureWindowsPath(name).is_reserved()
    )


nasty = st.text(
    st.sampled_from(
        "\u200d\u200c\U000e0067\U000e007f\U0001f3f4"
        "./\\:* \x00\n\u202e\uff0f\uff0e\u2024\u00b9\u00e9\u0301aconCOM1$~é🎵\ud800\u2105"
    )
    | st.characters(),
    max_size=12,
)


@given(nasty | st.sampled_from(sorted(REFUSED.values())))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # is_reserved, in newer Pythons
def test_an_accepted_name_is_one_component_that_round_trips(name: str) -> None:
    try:
        safe = check_name(name)
    except UnsafeNameError:
        return
    assert one_component(safe)
    assert os.fsdecode(os.fsencode(safe)) == safe
    assert unicodedata.normalize("NFKC", safe) == safe
    assert check_name(safe) == safe
    assert not safe.startswith(".")
    assert len(os.fsencode(f".{safe}.part")) < 200


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_check_for_one_component_can_fail() -> None:
    for name in ("a/b", "..", "C:a", "a\\b", "con"):
        assert not one_component(name)


def test_every_accepted_name_can_be_written_and_listed(tmp_path: Path) -> None:
    for name in ACCEPTED:
        (tmp_path / f"{name}.wav").write_bytes(b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.wav" for name in ACCEPTED)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Vocals", "vocals"),
        ("vocals", "VOCALS"),
        ("straße", "STRASSE"),
        ("ﬁddle", "fiddle"),
        ("é", "e\u0301"),
        ("\uff56\uff4f\uff43\uff41\uff4c\uff53", "vocals"),
        ("K", "\u212a"),
        ("ς", "\u03c3"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u062e"),  # to HFS+
        ("ǰ", "J\u030c"),
        ("\u0390", "\u1fd3"),
    ],
)
def test_of_names_that_some_system_holds_for_one_only_the_first_is_taken(first: str, second: str) -> None:
    names, refused = plan_names([first, second])
    assert list(names) == [first]
    assert list(refused) == [second]
    assert "same file" in str(refused[second])


def test_a_refused_name_does_not_stop_its_siblings() -> None:
    names, refused = plan_names(["vocals", "../x", "drums", ""])
    assert names == {"vocals": "vocals", "drums": "drums"}
    assert sorted(refused) == ["", "../x"]


@settings(max_examples=50)
@given(st.lists(nasty | st.sampled_from(["vocals", "Vocals", "VOCALS ", "K", "\u212a"]), unique=True, max_size=8))
def test_planned_names_never_meet_in_any_case_or_normal_form(stems: list[str]) -> None:
    names, refused = plan_names(stems)
    assert sorted([*names, *refused]) == sorted(stems)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        for spell in (str.casefold, str.lower, str.upper):
            folded = [unicodedata.normalize(form, spell(name)) for name in names.values()]
            assert len({unicodedata.normalize("NFKC", name.casefold()) for name in folded}) == len(names)


def test_a_pattern_is_filled_with_each_stem() -> None:
    names, refused = plan_names(["vocals", "../x", "Lead"], "Song - {stem} (2)")
    assert names == {"vocals": "Song - vocals (2)", "Lead": "Song - Lead (2)"}
    assert list(refused) == ["../x"]


@pytest.mark.parametrize(
    "pattern",
    ["", "Song", "{stem} {stem}", "{Stem}", "../{stem}", "a/{stem}", ".{stem}", "{stem}.", "x" * 120 + "{stem}"],
)
def test_a_pattern_without_one_place_for_the_stem_in_a_safe_name_gives_no_names(pattern: str) -> None:
    names, refused = plan_names(["vocals", "drums"], pattern)
    assert (names, list(refused)) == ({}, ["vocals", "drums"])


def test_names_are_judged_as_a_whole() -> None:
    names, refused = plan_names(["1", "x"], "com{stem}")
    assert names == {"x": "comx"}
    assert list(refused) == ["1"]


@settings(max_examples=50)
@given(nasty | st.sampled_from(sorted(REFUSED.values())) | st.text(min_size=100, max_size=300))
@example("con." + "x" * 200)
@example("a" * 119 + "é")
@example("x" * 119 + " y")
@example("...And Justice for All")
def test_a_made_name_always_passes_the_check(text: str) -> None:
    made = make_name(text, fallback="split")
    assert check_name(made) == made


@pytest.mark.parametrize(
    ("filename", "folder"),
    [
        ("song.wav", "song"),
        ("song.tar.gz", "song.tar"),
        ("/home/me/song.wav", "song"),
        ("C:\\Music\\song.wav", "song"),
        ("../../etc/passwd", "passwd"),
        ("...And Justice for All.mp3", "And Justice for All"),
        ("AC/DC: Thunderstruck?.mp3", "DC_ Thunderstruck_"),
        ("con.wav", "_con"),
        ("COM¹.wav", "_COM1"),
        ("song . .wav", "song"),
        ("..", "fallback"),
        ("", "fallback"),
        (None, "fallback"),
        ("   ", "fallback"),
        ("日本語の歌.flac", "日本語の歌"),
        ("é" * 100 + ".wav", "é" * 60),
        (
            "\U0001f468\u200d\U0001f469 \u0645\u06cc\u200c\u062e.wav",
            "\U0001f468\u200d\U0001f469 \u0645\u06cc\u200c\u062e",
        ),
        ("vo\u200dc\u202eals.wav", "vo_c_als"),
        ("x" * 113 + "\U0001f468\u200d\U0001f469.wav", "x" * 113 + "\U0001f468"),
        (
            "x" * 112 + "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
            "x" * 112 + "\U0001f3f4",
        ),
    ],
)
def test_a_sources_folder_is_the_nearest_safe_name(filename: str | None, folder: str) -> None:
    assert folder_name(filename, fallback="fallback") == folder


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a.example/x/song.wav?sig=a/b.mp3#c/d", "song.wav"),
        ("https://a.example/caf%C3%A9.wav", "café.wav"),
        ("https://a.example/a%2F..%2Fsong.wav", "song.wav"),
        ("https://a.example/", ""),
        ("https://a.example", ""),
        ("https://[", ""),
        ("", ""),
    ],
)
def test_a_urls_file_name_is_the_last_part_of_its_path(url: str, name: str) -> None:
    assert filename_of_url(url) == name


@pytest.mark.parametrize(
    ("url", "content_type", "extension"),
    [
        ("https://c.example/vocals.mp3?sig=x.wav", None, "mp3"),
        ("https://c.example/vocals.WAV", "audio/mpeg", "wav"),
        ("https://c.example/vocals", "audio/mpeg; charset=x", "mp3"),
        ("https://c.example/vocals", " Audio/X-WAV ", "wav"),
        ("https://c.example/vocals.", "audio/flac", "flac"),
        ("https://c.example/vocals.a%2Fb", None, "bin"),
        ("https://c.example/vocals.toolong", None, "bin"),
        ("https://c.example/vocals.exe", "audio/mpeg", "mp3"),
        ("https://c.example/vocals.html", None, "bin"),
        ("https://c.example/vocals.v2", "audio/x-flac", "flac"),
        ("https://c.example/vocals.mp\u00b3", None, "bin"),
        ("https://c.example/a.wav/vocals", None, "bin"),
        ("https://c.example/", "text/html", "bin"),
    ],
)
def test_an_extension_is_short_plain_and_falls_back_to_the_type(
    url: str, content_type: str | None, extension: str
) -> None:
    assert extension_for(url, content_type) == extension


@given(st.text())
def test_any_text_after_a_host_gives_a_harmless_extension(path: str) -> None:
    extension = extension_for("https://c.example/" + path.replace("[", ""), path)
    assert extension in {*AUDIO_EXTENSIONS, "bin"}


@given(st.text(max_size=6), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
@example("\u03b1\u0345\u0301", "NFC")  # folded as it is, the marks stay in an order of their own
def test_spellings_of_one_name_fold_to_one_key(name: str, form: Literal["NFC", "NFD", "NFKC", "NFKD"]) -> None:
    assert fold(unicodedata.normalize(form, name)) == fold(name) == fold(fold(name))
