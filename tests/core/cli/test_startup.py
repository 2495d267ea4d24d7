"""Whether Python is restarted for a locale, and how."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pytest

from aistemsplitter_async.cli import startup

pytestmark = pytest.mark.skipif(os.name != "posix", reason="file names are text there")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[bytes, bytes]]]:
    """Set up a process as `aistemsplitter-async credits` in a Latin-1 locale; return what it starts."""
    calls: list[tuple[list[str], dict[bytes, bytes]]] = []
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-I", "-m", "aistemsplitter_async", "credits"])
    monkeypatch.setattr(sys, "argv", ["/somewhere/__main__.py", "credits"])
    monkeypatch.setattr(sys, "_xoptions", {})
    monkeypatch.setattr(os, "execve", lambda _path, words, variables: calls.append((words, variables)))
    return calls


def test_python_is_started_anew_with_its_own_flags_and_the_encoding_of_the_output(
    started: list[tuple[list[str], dict[bytes, bytes]]],
) -> None:
    startup._use_utf8_names()
    ((words, variables),) = started
    assert words[1:] == ["-X", "utf8", "-I", "-m", "aistemsplitter_async", "credits"]
    assert variables[b"PYTHONIOENCODING"].endswith(b":backslashreplace") or "PYTHONIOENCODING" in os.environ
    assert variables.items() >= os.environb.items()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_xoptions", {"utf8": True}),  # it was restarted, or the user has chosen
        ("_xoptions", {"utf8": "0"}),
        ("frozen", True),  # an application that would take `-X` for an option of its own, and start itself for ever
        ("argv", ["-", "credits"]),  # its program came from standard input, which has been read
        ("argv", [""]),
        ("executable", ""),
    ],
)
def test_it_is_not_started_anew_where_that_would_not_be_the_same_command(
    started: list[object], monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    monkeypatch.setattr(sys, name, value, raising=False)
    startup._use_utf8_names()
    assert started == []


def test_a_command_line_that_cannot_be_longer_runs_as_it_is(
    started: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: str, _words: Sequence[str], _variables: object) -> None:
        raise OSError(7, "Argument list too long")

    monkeypatch.setattr(os, "execve", refuse)
    startup._use_utf8_names()
    assert started == []
