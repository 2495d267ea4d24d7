"""The two streams of a command: results on stdout, everything else on stderr. A closed pipe is quiet."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import TextIO

from aistemsplitter_async.cli.screen.render import hide_keys

_MEASURE = 72  # columns of running text: longer lines are hard to read
_NARROWEST = 20  # columns; some environments say 0
BOLD, RED, GREEN, DIM = "1", "1;31", "32", "2"


class Terminal:
    """Where a command writes to.

    Attributes:
        key: the API key in use, so that no text from anywhere shows it.
        above: writes to the terminal above its live lines, while there are any.
        drain: what the first signal does instead of cancelling the command, if anything.
        patience: what a command takes a moment for once it was told to stop.
        unheard: called when nobody reads the results any more; most commands go on.
        last_words: says how things stand when the process must end at once.
    """

    def __init__(self) -> None:
        self.key: str | None = None
        self.above: Callable[[str], None] | None = None
        self.drain: Callable[[], None] | None = None
        self.patience = "a create under way is given a few seconds"
        self.unheard: Callable[[], object] | None = None
        self.last_words: Callable[[], None] | None = None
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")  # a file name need not fit the terminal's encoding

    def result(self, text: str) -> None:
        """Write a result."""
        self._write(sys.stdout, f"{text}\n")

    def paragraph(self, text: str) -> None:
        """Write running text as a result, broken to the width of the terminal."""
        self.result(textwrap.fill(text, min(self.width, _MEASURE)))

    @property
    def width(self) -> int:
        """Return the columns of the terminal."""
        return max(_NARROWEST, shutil.get_terminal_size().columns)

    def say(self, text: str) -> None:
        """Write a line about what is going on."""
        self._write(sys.stderr, f"{self._hidden(text)}\n")

    def error(self, text: str) -> None:
        """Write what went wrong, on one line."""
        prefix = self.paint("error:", RED, sys.stderr)
        self._write(sys.stderr, f"{prefix} {self._hidden(text)}\n")

    @staticmethod
    def paint(text: str, style: str, stream: TextIO | None = None) -> str:
        """Return `text` in a style, if the stream (stdout if not given) is a terminal that wants colours."""
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return text if plain or not (stream or sys.stdout).isatty() else f"\x1b[{style}m{text}\x1b[0m"

    def _hidden(self, text: str) -> str:
        return hide_keys(text, self.key) if self.key else text

    def _write(self, stream: TextIO, text: str) -> None:
        try:
            if self.above is not None and _is_on_screen(stream):
                self.above(text)
            else:
                stream.write(text)
                stream.flush()
        except BrokenPipeError:
            swallow(stream)
            if self.unheard is not None and stream is sys.stdout:
                self.unheard()


def _is_on_screen(stream: TextIO) -> bool:
    """Return whether a stream ends in the terminal that stderr, and the live lines, are on."""
    return stream.isatty() and os.path.sameopenfile(stream.fileno(), sys.stderr.fileno())


def swallow(stream: TextIO) -> None:
    """Let a stream whose reader has gone lead nowhere, so that neither we nor Python's exit complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
