"""The two streams of a command: results on stdout, everything else on stderr. A closed pipe is not an error."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import TextIO

from aistemsplitter_async.cli.screen.render import hide_keys

_MAX_LINE = 72  # columns of running text: longer lines are hard to read
_MIN_WIDTH = 20  # columns; some environments report 0
BOLD, RED, GREEN, DIM = "1", "1;31", "32", "2"


class Terminal:
    """The output of a command.

    Attributes:
        key: the API key in use; it is masked in every text.
        is_live: whether progress is drawn in place, on a stderr that can be redrawn.
        above: writes text above the live lines, while there are any.
        on_first_signal: called by the first signal instead of cancelling the command, if set.
        stopping_note: what a cancelled command still waits for.
        on_reader_gone: called when stdout is a pipe that was closed; most commands go on.
        on_forced_exit: prints the state of the work when the process must end at once.
    """

    def __init__(self) -> None:
        self.key: str | None = None
        self.is_live = sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
        self.above: Callable[[str], None] | None = None
        self.on_first_signal: Callable[[], None] | None = None
        self.stopping_note = "a create in progress gets a few seconds to finish"
        self.on_reader_gone: Callable[[], object] | None = None
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
        """Write a line about the work."""
        self._write(sys.stderr, f"{self._masked(text)}\n")

    def log(self, text: str) -> None:
        """Write a line of progress, unless live lines show it."""
        if not self.is_live:
            self.say(text)

    def error(self, text: str) -> None:
        """Write an error, on one line."""
        prefix = self.paint("error:", RED, sys.stderr)
        self._write(sys.stderr, f"{prefix} {self._masked(text)}\n")

    @staticmethod
    def paint(text: str, style: str, stream: TextIO | None = None) -> str:
        """Return `text` in a style, if the stream (stdout if not given) is a terminal that wants colours."""
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return text if plain or not (stream or sys.stdout).isatty() else f"\x1b[{style}m{text}\x1b[0m"

    def _masked(self, text: str) -> str:
        return hide_keys(text, self.key) if self.key else text

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


def _is_same_terminal(stream: TextIO) -> bool:
    """Return whether a stream is the terminal that stderr, and so the live lines, are on."""
    return stream.isatty() and os.path.sameopenfile(stream.fileno(), sys.stderr.fileno())


def discard_output(stream: TextIO) -> None:
    """Redirect a stream with a closed reader to nowhere, so that later writes and Python's exit do not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
