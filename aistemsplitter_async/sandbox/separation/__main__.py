"""The separation as a child process: a decoder that crashes on a hostile file does not take the sandbox with it.

    python -m aistemsplitter_async.sandbox.separation probe SOURCE
    python -m aistemsplitter_async.sandbox.separation separate SOURCE INTO --stem-model 4s --output-format wav

prints one line of JSON, `{"ok": true, ...}` or `{"ok": false, "message": "..."}`, and exits with 0. Any other exit
status is a crash. With `--watch-stdin` before the command it ends as soon as its standard input does, so that no
separation outlives a killed sandbox, which holds the other end of that pipe. numpy, scipy and libsndfile are not loaded
before audio is read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from aistemsplitter_async.sandbox.separation.separate import OUTPUT_FORMATS, STEMS, separate

_ORPHANED = 3  # exit status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command described above; return the exit status, which is 0 whenever the line was printed."""
    arguments = _parse_arguments(argv)
    if arguments.watch_stdin:
        threading.Thread(target=_die_with_stdin, daemon=True).start()
    try:
        answer = {"ok": True, **arguments.run(arguments)}
    except OSError as error:
        answer = {"ok": False, "message": error.strerror or str(error)}  # without the path of the machine
    except ValueError as error:
        answer = {"ok": False, "message": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _die_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(_ORPHANED)  # at once: there is no parent any more to read the output


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="aistemsplitter_async.sandbox.separation", description=__doc__)
    parser.add_argument("--watch-stdin", action="store_true", help="end when standard input does")
    commands = parser.add_subparsers(required=True)
    probe = commands.add_parser("probe", help="describe the audio in a file")
    probe.add_argument("source", type=Path)
    probe.set_defaults(run=_run_probe)
    separating = commands.add_parser("separate", help="write the stems of a file into a folder")
    separating.add_argument("source", type=Path)
    separating.add_argument("into", type=Path)
    separating.add_argument("--stem-model", default="4s", help=" or ".join(STEMS))
    separating.add_argument("--output-format", default="mp3", help=" or ".join(OUTPUT_FORMATS))
    separating.set_defaults(run=_run_separate)
    return parser.parse_args(argv)


def _run_probe(arguments: argparse.Namespace) -> dict[str, Any]:
    from aistemsplitter_async.sandbox.separation.audio_files import probe  # noqa: PLC0415  # as above

    return attrs.asdict(probe(arguments.source))


def _run_separate(arguments: argparse.Namespace) -> dict[str, Any]:
    options = {"stem_model": arguments.stem_model, "output_format": arguments.output_format}
    return attrs.asdict(separate(arguments.source, arguments.into, **options))


def _silence_libraries() -> None:
    """Leave standard error to Python: for a damaged MP3, mpg123 writes more there than the file has bytes."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 2)


if __name__ == "__main__":
    _silence_libraries()
    sys.exit(main())
