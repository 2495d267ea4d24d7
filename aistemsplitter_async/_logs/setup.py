"""Logging for programs that configure none: what `AISTEMSPLITTER_LOG` asks for goes to stderr."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from typing import TextIO

from aistemsplitter_async._logs.loggers import is_handled
from aistemsplitter_async._logs.records import ROOT, parse_levels

VARIABLE = "AISTEMSPLITTER_LOG"
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the moment, unless another handler has the record: no line comes twice."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter(_FORMAT))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # as of `logging.lastResort`
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        if not is_handled(logging.getLogger(record.name), besides=self):
            super().emit(record)


def set_up_logging(environment: Mapping[str, str]) -> None:
    """Do what the environment says about logging, once. A level that the program has set stays as it is.

    A value that cannot be read is a `RuntimeWarning`, and nothing else: logging is not what the program is for.
    """
    text, package = environment.get(VARIABLE, ""), logging.getLogger(ROOT)
    if not text.strip() or any(isinstance(handler, StderrHandler) for handler in package.handlers):
        return
    try:
        levels = parse_levels(text)
    except ValueError as error:
        warnings.warn(f"{VARIABLE}: {error}; like debug, or info,http=debug", RuntimeWarning, stacklevel=3)
        return
    unset = {child: level for child, level in levels.items() if get_logger(child).level == logging.NOTSET}
    log_to(StderrHandler(), unset)


def log_to(handler: logging.Handler, levels: Mapping[str, int]) -> None:
    """Add a handler to the package's logger, and set the levels of its loggers."""
    logging.getLogger(ROOT).addHandler(handler)
    for child, level in levels.items():
        get_logger(child).setLevel(level)


def get_logger(child: str) -> logging.Logger:
    """Return a logger of the package by its name below the package's own, which is called ``."""
    return logging.getLogger(f"{ROOT}.{child}".rstrip("."))
