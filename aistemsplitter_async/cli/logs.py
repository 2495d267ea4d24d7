"""What the library logs, as lines of a command: written by the terminal, so that they do not tear its live lines."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping

from aistemsplitter_async._logs.records import ROOT, parse_levels
from aistemsplitter_async._logs.setup import VARIABLE, log_to
from aistemsplitter_async.cli.failures import UsageError
from aistemsplitter_async.cli.screen.terminal import Terminal

_LEVELS = (None, logging.INFO, logging.DEBUG)  # by the number of -v


def show_log(terminal: Terminal, verbose: int, environment: Mapping[str, str]) -> None:
    """Show as much of the log as is asked for on the command line, or else by the environment.

    Raises:
        UsageError: the environment asks for what there is not.
    """
    try:
        levels = parse_levels(environment.get(VARIABLE, ""))
    except ValueError as error:
        raise UsageError(f"{VARIABLE}: {error}") from None
    level = _LEVELS[min(verbose, len(_LEVELS) - 1)]
    if level is not None:
        levels[""] = level
    if levels:
        log_to(TerminalHandler(terminal), levels)


class TerminalHandler(logging.Handler):
    """Writes a line for each record, without a traceback. A thread leaves that to the event loop."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
        self._terminal = terminal
        self._thread = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        line = self._format(record)
        if threading.get_ident() == self._thread:
            self._loop = self._loop or _running_loop()
            self._terminal.say(line)
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._terminal.say, line)

    def _format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        name = record.name.removeprefix(f"{ROOT}.")
        told = {**vars(record), "name": name, "exc_info": None, "exc_text": None, "stack_info": None}
        plain = logging.makeLogRecord(told)
        return self.format(plain) + ("" if error is None else f" ({type(error).__name__}: {error})")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
