"""The sandbox's separation: real stems from the uploaded audio, by classical signal processing.

It is a preview, not the hosted model: harmonic/percussive, stereo-position and band masks (`masks.py`), no learning and
no knowledge of instruments. Its stems are what such masks can tell apart, and they add up to the mix.

Run as a command in a process of its own, so that a decoder that crashes on a hostile file takes nobody with it:

    python -m aistemsplitter_async.sandbox.separation probe SOURCE
    python -m aistemsplitter_async.sandbox.separation separate SOURCE INTO --stem-model 4s --output-format wav

prints one line of JSON, `{"ok": true, ...}` or `{"ok": false, "message": "..."}`, and exits with 0. Any other exit
status is a crash. With `--watch-stdin` before the word it ends as soon as its standard input does: whoever holds the
other end of that pipe, and is killed, leaves no process behind that separates for nobody. numpy, scipy and libsndfile
are loaded only when audio is touched: importing this is cheap.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STEMS: dict[str, tuple[str, ...]] = {
    "4s": ("vocals", "drums", "bass", "other"),
    "6s": ("vocals", "drums", "bass", "other", "guitar", "piano"),
}
OUTPUT_FORMATS = ("mp3", "wav")
_ORPHANED = 3  # exit status


@attrs.frozen
class SeparationResult:
    """What was written: `stems` maps stem names to file names, `seconds` is the audio's length as decoded."""

    seconds: float
    sample_rate: int
    stems: Mapping[str, str]


def separate(source: Path, into: Path, *, stem_model: str, output_format: str) -> SeparationResult:
    """Write `<stem>.<output format>` for each stem of `source` into the folder `into`, made if missing.

    A WAV stem has the sample rate of the source and its length to the sample; MP3 knows no rate above 48 kHz, such
    sources come out at a half, a quarter or an eighth. Stems get their names together, when all are complete.

    Raises `ValueError` for an unknown stem model or output format, `audio_files.UndecodableAudioError` (also a
    `ValueError`) for audio that cannot be separated, `OSError` when files cannot be read or written.
    """
    if stem_model not in STEMS:
        raise ValueError(f"unknown stem model {stem_model!r}: this sandbox knows {' and '.join(STEMS)}")
    if output_format not in OUTPUT_FORMATS:
        raise ValueError(f"unknown output format {output_format!r}: this sandbox writes {' and '.join(OUTPUT_FORMATS)}")
    # Loaded here: `STEMS` is also for those who never touch a sample.
    from . import audio_files, stems  # noqa: PLC0415

    info = audio_files.probe(source)
    decimation = audio_files.plan_decimation(info.sample_rate, output_format)
    sample_rate = info.sample_rate // decimation
    names = {stem: f"{stem}.{output_format}" for stem in STEMS[stem_model]}
    into.mkdir(parents=True, exist_ok=True)
    # A file under its final name is complete, also when this process is killed.
    with TemporaryDirectory(prefix=".separating-", dir=into) as scratch:
        frames = 0
        with ExitStack() as stack:
            writers = [
                stack.enter_context(audio_files.open_audio_writer(Path(scratch, name), output_format, sample_rate))
                for name in names.values()
            ]
            # MP3 encoding takes four times as long as all the rest, and libsndfile lets other threads run meanwhile.
            pool = stack.enter_context(ThreadPoolExecutor(len(writers)))
            writing: list[Future[None]] = []
            blocks = audio_files.read_blocks(source)
            for parts in stems.split_blocks(blocks, info.sample_rate, tuple(names), decimation=decimation):
                frames += parts.shape[1]
                _finish(writing)
                writing = [pool.submit(write, part) for write, part in zip(writers, parts, strict=True)]
            _finish(writing)
        for name in names.values():
            Path(scratch, name).replace(into / name)
    return SeparationResult(frames / sample_rate, sample_rate, names)


def _finish(writing: Sequence[Future[None]]) -> None:
    for write in writing:
        write.result()


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
    os._exit(_ORPHANED)  # at once: nobody is left to hear of an end in good order


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="aistemsplitter_async.sandbox.separation", description=__doc__)
    parser.add_argument("--watch-stdin", action="store_true", help="end when standard input does")
    commands = parser.add_subparsers(required=True)
    probe = commands.add_parser("probe", help="say what kind of audio a file is")
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
    from .audio_files import probe  # noqa: PLC0415  # as above

    return attrs.asdict(probe(arguments.source))


def _run_separate(arguments: argparse.Namespace) -> dict[str, Any]:
    return attrs.asdict(
        separate(
            arguments.source,
            arguments.into,
            stem_model=arguments.stem_model,
            output_format=arguments.output_format,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
