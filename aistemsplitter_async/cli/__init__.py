"""The command line: parse, make one call, print, return an exit code. Nothing else in the package imports it."""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec

_INTERRUPTED = 130
_USAGE = 2


def main() -> int:
    """Run the command line on `sys.argv` and return its exit code."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as quiet as Ctrl-C, until a command starts
        from aistemsplitter_async.cli.startup import prepare  # noqa: PLC0415  # from here on, Ctrl-C is quiet

        prepare()
        missing = [name for name in ("cyclopts", "rich") if find_spec(name) is None]
        if missing:
            sys.stderr.write(
                f"error: the command line needs {' and '.join(missing)}; pip install 'aistemsplitter-async[cli]'\n"
            )
            return _USAGE
        from aistemsplitter_async.cli.app import run_app  # noqa: PLC0415  # only now is it known that it can be imported

        return run_app(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED
