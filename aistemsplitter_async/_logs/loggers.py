"""The loggers of this package. Whatever a handler raises changes nothing for those who log.

Without any logging configured, nothing is printed: the package's logger has a `NullHandler`, as libraries should.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

from aistemsplitter_async._logs.records import KINDS, ROOT, describe
from aistemsplitter_async.events import Event

logging.getLogger(ROOT).addHandler(logging.NullHandler())
_MOST_TOLD = 100  # warnings of one kind, of different folders for example; further ones would only be noise
_LOGGER_OF: dict[type[object], tuple[logging.Logger, int]] = {
    event: (logging.getLogger(f"{ROOT}.{kind.child}"), kind.level) for event, kind in KINDS.items()
}


def theirs() -> tuple[type[BaseException], ...]:
    """Return what handlers and filters may raise; nothing is awaited in them, so `CancelledError` is an error too."""
    asyncio = sys.modules.get("asyncio.exceptions")  # not imported here: `--help` must be quick
    return Exception, getattr(asyncio, "CancelledError", Exception)


def is_logged(kind: type[object]) -> bool:
    """Return whether events of this class may be logged now; levels and handlers may change at any time."""
    logger, level = _LOGGER_OF[kind]
    return logger.isEnabledFor(level) and is_handled(logger)  # in this order: the first is the cheap one


def is_handled(logger: logging.Logger | None, *, besides: logging.Handler | None = None) -> bool:
    """Return whether a handler that does something, other than `besides`, gets what a logger logs."""
    while logger is not None:
        if any(handler is not besides and not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def log_event(event: Event, *, stacklevel: int = 1) -> None:
    """Log an event, if its own level is enabled. Raises what a handler raises."""
    logger, _ = _LOGGER_OF[type(event)]
    line = describe(event)
    if logger.isEnabledFor(line.level):
        logger.log(line.level, line.message, *line.args, extra=line.extra, stacklevel=stacklevel + 1)


class Log:
    """A logger for what is no event. Handlers and filters are other people's code: what they raise ends here."""

    def __init__(self, child: str) -> None:
        self._logger = logging.getLogger(f"{ROOT}.{child}")
        self._told: set[tuple[object, ...]] = set()

    def warning(self, message: str, *args: object, **extra: Any) -> None:
        """Log a warning, with fields as `extra`."""
        with suppress(*theirs()):
            self._logger.warning(message, *args, extra=extra, stacklevel=2)

    def warn_once(self, message: str, *args: Hashable, **extra: Any) -> None:
        """Log a warning that is true of all that comes, such as what a file system lacks: once in a process."""
        told = message, *args
        if told not in self._told and len(self._told) < _MOST_TOLD and is_handled(self._logger):
            self._told.add(told)
            with suppress(*theirs()):
                self._logger.warning(message, *args, extra=extra, stacklevel=2)

    def failure(self, error: BaseException, message: str, *args: object, **extra: Any) -> None:
        """Log an exception, with its traceback."""
        with suppress(*theirs()):
            self._logger.error(message, *args, extra=extra, stacklevel=2, exc_info=error)
