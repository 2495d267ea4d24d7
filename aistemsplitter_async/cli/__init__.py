"""The command line: parse, make one call, print, return an exit code. Nothing else in the package imports it."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

_INTERRUPTED = 130
_USAGE = 2


def main() -> int:
    """Run the command line on `sys.argv` and return its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the process that started this one
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # stays open
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as quiet as Ctrl-C, until a command starts
    missing = [name for name in ("cyclopts", "rich") if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"error: the command line needs {' and '.join(missing)}; pip install 'aistemsplitter-async[cli]'\n"
        )
        return _USAGE
    try:
        from aistemsplitter_async.cli.app import run_app  # noqa: PLC0415  # only now is it known that it can be imported

        return run_app(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED
