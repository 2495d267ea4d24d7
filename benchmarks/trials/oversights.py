"""Further mistakes: the negative controls of `conditions`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.partfile import PartFile, part_path
from aistemsplitter_async.errors import IncompleteDownloadError
from benchmarks.trials.breaking import mistake, replace


@mistake("coding-refused", "coding", first=3)
def refuse_codings() -> None:
    """A stem with a name of a coding is refused, whatever the name."""

    def read(header: str) -> tuple[str, ...]:
        if header not in ("", "identity"):
            raise IncompleteDownloadError(f"unexpected coding {header}")
        return ()

    replace("_transfer.ranges:read_codings", lambda _: read)


@mistake("any-length", "endless", first=5)
def bound_nothing() -> None:
    """A stem may have any length."""
    replace("_transfer.collector:longest_stem", lambda _: lambda _: 2**62)


@mistake("save-each", "many")
def save_each_change() -> None:
    """Every change of the manifest saves all of it."""

    async def record(saver: Any, stem: str, entry: Any) -> None:
        saver.manifest.stems[stem] = entry
        await run_in_thread(attrs.evolve(saver.manifest, stems=dict(saver.manifest.stems)).save)

    replace("_transfer.saver:ManifestSaver.record", lambda _: record)


@mistake("save-on-loop", "slow-disk")
def save_on_the_loop() -> None:
    """The event loop itself waits for the manifest to be on disk."""

    async def save(saver: Any) -> None:
        async with saver._turn:
            saver._next = None
            saver.manifest.save()

    replace("_transfer.saver:ManifestSaver._save", lambda _: save)


@mistake("unknown-final", "lag")
def wait_for_nobody() -> None:
    """A split that is not found yet is given up at once."""
    replace("_send.pipeline:wait_time", lambda _: lambda *_, **__: 0.0)


@mistake("refusal-remembered", "lag", first=17)
def remember_refusals() -> None:
    """What was refused in one run is not tried in the next, though it is paid for."""
    replace("journal.record:_PAID", lambda _: frozenset[str]())


@mistake("page-kept", "pages", first=25)
def keep_pages() -> None:
    """A page is a stem like any other."""
    replace("_transfer.writer:check_stem", lambda _: lambda *_: None)


@mistake("no-pause", "pages", first=4)
def pause_never() -> None:
    """What may pass is not waited out."""
    for where in ("_send.retry", "_send.pipeline"):
        replace(f"{where}:plan_pause", lambda _: lambda *_, **__: None)


@mistake("page-final", "gateway")
def believe_pages() -> None:
    """A gateway's page is the service's own word."""
    replace("_send.reactions:_classify_status", lambda classify: lambda status, _: classify(status, "SAID"))


@mistake("fault-unasked", "feeder")
def ask_for_no_fault() -> None:
    """Why the sources ended is not asked."""

    async def find(_: object) -> None: ...

    replace("batch.feeder:Feeder.find_fault", lambda _: find)


@mistake("page-definite", "gateway", first=44)
def trust_pages() -> None:
    """A create answered with a page counts as one that did not happen."""
    replace("_send.reactions:_REFUSALS", lambda rows: rows | {"page"})
    pause_never()


@mistake("upload-again", "reservation")
def upload_again() -> None:
    """Whenever a create is refused, or a clock says that the upload has expired, it is made again."""
    replace("batch.create:may_have_expired", lambda _: lambda *_, **__: True)
    replace("batch.standing:Standing.may_upload_again", lambda _: property(lambda _: True))
    replace("batch.standing:Standing.plan", lambda _: lambda standing, record: standing.context.plan(record))


@mistake("seconds-only", "retry-after")
def read_only_numbers() -> None:
    """A wait is a number of seconds."""

    def parse(text: str, **_: float) -> float | None:
        return float(text) if text.isdigit() else None

    replace("_wire.dates:parse_wait", lambda _: parse)


@mistake("closed-for-ever", "retry-after", first=27)
def close_for_ever() -> None:
    """A gate is closed as long as one answer says."""
    replace("_gate.limiter:LONGEST_CLOSED", lambda _: math.inf)


@mistake("sleep-unnoticed", "sleep", first=11)
def sleep_unnoticed() -> None:
    """Nobody notices that the machine has slept."""
    replace("_send.connections:has_slept", lambda _: lambda *_: False)


@mistake("any-loop", "loops")
def serve_any_loop() -> None:
    """A gate serves whoever asks."""

    def bind(gate: Any) -> None:
        if gate._loop is None:
            gate._loop = asyncio.get_running_loop()

    replace("_gate.gate:Gate._bind", lambda _: bind)


@mistake("unguarded", "misfit")
def trust_sources() -> None:
    """A source that is other people's code is used as it is."""
    replace("_transfer.audio:guard", lambda _: lambda source, **_: source)


