"""`batch --dry-run`: what a run would do with each source, found out by the run's own code on a copy of its journal."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import attrs

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.names import ANY_STEM
from aistemsplitter_async.batch.item import BatchItem, open_item
from aistemsplitter_async.batch.options import BatchOptions
from aistemsplitter_async.cli.commands.estimate import tell_estimate
from aistemsplitter_async.cli.failures import Exit, Place, exit_code, explain
from aistemsplitter_async.cli.library import Library, Survey, read
from aistemsplitter_async.cli.screen.render import clock, show
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.cli.sources import shown_source
from aistemsplitter_async.config import KEY_AGE
from aistemsplitter_async.errors import AIStemSplitterError, JournalError
from aistemsplitter_async.journal.file import is_locked
from aistemsplitter_async.journal.record import Step, plan_step
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.library.found import Track, Unusable
from aistemsplitter_async.models import DirectURL

if TYPE_CHECKING:
    from aistemsplitter_async.cli.commands.batch import BatchOrder

_PLANS = {
    Step.UPLOAD: "split",
    Step.CREATE: "split",
    Step.REPLAY: "perhaps created; to be found out",
    Step.WAIT: "paid for; to be waited for",
    Step.DOWNLOAD: "paid for; to be fetched",
    Step.CHECK: "finished",
    Step.NOTHING: "finished",
    Step.REVIEW: "to be looked at",
    Step.FAILED: "failed for good; tried again with --retry-failed",
}
_BOUGHT = "split"


@attrs.frozen
class Plan:
    """What a run would do with one source: what it calls for, where its stems go, and whose audio it shares."""

    what: str
    folder: str
    pattern: str
    same_as: str | None = None


class Planner:
    """Claims tracks as a run does, on a journal that may be scribbled in."""

    def __init__(self, store: JournalStore, options: BatchOptions) -> None:
        self._store = store
        self._options = options

    async def plan(self, item: BatchItem) -> Plan:
        """Return what a run would do.

        Raises:
            SourceUnreadableError, SourceChangedError: it cannot be read.
        """
        opened, store = await open_item(item), self._store
        known = None if opened.stamp is None else store.identity_of(opened.label, opened.stamp)
        identity = known or await opened.identify()
        claim = store.claim(
            identity,
            self._options.variant,
            source=opened.label,
            folder=opened.folder,
            pattern=item.pattern,
            split_input=opened.audio if isinstance(opened.audio, DirectURL) else None,
            dedupe=self._options.dedupe,
            resplit=item.anew,
        )
        record = claim.record
        if claim.met == "again":
            return Plan("duplicate", record.folder, record.pattern, record.source)
        if record.failure is not None and (record.failure.passing or self._options.retry_failed):
            record = store.reopen(record.id)
        step = plan_step(record, now=time.time(), key_age=self._options.key_age, wants_files=True)
        return Plan(_PLANS[step], record.folder, record.pattern)


async def plan_library(order: BatchOrder, terminal: Terminal) -> int:
    """Show what `batch` would do with every source and what that costs, and return the exit code."""
    survey, left_out, problems = Survey(), 0, 0
    try:
        library = order.library
        async with _planner(order, terminal) as planner:
            async for one in library.each(await library.search()):
                if isinstance(one, Unusable):
                    problems += 1
                    terminal.error(show(f"{one.source}: {one.reason}"))
                elif isinstance(one, Track):
                    plan = await _show(one, library, planner, order, terminal)
                    problems += plan is None
                    left_out += plan is not None and plan.what != _BOUGHT
                    if plan is not None and plan.what == _BOUGHT:
                        survey.add(one, (await read(one)).seconds)
        await tell_estimate(survey, order.common, terminal, left_out=left_out)
    except AIStemSplitterError as error:
        terminal.error(explain(error, Place()).message)
        return exit_code(error)
    return Exit.FAILED if problems else Exit.DONE


async def _show(track: Track, library: Library, planner: Planner, order: BatchOrder, terminal: Terminal) -> Plan | None:
    tags = await read(track)
    try:
        plan = await planner.plan(library.item(track, tags))
    except JournalError:
        raise
    except AIStemSplitterError as error:
        terminal.error(explain(error, Place(), source=shown_source(track.source)).message)
        return None
    target = order.into / plan.folder if plan.pattern == ANY_STEM else order.into / plan.folder / plan.pattern
    if order.common.json:
        told = {"source": track.source, "folder": str(order.into / plan.folder), "seconds": tags.seconds}
        terminal.result(json.dumps(told | {"pattern": plan.pattern, "plan": plan.what, "same_as": plan.same_as}))
        return plan
    length = clock(tags.seconds) if tags.seconds is not None else "?"
    note = {_BOUGHT: "", "duplicate": f"  (same audio as {shown_source(plan.same_as or '')})"}.get(
        plan.what, f"  ({plan.what})"
    )
    terminal.result(show(f"{shown_source(track.source)}  {length}  -> {target}{note}"))
    return plan


@asynccontextmanager
async def _planner(order: BatchOrder, terminal: Terminal) -> AsyncIterator[Planner]:
    """Give a planner on a copy of the journal; what it writes there is gone at the end."""
    options = BatchOptions(
        into=order.into,
        stem_model=order.stem_model,
        output_format=order.output_format,
        key_age=order.options.key_age or KEY_AGE,
        retry_failed=order.options.retry_failed,
    )
    exists = await run_in_thread(order.journal.exists)
    if exists and await run_in_thread(lambda: bool(is_locked(order.journal))):
        terminal.say("a batch is running on the journal, so what it has finished is not left out here")
        exists = False
    with TemporaryDirectory(prefix="aistemsplitter-") as folder:
        store = await run_in_thread(
            partial(_copy, order.journal, Path(folder)) if exists else partial(JournalStore, None)
        )
        try:
            store.begin()  # and never committed
            yield Planner(store, options)
        finally:
            store.close()


def _copy(journal: Path, folder: Path) -> JournalStore:
    copy, problem = folder / journal.name, ""
    try:
        for suffix in ("", "-wal"):
            if (file := journal.with_name(journal.name + suffix)).exists():
                shutil.copyfile(file, copy.with_name(file.name))
        return JournalStore(copy)
    except OSError as error:
        problem = f"cannot read {journal}: {error.strerror or error}"
    except JournalError as error:
        problem = str(error).replace(str(copy), str(journal))
    raise JournalError(problem)
