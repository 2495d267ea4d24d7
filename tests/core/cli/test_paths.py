"""Paths that no shell has expanded: on every option and argument that is one, and after `--`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async.cli.app import app
from aistemsplitter_async.cli.paths import expand_home, expand_path, expand_source, protect_paths

COMMANDS = [
    *((name,) for name in app if not name.startswith("-") and name != "journal"),
    *(("journal", name) for name in app["journal"] if not name.startswith("-")),
]
NEEDED = {"split": 1, "batch": 1, "estimate": 1, "get": 1, "wait": 1, "download": 1, "move": 2, "export": 1}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    return tmp_path


def values_of(bound: Any) -> list[Any]:
    """Return all values, those in groups of options too."""
    found: list[Any] = []
    for value in bound.arguments.values() if hasattr(bound, "arguments") else [bound]:
        fields = getattr(type(value), "__attrs_attrs__", ())
        found += [inner for field in fields for inner in values_of(getattr(value, field.name))] or [value]
    return found


def test_every_option_that_is_a_path_knows_the_home_folder() -> None:
    """Asked of each command there is, so that a new option cannot be forgotten."""
    seen = set()
    for names in COMMANDS:
        command = app[names[0]] if len(names) == 1 else app[names[0]][names[1]]
        needed = ["x"] * NEEDED.get(names[-1], 0)
        for argument in command.assemble_argument_collection():
            if Path not in (argument.hint, *getattr(argument.hint, "__args__", ())):
                continue
            if not argument.name.startswith("--"):  # of the journal's commands: a place, in order
                line = [*names, *["~/there"] * len(needed)]
            else:
                line = [*names, *needed, f"{argument.name}=~/there"]
            _, bound, _ = app.parse_args(line, print_error=False)
            assert Path("/home/me/there") in values_of(bound), (names, argument.name)
            seen.add(argument.name)
    assert seen >= {
        "--into",
        "--journal",
        "--report",
        "--api-key-file",
        "--data",
        "--secret-file",
        "--output",
        "TARGET",
    }


@pytest.mark.parametrize("name", ["split", "batch", "estimate"])
def test_every_argument_that_is_a_path_knows_the_home_folder_and_the_end_of_options(name: str) -> None:
    line = protect_paths([name, "~/a.wav", "https://example.com/~me/b.wav", "--", "-c.wav", "-", "--json"])
    _, bound, _ = app.parse_args(line, print_error=False)
    expected = ["/home/me/a.wav", "https://example.com/~me/b.wav", "./-c.wav", "./-", "./--json"]
    assert next(iter(bound.arguments.values())) == expected


def test_an_id_after_the_end_of_options_stays_as_it_is() -> None:
    assert protect_paths(["get", "--", "-id"]) == ["get", "--", "-id"]


def test_what_exists_as_it_is_written_is_not_expanded(home: Path) -> None:
    (home / "~").mkdir()
    (home / "~song.wav").touch()
    assert expand_home("~/x") == "~/x"
    assert expand_source("~song.wav") == "~song.wav"


def test_a_name_with_a_tilde_that_is_no_user_stays() -> None:
    assert expand_home("~no-such-user-1/x") == "~no-such-user-1/x"
    assert expand_home("a~/b") == "a~/b"
    assert expand_home("~root/x").endswith("/x")
    assert not expand_home("~root/x").startswith("~")


def test_a_home_folder_that_cannot_be_found_is_not_a_folder_called_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(ValueError, match="set HOME"):
        expand_path("~/stems")


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_what_cannot_be_a_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a path"):
        expand_path(text)
