"""What is wrong with a command line, in one line, and how a command is started if nothing is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from cyclopts import CycloptsError, UnknownCommandError, UnusedCliTokensError

from aistemsplitter_async.cli.failures import Exit
from aistemsplitter_async.cli.screen.render import PROGRAM, hide_keys, hide_passwords, show
from aistemsplitter_async.cli.screen.terminal import discard_output

if TYPE_CHECKING:
    from aistemsplitter_async.cli.options import Verbosity
    from aistemsplitter_async.cli.run import Work

KEY_IN_SIGHT = "every user can see a key on a command line; set AISTEMSPLITTER_API_KEY or give --api-key-file FILE"
_MEANT = {"status": "batch --status", "help": "--help", "version": "--version", "list": "batch", "resume": "batch"}


def start(work: Work, verbosity: Verbosity, *, interrupted: Exit = Exit.INTERRUPTED) -> int:
    """Run a command's coroutine and return the exit code; see `run`."""
    from aistemsplitter_async.cli.run import run  # noqa: PLC0415  # --help must not wait for asyncio

    return run(work, verbosity, interrupted=interrupted)


def explain(error: CycloptsError, arguments: Sequence[str], commands: Sequence[str]) -> str:
    """Return what is wrong with a command line; the program has these commands."""
    options = [argument.partition("=")[0] for argument in arguments]
    if "--api-key" in options and options[0] != "sandbox":  # that one is no secret
        return KEY_IN_SIGHT
    if isinstance(error, UnknownCommandError) or not error.command_chain:
        return _explain_command(arguments[len(error.command_chain or ())], commands)
    if isinstance(error, UnusedCliTokensError):
        return f"there is nothing for {' '.join(error.unused_tokens or ())} to mean here"
    error.verbose = False
    return " ".join(str(error).split())


def _explain_command(word: str, commands: Sequence[str]) -> str:
    """Return why the first word of a command line is no command, and what was probably meant."""
    if word.startswith("-"):
        return f"{word} is no command, and the command comes first, like {PROGRAM} batch"
    if word in _MEANT:
        return f"there is no command {word}; use {_MEANT[word]}"
    close = get_close_matches(word, commands, 1)
    return f"there is no command {word}; " + (
        f"did you mean {close[0]}?" if close else f"it is one of {', '.join(commands)}"
    )


def refuse(problem: str, *chain: str) -> int:
    """Print what is wrong with a command line, and return the exit code."""
    usage = " ".join((PROGRAM, *chain, "--help"))
    print_error(f"{hide_passwords(hide_keys(problem)).rstrip('.')}; see {usage}")
    return Exit.USAGE


def print_error(text: str) -> None:
    """Write an error where no command runs that has a terminal."""
    try:
        sys.stderr.write(f"error: {show(text)}\n")
        sys.stderr.flush()
    except OSError:  # stderr is lost too: the exit code tells
        discard_output(sys.stderr)
