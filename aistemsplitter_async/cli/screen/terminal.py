"""The two streams of a command: results on stdout, all else on stderr. A closed pipe is no error; a full disk is."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import IO, TextIO

from aistemsplitter_async._files import reason_of
from aistemsplitter_async.cli.screen.render import hide_keys, hide_passwords, show

_MAX_LINE = 72  # columns of running text: longer lines are hard to read
_MIN_WIDTH = 20  # columns; some environments report 0
BOLD, RED, GREEN, DIM = "1", "1;31", "32", "2"


class Terminal:
    """The output of a command.

    Args:
        quiet: whether no progress is shown.

    Attributes:
        key: the API key in use; it is masked in every text.
        is_live: whether progress is drawn in place, on a stderr that can be redrawn.
        above: writes text above the live lines, while there are any.
        on_first_signal: called by the first signal instead of cancelling the command, if set.
        stopping_note: what a cancelled command still waits for.
        kept: where the results are and how to see them again, in case stdout cannot be written to.
        is_output_lost: whether it could not, other than because its reader had gone.
        on_reader_gone: called when stdout is a pipe that was closed; most commands go on.
        on_output_lost: called when stdout cannot be written to for another reason, such as a full disk.
        on_forced_exit: prints the state of the work when the process must end at once.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.key: str | None = None
        self._is_quiet = quiet
        self.is_live: bool = (
            not quiet and sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
        )
        self.above: Callable[[str], None] | None = None
        self.on_first_signal: Callable[[], None] | None = None
        self.stopping_note = "a create in progress gets a few seconds to finish"
        self.kept = ""
        self.is_output_lost: bool = False
        self.on_reader_gone: Callable[[], object] | None = None
        self.on_output_lost: Callable[[], object] | None = None
        self.on_forced_exit: Callable[[], None] | None = None
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")  # the terminal's encoding may lack characters of a file name

    def result(self, text: str) -> None:
        """Write a result."""
        self._write(sys.stdout, f"{text}\n")

    def paragraph(self, text: str) -> None:
        """Write running text as a result, wrapped to the width of the terminal."""
        self.result(textwrap.fill(text, min(self.width, _MAX_LINE)))

    @property
    def width(self) -> int:
        """Return the columns of the terminal."""
        return max(_MIN_WIDTH, shutil.get_terminal_size().columns)

    def say(self, text: str) -> None:
        """Write a line about the work. What a terminal would act on is written as an escape, as in `error`."""
        self._write(sys.stderr, f"{self._safe(text)}\n")

    def log(self, text: str) -> None:
        """Write a line of progress, unless live lines show it, or the user asked for quiet."""
        if not (self.is_live or self._is_quiet):
            self.say(text)

    def error(self, text: str) -> None:
        """Write an error, on one line."""
        prefix = self.paint("error:", RED, sys.stderr)
        self._write(sys.stderr, f"{prefix} {self._safe(text)}\n")

    @staticmethod
    def paint(text: str, style: str, stream: TextIO | None = None) -> str:
        """Return `text` in a style, if the stream (stdout if not given) is a terminal that wants colours."""
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return text if plain or not (stream or sys.stdout).isatty() else f"\x1b[{style}m{text}\x1b[0m"

    def _safe(self, text: str) -> str:
        return show(hide_passwords(hide_keys(text, self.key) if self.key else text))

    def _write(self, stream: TextIO, text: str) -> None:
        try:
            if self.above is not None and _is_same_terminal(stream):
                self.above(text)
            else:
                stream.write(text)
                stream.flush()
        except BrokenPipeError:
            discard_output(stream)
            if self.on_reader_gone is not None and stream is sys.stdout:
                self.on_reader_gone()
        except OSError as error:  # a full disk, a terminal that was closed
            discard_output(stream)
            if stream is sys.stdout:
                self._lose_output(error)

    def _lose_output(self, error: OSError) -> None:
        """Say once that results cannot be shown; those that follow are discarded, and the work goes on."""
        self.is_output_lost = True
        kept = f"; {self.kept}" if self.kept else ""
        self.error(f"cannot write to standard output: {reason_of(error)}{kept}")
        if self.on_output_lost is not None:
            self.on_output_lost()


def _is_same_terminal(stream: TextIO) -> bool:
    """Return whether a stream is the terminal that stderr, and so the live lines, are on."""
    return stream.isatty() and os.path.sameopenfile(stream.fileno(), sys.stderr.fileno())


def discard_output(stream: IO[str]) -> None:
    """Redirect a stream that cannot be written to to nowhere, so that later writes and Python's exit do not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
