"""The streams, locales and surroundings that shells, services and terminals give a command."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aistemsplitter_async.sandbox import Manual, Sandbox
from tests.e2e.harness import CLI, Ended

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
FULL = Path("/dev/full")
LINE = f"exec {sys.executable} -m aistemsplitter_async "
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


async def shell(cli: CLI, line: str, **variables: str) -> Ended:
    """Run a command line in a shell, whose stdout and stderr are ours where it does not redirect them."""
    process = await asyncio.create_subprocess_shell(
        LINE + line,
        cwd=cli.folder,
        env=cli.environment | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    ended = await cli.end(process)
    assert "report it" not in ended.err
    assert "Exception ignored" not in ended.err
    return ended


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
async def test_results_that_cannot_be_written_are_one_line_and_a_failure_and_nothing_is_lost(
    cli: CLI, sandbox: Sandbox, song: Path
) -> None:
    cli = cli.using(sandbox)
    for line in ("--version", "", "split --help", "credits --json", f"estimate {song.name}"):
        ended = await shell(cli, f"{line} > /dev/full")
        assert (ended.code, ended.problem) == (1, "cannot write to standard output: No space left on device"), line
    for line in ("split song.wav", "batch song.wav --into other"):
        ended = await shell(cli, f"{line} > /dev/full")
        assert ended.code == 1
        assert "nothing is lost: stems go to " in ended.problem
        again = await shell(cli, line)
        assert again.code == 0
        assert sandbox.ledger.count("create") == 1 if line.startswith("split") else 2
    assert (cli.folder / "stems/song/vocals.mp3").is_file()
    quiet = await shell(cli, "credits 2> /dev/full")
    assert (quiet.code, quiet.err) == (0, "")
    assert (await shell(cli, "get split_x 2> /dev/full")).code == 1


async def test_closed_streams_are_nobodys_business(cli: CLI, sandbox: Sandbox, song: Path) -> None:
    """The first file that is opened must not get their numbers, or messages would be written into it."""
    cli = cli.using(sandbox)
    ended = await shell(cli, f"batch {song.name} <&- >&- 2>&-", PYTHONWARNINGS="error")
    assert ended.code == 0
    assert (await shell(cli, "credits >&-", PYTHONWARNINGS="error")).err == ""
    for line in ("batch - <&-", "estimate - <&-", "batch - 0>/dev/null"):
        closed = await shell(cli, line)
        assert (closed.code, closed.problem.partition(":")[0]) == (1, "standard input"), line
    key = await shell(cli, "credits --api-key-file - <&-")
    assert key.code == 3
    assert "cannot read the API key from standard input" in key.problem
    assert (await shell(cli, "batch - --api-key-file - <&-")).code == 2


async def test_a_locale_without_the_letters_of_a_name_loses_no_song(cli: CLI, sandbox: Sandbox, song: Path) -> None:
    latin = os.fsencode(cli.folder) + b"/caf\xe9.wav"
    song.rename(cli.folder / "M\u00fcnchen.wav")
    Path(os.fsdecode(latin)).write_bytes((cli.folder / "M\u00fcnchen.wav").read_bytes() + b"\0" * 4)
    cli = cli.using(sandbox)
    ended = await shell(cli, "batch . --into st\u00fcms --report \u00fc.html", **ASCII)
    assert ended.code == 0, ended.err
    assert "M\\xfcnchen.wav" in ended.out
    assert (cli.folder / "st\u00fcms/M\u00fcnchen/vocals.mp3").is_file()
    again = await shell(cli, "batch . --into st\u00fcms")
    assert "0 split, 2 finished earlier" in again.err.replace("1 duplicate", "")


@pytest.mark.parametrize("columns", ["0", "\u00b2", "999999999"])
async def test_a_terminal_of_an_impossible_size_gets_its_help(cli: CLI, columns: str) -> None:
    assert (await shell(cli, "split --help", COLUMNS=columns, LINES=columns)).code == 0


async def test_without_a_current_folder_there_is_a_way_out(cli: CLI, sandbox: Sandbox) -> None:
    gone = cli.folder / "gone"
    gone.mkdir()
    ended = await shell(cli.using(sandbox), f"estimate song.wav # {gone}")
    assert "no such file" in ended.problem
    process = await asyncio.create_subprocess_shell(
        f"cd {gone}; rmdir {gone}; {LINE} estimate song.wav", stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        env=cli.environment,
    )  # fmt: skip
    ended = await cli.end(process)
    assert (ended.code, ended.problem) == (1, "the current folder does not exist any more; change to one that does")


async def test_an_id_with_escapes_is_shown_as_what_it_is(cli: CLI, sandbox: Sandbox) -> None:
    for command in ("get", "wait", "download"):
        ended = await cli.using(sandbox).run(command, "\x1b[31mx\u202e\n")
        assert (ended.code, ended.problem) == (2, r"'\x1b[31mx\u202e\n' cannot be the id of a split")


async def test_songs_with_the_names_of_options_are_split(cli: CLI, sandbox: Sandbox, song: Path) -> None:
    song.rename(cli.folder / "-intro.wav")
    ended = await cli.using(sandbox).run("batch", "--", "-intro.wav")
    assert ended.code == 0, ended.err
    assert (cli.folder / "stems/-intro/vocals.mp3").is_file()
    for arguments, hint in (
        (("batch", "x", "--jsno"), "did you mean --json?"),
        (("split", "-x.wav"), "write a path like that as ./-x.wav"),
        (("split", "-"), "is for batch"),
        (("splt",), "did you mean split?"),
        (("status",), "use batch --status"),
    ):
        ended = await cli.run(*arguments)
        assert ended.code == 2
        assert hint in ended.problem


async def test_a_closed_terminal_stops_a_batch_and_nohup_does_not(cli: CLI, song: Path) -> None:
    async with Sandbox(separation="silent", progression=Manual()) as sandbox:
        cli = cli.using(sandbox)
        process = await cli.start("split", song.name)
        await cli.read_until(process, "queued as")
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
        ended = await cli.end(process)
        assert ended.code == 130
        assert "exists as split_" in ended.err
