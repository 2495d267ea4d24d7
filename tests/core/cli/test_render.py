from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import unicodedata

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async.cli.screen.render import clock, columns, command, price, share, show, size, words


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (3_449_000, "3.4 MB"),
        (99_999, "100 kB"),
        (999_700, "1.0 MB"),
        (123_456_789, "123 MB"),
        (2_000_000_000, "2.0 GB"),
        (5_000_000_000_000, "5000 GB"),
    ],
)
def test_a_byte_count_has_three_digits_or_so_and_a_unit(count: int, text: str) -> None:
    assert size(count) == text


def test_a_part_of_a_whole_says_the_unit_once() -> None:
    assert share(3_400_000, 12_000_000) == "3.4 of 12.0 MB"
    assert share(340_000, 12_000_000) == "340 kB of 12.0 MB"
    assert share(12_000_000, 12_000_000) == "12.0 MB"
    assert share(12_000_000, None) == "12.0 MB"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.9, "0:07"), (202, "3:22"), (3723, "1:02:03")])
def test_a_length_reads_like_a_players_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (12.4, "12 s"), (60, "1 min"), (95, "1 min 35 s"), (6200, "1 h 43 min"), (36000, "10 h")],
)
def test_a_span_reads_in_two_units_at_most(seconds: float, text: str) -> None:
    assert words(seconds) == text


def test_one_credit_is_singular() -> None:
    assert [price(1), price(6200), price(2.5)] == ["1 credit", "6,200 credits", "2.50 credits"]


@given(st.text(alphabet=st.characters()))
def test_whatever_a_name_holds_nothing_of_it_acts_on_the_terminal(name: str) -> None:
    assert all(unicodedata.category(one) not in ("Cc", "Cs", "Zl", "Zp") for one in show(name))
    assert {one for one in show(name) if unicodedata.category(one) == "Cf"} <= {"\u200c", "\u200d"}


def test_what_holds_letters_and_emoji_together_and_the_spaces_of_a_name_are_shown_as_they_are() -> None:
    for name in (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\u5b87\u591a\u7530\u3000\u30d2",
        "d\u00e9j\u00e0\u00a0!",
    ):
        assert show(name) == name
        assert shlex.split(command(name))[1] == name
    assert show("a\u202egpj\u2066\u200e\ufeff") == r"a\u202egpj\u2066\u200e\ufeff"


def test_markup_in_a_name_stays_as_it_is() -> None:
    assert show("a [bold]b[/bold].mp3") == "a [bold]b[/bold].mp3"


def test_escapes_and_undecodable_bytes_in_a_name_are_written_out() -> None:
    assert show("a\x1b[2Jb\n\udcff") == r"a\x1b[2Jb\n\xff"


BASH = shutil.which("bash") or ""


@given(st.lists(st.text().filter(str.isprintable)))
def test_a_shown_command_pastes_back_into_a_shell_word_for_word(arguments: list[str]) -> None:
    assert shlex.split(command(*arguments)) == ["aistemsplitter-async", *arguments]


@pytest.mark.skipif(not BASH, reason="needs bash")
def test_a_shown_command_with_escapes_is_safe_to_show_and_pastes_back_as_it_was() -> None:
    words = ["a\x1b[31m", "it's\n\\n", "\u202egpj", "caf\udce9.wav", "n\x07" + "1", "\u00fc \u65e5"]
    shown = command(*words)
    assert shown.isprintable()
    printed = subprocess.run(
        [BASH, "-c", shown.replace("aistemsplitter-async", "printf '%s\\0'", 1)], capture_output=True, check=True
    )
    assert printed.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in words]


def test_columns_line_up() -> None:
    assert columns([("a", "1"), ("bbb", "22")], indent="") == ["a    1", "bbb  22"]
