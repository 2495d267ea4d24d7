"""The command line: parse, one call, render, exit code. Nothing else in the package imports it."""

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
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # for good
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until a command takes over: as quiet as Ctrl-C
    missing = [name for name in ("cyclopts", "rich") if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"error: the command line needs {' and '.join(missing)}; pip install 'aistemsplitter-async[cli]'\n"
        )
        return _USAGE
    try:
        from aistemsplitter_async.cli.app import run_app  # noqa: PLC0415  # not before it is known that it can be imported

        return run_app(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED
