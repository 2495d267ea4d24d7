"""`demo`: takes a generated song through the whole flow on this machine, and measures the recovered parts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import attrs

from aistemsplitter_async._files import make_folder, reason_of
from aistemsplitter_async.cli.connect import check_sandbox_extra, working
from aistemsplitter_async.cli.failures import Context, Exit, explain
from aistemsplitter_async.cli.options import Common
from aistemsplitter_async.cli.screen.board import Activity
from aistemsplitter_async.cli.screen.render import PROGRAM, clock, columns, show
from aistemsplitter_async.cli.screen.terminal import BOLD, DIM, GREEN, Terminal
from aistemsplitter_async.config import API_KEY_VARIABLE
from aistemsplitter_async.errors import AIStemSplitterError

SONG = "demo-song.wav"
STEMS = "stems"
_KEY = "demo"
_MAX_BAR = 20


@attrs.frozen
class Recovered:
    """A recovered stem, compared with the true part."""

    name: str
    file: Path
    seconds: float
    gain: float  # dB of SI-SDR over the mix


async def demo(folder: Path, terminal: Terminal) -> int:
    """Render the song, split it through a sandbox, measure the stems, and show what to do next."""
    check_sandbox_extra()
    terminal.kept = f"the song and its stems go to {folder}"
    terminal.result(terminal.paint("AIStemSplitter demo", BOLD))
    terminal.paragraph(
        "A song is mixed from four known parts and split again: over HTTP, on this machine, without a key."
    )
    terminal.result("")
    try:
        await asyncio.to_thread(_write_song, folder / SONG)
        terminal.result(f"mixed  {show(folder / SONG)}")
        files = await _split(folder, terminal)
        recovered = await asyncio.to_thread(_measure, files)
    except AIStemSplitterError as error:
        terminal.error(explain(error, Context(resumable=False)).message)
        return Exit.FAILED
    except OSError as error:
        terminal.error(f"cannot write to {show(folder)}: {reason_of(error)}")
        return Exit.FAILED
    terminal.result(f"split  {show(folder / STEMS)}/\n")
    _print(recovered, terminal)
    return Exit.DONE


def _write_song(path: Path) -> None:
    from aistemsplitter_async.sandbox.separation import audio_files, demo_song  # noqa: PLC0415  # numpy: off the event loop

    song = demo_song.render()
    make_folder(path.parent)
    with audio_files.open_audio_writer(path, "wav", song.sample_rate) as write:
        write(song.mix)


async def _split(folder: Path, terminal: Terminal) -> dict[str, Path]:
    """Split the song as any client would, and return its stems."""
    async with working(Activity(SONG, _KEY), Common(), terminal, sandbox=True) as (client, note_bytes):
        done = await client.split(
            folder / SONG,
            into=folder,
            name=STEMS,
            output_format="wav",
            idempotency_key=_KEY,
            overwrite=True,  # a second demo replaces the first
            on_progress=note_bytes,
        )
    return dict(done.files)


def _measure(files: dict[str, Path]) -> list[Recovered]:
    import numpy as np  # noqa: PLC0415  # off the event loop

    from aistemsplitter_async.sandbox.separation import audio_files, demo_song, measure  # noqa: PLC0415

    song = demo_song.render()
    recovered = []
    for name, part in song.parts.items():
        stem = np.concatenate(list(audio_files.read_blocks(files[name])))
        gain = measure.improvement(stem, part, song.mix)
        recovered.append(Recovered(name, files[name], len(stem) / song.sample_rate, gain))
    return recovered


def _print(recovered: list[Recovered], terminal: Terminal) -> None:
    best = max(stem.gain for stem in recovered)
    rows = [(stem.file.name, clock(stem.seconds), f"{stem.gain:+5.1f} dB") for stem in recovered]
    header, *lines = columns([("stem", "length", "recovered"), *rows])
    terminal.result(terminal.paint(header, DIM))
    width = max(len(line) for line in (header, *lines))
    room = min(_MAX_BAR, terminal.width - width - 3)
    for line, stem in zip(lines, recovered, strict=True):
        bar = "#" * max(0, round(room * stem.gain / best)) if best > 0 else ""
        terminal.result(f"{line.ljust(width)}  {terminal.paint(bar, GREEN)}".rstrip())
    terminal.result("")
    terminal.paragraph("recovered: how much closer a stem is to its true part than the mix is, in decibels (SI-SDR).")
    terminal.result("")
    terminal.paragraph("This was the local preview separation, not the hosted model. To split your own song:")
    terminal.result(f"\n  {PROGRAM} split song.mp3 --sandbox\n")
    terminal.paragraph("With a key, on the hosted model:")
    terminal.result(f"\n  export {API_KEY_VARIABLE}=ast_...\n  {PROGRAM} split song.mp3")
