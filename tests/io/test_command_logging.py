"""What the library logs is no output of a command, unless it is asked for."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator

import pytest
from cyclopts import App

from aistemsplitter_async import AsyncAIStemSplitter
from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async.cli.app import app
from aistemsplitter_async.cli.options import Verbosity
from aistemsplitter_async.cli.run import run
from aistemsplitter_async.cli.screen import terminal as screen
from aistemsplitter_async.cli.screen.terminal import Terminal

ROOT = logging.getLogger("aistemsplitter_async")


@pytest.fixture(autouse=True)
def a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)  # restored at the end
    monkeypatch.setattr(ROOT, "propagate", False)  # pytest's handlers are those of the root
    handlers, level = list(ROOT.handlers), ROOT.level
    yield
    ROOT.handlers[:] = handlers
    ROOT.setLevel(level)


async def work(terminal: Terminal) -> int:
    log = logging.getLogger("aistemsplitter_async.gate")
    terminal.log("uploading")
    log.debug("a slot")
    log.info("the limit")
    Log("gate").failure(ValueError("bad"), "it failed")
    await asyncio.to_thread(log.info, "from a thread")
    await asyncio.sleep(0)
    terminal.error("no credits")
    terminal.result("{}")
    return 0


@pytest.mark.parametrize(
    ("verbosity", "lines"),
    [
        (Verbosity(), ["uploading"]),
        (Verbosity(quiet=True), []),
        (Verbosity(verbose=1), ["uploading", "the limit", "it failed (ValueError: bad)", "from a thread"]),
        (Verbosity(verbose=3), ["uploading", "a slot", "the limit", "it failed (ValueError: bad)", "from a thread"]),
        (Verbosity(verbose=1, quiet=True), ["the limit", "it failed (ValueError: bad)", "from a thread"]),
    ],
)
def test_a_command_shows_as_much_as_is_asked_for(
    verbosity: Verbosity, lines: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(work, verbosity) == 0
    out, err = capfd.readouterr()
    assert out == "{}\n"
    assert [line.rpartition(" gate: ")[2] for line in err.splitlines()] == [*lines, "error: no credits"]


def test_the_environment_asks_as_well_and_a_mistake_in_it_is_a_usage_error(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AISTEMSPLITTER_LOG", "gate=loud")
    assert run(work) == 2
    assert capfd.readouterr().err.startswith("error: AISTEMSPLITTER_LOG: 'loud' is no level")
    monkeypatch.setenv("AISTEMSPLITTER_LOG", "info")
    assert run(work) == 0
    assert "INFO    gate: the limit" in capfd.readouterr().err


def test_the_command_line_has_the_last_word(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def with_a_client(terminal: Terminal) -> int:
        AsyncAIStemSplitter("ast_key")  # which reads the environment too
        return await work(terminal)

    monkeypatch.setenv("AISTEMSPLITTER_LOG", "warning")
    assert run(with_a_client, Verbosity(verbose=1)) == 0
    assert capfd.readouterr().err.count("the limit") == 1


def test_live_lines_are_not_torn_by_the_log(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "_is_same_terminal", lambda stream: stream is sys.stderr)  # where live lines are
    above = list[str]()

    async def live(terminal: Terminal) -> int:
        terminal.is_live, terminal.above = True, above.append
        return await work(terminal)

    assert run(live, Verbosity(verbose=1)) == 0
    assert capfd.readouterr() == ("{}\n", "")
    assert [line.rpartition(" gate: ")[2] for line in above] == [
        "the limit\n",
        "it failed (ValueError: bad)\n",
        "from a thread\n",
        "error: no credits\n",
    ]


def commands(group: App, *above: str) -> Iterator[tuple[str, ...]]:
    """Yield the names of all commands, each with those of the groups it is in."""
    for name in group:
        if name.startswith("-"):
            continue
        below = group[name]
        yield from [(*above, name)] if below.default_command else commands(below, *above, name)


@pytest.mark.parametrize("command", [*commands(app)], ids=" ".join)
def test_every_command_takes_the_options(command: tuple[str, ...]) -> None:
    found = app
    for name in command:
        found = found[name]
    names = {name for one in found.assemble_argument_collection() for name in one.names}
    assert {"-v", "--verbose", "-q", "--quiet"} <= names