@mistake("waits-for-source", "misfit", first=2)
def wait_for_sources() -> None:
    """A stream is waited for as long as it likes."""
    replace("_transfer.foreign:ForeignSource._next", lambda _: lambda _, handover: handover.take())


@mistake("one-for-all", "sick")
def blame_the_service() -> None:
    """A song that always fails shows that the service is down."""
    replace("_send.cause:Failures.is_track", lambda _: lambda *_: False)
    replace("_send.cause:Failures.is_track_beside_others", lambda _: lambda *_: False)


@mistake("unsynced", "power", first=2)
def sync_nothing() -> None:
    """A part counts as durable without having been synced."""
    replace("_transfer.partfile:PartFile.sync", lambda _: lambda part: part.size)


@mistake("size-trusted", "power", first=45)
def trust_the_size() -> None:
    """What a part of an earlier run has is taken for good."""

    def open_part(item: Any) -> PartFile:
        path = part_path(item.manifest.folder, item.name)
        return PartFile(path, durable=path.stat().st_size if path.exists() else 0)

    replace("_transfer.downloader:StemDownload.open_part", lambda _: open_part)


@mistake("folders-unsynced", "power")
def make_folders_plainly() -> None:
    """A new folder is not synced in the one above it."""
    for where in ("_transfer.target", "journal.file"):
        replace(f"{where}:make_folder", lambda _: partial(Path.mkdir, parents=True, exist_ok=True))


@mistake("sync-ignored", "sync", first=5)
def ignore_failed_syncs() -> None:
    """A sync that fails is as good as any."""

    def sync(part: PartFile) -> int:
        with contextlib.suppress(OSError):
            os.fsync(part._descriptor)
        return part.size

    replace("_transfer.partfile:PartFile.sync", lambda _: sync)


@mistake("all-stems", "more")
def fetch_all_stems() -> None:
    """What is not wanted is fetched too."""
    replace("_transfer.selection:Selection.kept", lambda _: lambda _, stems: tuple(stems))


@mistake("files-forgotten", "more", first=5)
def forget_files() -> None:
    """While more stems are fetched, the journal forgets those that are here."""

    def succeeded(store: Any, track: int, split: Any) -> Any:
        return store._move(track, "succeeded", split=dump_value(split), files=None)

    from aistemsplitter_async.journal.rows import dump_value

    replace("journal.store:JournalStore.succeeded", lambda _: succeeded)


@mistake("mix-clipped", "mix")
def clip_mixes() -> None:
    """However loud a mix is, it is written as it is."""
    replace("_transfer.sound:_Layout.loudness", lambda _: lambda *_: 0.0)


@mistake("mix-unswept", "mix")
def leave_the_stems() -> None:
    """What only a mix needed is left behind."""
    replace("_transfer.collector:sweep", lambda _: lambda *_: None)


@mistake("open-repeats", "open")
def hand_over_twice() -> None:
    """An answer that begins at the beginning is handed over, whatever was before."""

    def build(take: Any) -> Any:
        def repeating(answer: Any, handed_over: bytes) -> Any:
            answer._repeats = 0
            return take(answer, handed_over)

        return repeating

    replace("_transfer.answer:StemAnswer.take", build)


@mistake("sender-ignored", "new-key")
def trust_any_sender() -> None:
    """A create is sent again with whatever API key there is."""
    replace(
        "batch.context:plan_step", lambda plan: lambda record, **given: plan(record, **given | {"key": record.sender})
    )
