"""The event loop of one command: signals in, exit code out."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from aistemsplitter_async._files import reason_of
from aistemsplitter_async.cli.failures import Exit, UsageError
from aistemsplitter_async.cli.logs import show_log
from aistemsplitter_async.cli.options import Verbosity
from aistemsplitter_async.cli.screen.render import show
from aistemsplitter_async.cli.screen.terminal import Terminal, discard_output

Work = Callable[[Terminal], Coroutine[Any, Any, int]]

_PATIENCE = 0.7  # s after Ctrl-C before the reason for the delay is shown
_SHOW_CURSOR = b"\x1b[?25h"


def run(work: Work, verbosity: Verbosity = Verbosity(), *, interrupted: int = Exit.INTERRUPTED) -> int:  # noqa: B008
    """Run a command's coroutine to its end, or to Ctrl-C, and return the exit code.

    The first SIGINT or SIGTERM cancels it, so that it can print how to continue; the next one ends the process at once.
    A command with `on_first_signal` gets one signal more. SIGHUP, after which no output is seen, cancels it too, and
    never more than that; where it is ignored, as under nohup, it stays so.

    Args:
        work: the command: takes the terminal and returns the exit code.
        verbosity: how much it says on stderr.
        interrupted: the exit code after a signal, for commands that run until they get one.
    """
    # A logged error is also an error of the command; without a handler, logging would print its traceback.
    logging.lastResort = logging.NullHandler()
    terminal = Terminal(quiet=verbosity.quiet)
    try:
        show_log(terminal, verbosity.verbose, os.environ)
    except UsageError as error:
        terminal.error(show(error))
        return Exit.USAGE
    code: int = Exit.FAILED
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(work(terminal), name="command")
        signals = _Signals(loop, task, terminal)
        signals.install()
        try:
            code = runner.run(_settle(task))
        except asyncio.CancelledError:
            terminal.say("interrupted")
            code = interrupted
        except UsageError as error:
            terminal.error(show(error))
            code = Exit.USAGE
        except OSError as error:
            terminal.error(_explain_system(error, terminal.kept))
        except Exception as error:  # noqa: BLE001  # a bug: one line about it is enough for the user
            terminal.error(_bug(error))
        if terminal.is_output_lost:
            code = code or Exit.FAILED
        if signals.count:
            leave(code)
    return code


async def _settle(task: asyncio.Task[int]) -> int:
    return await task


def leave(code: int) -> NoReturn:
    """End the process without waiting for threads: one may block in a name lookup or a read for minutes."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            discard_output(stream)
    os._exit(code)


class _Signals:
    """Handles SIGINT and SIGTERM while a command runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[int], terminal: Terminal) -> None:
        self.count = 0
        self._first_handled = False
        self._loop = loop
        self._task = task
        self._terminal = terminal

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
            signal.signal(hangup, self._on_hangup)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        first = self._terminal.on_first_signal
        if first is not None and not self._first_handled and not self._loop.is_closed():
            self._first_handled = True
            self._loop.call_soon_threadsafe(first)
            return
        self.count += 1
        if self.count > 1 or self._loop.is_closed():
            if sys.stderr.isatty():
                with suppress(OSError):
                    os.write(2, _SHOW_CURSOR)  # live lines hide it, and they have no time to clean up
            if self._terminal.on_forced_exit is not None and not self._task.done():
                with suppress(Exception):  # the interrupted code may hold the stream
                    self._terminal.on_forced_exit()
            leave(Exit.INTERRUPTED)
        self._loop.call_soon_threadsafe(self._stop)

    def _on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        """Stop, once: a shell and the terminal may both report that the terminal was closed."""
        if self.count == 0 and not self._loop.is_closed():
            self.count = 1
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._task.cancel()
        self._loop.call_later(_PATIENCE, self._explain)

    def _explain(self) -> None:
        if not self._task.done():
            self._terminal.say(f"stopping: {self._terminal.stopping_note}; Ctrl-C again quits at once")


def _explain_system(error: OSError, kept: str) -> str:
    """Return the message for an error of the system that nothing below has explained."""
    try:
        Path.cwd()
    except OSError:
        return "the current folder does not exist any more; change to one that does"
    what = f"{error.filename}: " if error.filename else ""
    return f"{what}{reason_of(error)}{f'; {kept}' if kept else ''}"


def _bug(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"this is a bug, please report it: {type(error).__name__}{where}: {show(error)}"
