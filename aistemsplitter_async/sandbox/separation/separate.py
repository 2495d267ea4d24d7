"""The sandbox's separation: real stems from the uploaded audio, by classical signal processing.

It is a preview, not the hosted model: harmonic/percussive, stereo-position and band masks (`masks.py`), no learning, no
knowledge of instruments. Its stems are what such masks can separate, and they add up to the mix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

STEMS: dict[str, tuple[str, ...]] = {
    "4s": ("vocals", "drums", "bass", "other"),
    "6s": ("vocals", "drums", "bass", "other", "guitar", "piano"),
}
OUTPUT_FORMATS = ("mp3", "wav")


@attrs.frozen
class SeparationResult:
    """The files that were written: `stems` maps stem names to file names, `seconds` is the decoded length."""

    seconds: float
    sample_rate: int
    stems: Mapping[str, str]


def separate(source: Path, into: Path, *, stem_model: str, output_format: str) -> SeparationResult:
    """Write `<stem>.<output format>` for each stem of `source` into the folder `into`, created if missing.

    A WAV stem has the sample rate and the exact length of the source. MP3 has no rate above 48 kHz: such sources get a
    half, a quarter or an eighth of theirs. Stems get their final names together, when all are complete.

    Raises `ValueError` for an unknown stem model or output format, `audio_files.UndecodableAudioError` (also a
    `ValueError`) for audio that cannot be separated, `OSError` if files cannot be read or written.
    """
    if stem_model not in STEMS:
        raise ValueError(f"unknown stem model {stem_model!r}: this sandbox knows {' and '.join(STEMS)}")
    if output_format not in OUTPUT_FORMATS:
        raise ValueError(f"unknown output format {output_format!r}: this sandbox writes {' and '.join(OUTPUT_FORMATS)}")
    # Loaded here, because `STEMS` is also used where numpy is not installed.
    from aistemsplitter_async.sandbox.separation import audio_files, stems  # noqa: PLC0415

    header = audio_files.read_header(source)
    decimation = audio_files.plan_decimation(header.sample_rate, output_format)
    sample_rate = header.sample_rate // decimation
    names = {stem: f"{stem}.{output_format}" for stem in STEMS[stem_model]}
    into.mkdir(parents=True, exist_ok=True)
    # A file with its final name is complete, even if this process is killed.
    with TemporaryDirectory(prefix=".separating-", dir=into) as scratch:
        frames = 0
        with ExitStack() as stack:
            writers = [
                stack.enter_context(audio_files.open_audio_writer(Path(scratch, name), output_format, sample_rate))
                for name in names.values()
            ]
            # MP3 encoding takes four times as long as all the rest, and libsndfile releases the GIL.
            pool = stack.enter_context(ThreadPoolExecutor(len(writers)))
            writing: list[Future[None]] = []
            blocks = audio_files.read_blocks(source)
            for parts in stems.split_blocks(blocks, header.sample_rate, tuple(names), decimation=decimation):
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
