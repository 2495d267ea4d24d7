"""`batch --dry-run`: shows what a run would do with each source, decided by its own code on a copy of its journal."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

from aistemsplitter_async._audio.examine import Length
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.mixing import load_audio
from aistemsplitter_async._transfer.names import ANY_STEM
from aistemsplitter_async._transfer.target import check_target
from aistemsplitter_async.batch.bounds import CreditBudget
from aistemsplitter_async.batch.item import BatchItem, open_item
from aistemsplitter_async.batch.options import BatchOptions
from aistemsplitter_async.batch.preflight import plan_price
from aistemsplitter_async.batch.refusals import build_changed
from aistemsplitter_async.batch.steps import find_missing as find_missing_files
from aistemsplitter_async.cli.batch_options import Batching
from aistemsplitter_async.cli.commands.estimate import note_unusable, print_estimate
from aistemsplitter_async.cli.commands.status import report_owner
from aistemsplitter_async.cli.commands.unrecognised import describe_missing, find_missing
from aistemsplitter_async.cli.failures import Context, Exit, exit_code, explain, most_severe
from aistemsplitter_async.cli.library import Survey, build_library, measure_track
from aistemsplitter_async.cli.places import Place
from aistemsplitter_async.cli.results import print_json
from aistemsplitter_async.cli.screen.render import (
    clock,
    describe_delivered,
    describe_without_price,
    number,
    price,
    show,
    shown_source,
)
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.config import KEY_AGE
from aistemsplitter_async.errors import AIStemSplitterError, JournalError, SpendLimitError
from aistemsplitter_async.journal.ends import copy_shared
from aistemsplitter_async.journal.file import own_files
from aistemsplitter_async.journal.matching import delivered
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.reading import copy_content
from aistemsplitter_async.journal.record import Step, is_retried, plan_step
from aistemsplitter_async.journal.store import JournalStore

_SPLIT = "split"
_NO_PRICE = "not split with this --max-credits, as its length is not certain"
_AGAIN = "split again, with other options than before"
_RESENT = "created again, and paid for once more unless the service knows of it"
_UNSETTLED = "paid for with other options; to be waited for and compared"
_PLANS = {  # these texts are values in the JSON output
    Step.UPLOAD: _SPLIT,
    Step.CREATE: _SPLIT,
    Step.REPLAY: "perhaps created; to be found out",
    Step.WAIT: "paid for; to be waited for",
    Step.DOWNLOAD: "paid for; to be fetched",
    Step.CHECK: "finished",
    Step.NOTHING: "finished",
    Step.REVIEW: "to be looked at",
    Step.FAILED: "failed for good; tried again with --retry-failed",
}


_CODES = {Step.FAILED: Exit.FAILED, Step.REVIEW: Exit.UNCERTAIN}  # with which a run ends for what it leaves undone


@attrs.frozen
class Plan:
    """The plan for one source.

    Attributes:
        what: a run would do.
        folder: where its stems go.
        pattern: how they are called.
        same_as: a source with the same audio, if there is one.
        code: with which a run would end for this source.
        besides: as what the same song was delivered when it was bought before, if it is bought again.
    """

    what: str
    folder: str
    pattern: str
    same_as: str | None = None
    besides: str | None = None
    code: Exit = Exit.DONE


class Planner:
    """Claims tracks as a run does, on a journal that is thrown away."""

    def __init__(self, store: JournalStore, options: BatchOptions, into: Path, own_files: Sequence[Path]) -> None:
        self._store = store
        self._options = options
        self._into = into
        self._own_files = own_files

    async def plan(self, item: BatchItem) -> Plan:
        """Return the plan for a source.

        Raises:
            AIStemSplitterError: the source would fail with this, before anything is spent.
        """
        opened, store, options = await open_item(item, self._own_files), self._store, self._options
        known = None if opened.stamp is None else store.audio_of(opened.label, opened.stamp)
        claim = store.claim(
            opened.sighted(known or await opened.identify(), item.pattern),
            options.variant,
            dedupe=options.dedupe,
            resplit=item.anew,
            changed=options.changed,
        )
        record = claim.record
        if claim.met == "changed":
            raise build_changed(opened.label, record)
        if claim.met == "again":
            return Plan("duplicate", record.folder, record.pattern, record.source)
        if record.failure is not None and is_retried(record.failure, options.retry_failed, options.selection):
            record = store.reopen(record.id, options.variant)
        key = None if options.new_key else store.sender()  # a new one, which is not known here, sent no create
        plan = partial(plan_step, record, now=time.time(), key_age=options.key_age, wants_files=True, key=key)
        step = plan(resend=options.resend)
        if step is not plan():
            return Plan(_RESENT, record.folder, record.pattern)
        if step in (Step.UPLOAD, Step.CREATE):
            folder, selection = self._into / record.folder, options.selection
            await run_in_thread(check_target, folder, options.overwrite, record.pattern, selection)
            if claim.besides is not None:
                return Plan(_AGAIN, record.folder, record.pattern, besides=str(delivered(claim.besides)))
        if step in (Step.CHECK, Step.DOWNLOAD):
            missing = await run_in_thread(find_missing_files, options, record)
            step = Step.CHECK if missing.is_nothing else Step.DOWNLOAD
        if claim.met == "unsettled" and step in (Step.WAIT, Step.REPLAY):
            return Plan(_UNSETTLED, record.folder, record.pattern)
        return Plan(_PLANS[step], record.folder, record.pattern, code=_CODES.get(step, Exit.DONE))

    async def find_missing(self) -> list[str]:
        """Return where the songs were that a run might not recognise, and buy again."""
        return await run_in_thread(find_missing, self._store.unrecognised())


async def plan_library(paths: Sequence[str], arguments: Batching, terminal: Terminal) -> int:
    """Show what `batch` would do with every source and what it would cost; return the exit code."""
    survey, left_out, unsettled, without_price, codes = Survey(), 0, 0, 0, list[Exit]()
    most = arguments.max_credits
    try:
        library = build_library(paths, arguments)
        async with _planner(arguments) as planner:
            async for track in library.tracks(await library.search(), partial(note_unusable, survey, terminal)):
                plan = await _plan(planner, await library.item(track), terminal)
                if plan is None:
                    survey.unusable += 1
                    continue
                codes.append(plan.code)
                length = await measure_track(track, thorough=arguments.max_credits is not None)
                is_new = plan.what in (_SPLIT, _AGAIN, _RESENT)
                has_price = not is_new or _has_price(length, most)
                _print(
                    plan if has_price else attrs.evolve(plan, what=_NO_PRICE), track.source, length, arguments, terminal
                )
                if not has_price:
                    without_price += 1
                elif is_new:
                    survey.add(track, length)
                else:
                    left_out += 1
                    unsettled += plan.what == _UNSETTLED
            missing = await planner.find_missing() if survey.tracks else []
        await print_estimate(survey, arguments.common, terminal, left_out=left_out)
        if unsettled:
            terminal.say(f"{number(unsettled)} of them may be bought again, if not delivered as what is asked for now")
        if without_price:
            codes.append(Exit.CREDITS)
            terminal.say(describe_without_price(without_price))
        if most is not None and survey.credits_needed > most:
            codes.append(Exit.CREDITS)
            terminal.say(f"that is more than the {price(most)} of --max-credits: a run stops when they are spent")
        if missing:
            terminal.say(describe_missing(missing))
    except AIStemSplitterError as error:
        terminal.error(explain(error, Context()).message)
        await report_owner(error, arguments.place, terminal)
        return exit_code(error)
    return most_severe([*codes, Exit.FAILED if survey.unusable else Exit.DONE])


async def _plan(planner: Planner, item: BatchItem, terminal: Terminal) -> Plan | None:
    """Return the plan for a source, or `None` if it would fail."""
    try:
        return await planner.plan(item)
    except JournalError:
        raise
    except AIStemSplitterError as error:
        terminal.error(explain(error, Context(is_batch=True), source=shown_source(str(item.source))).message)
        return None


def _has_price(length: Length, most: float | None) -> bool:
    """Return whether a run would create the split, as far as that depends on this source alone."""
    budget = CreditBudget(most, on_overrun=lambda _: None)
    price = None if length.at_most is None else plan_price(length, None)  # what a playlist says of a URL is none
    try:
        budget.check(price)
    except SpendLimitError:
        return False
    return True


def _print(plan: Plan, source: str, length: Length, arguments: Batching, terminal: Terminal) -> None:
    folder = arguments.into / plan.folder
    if arguments.common.json:
        values = {"source": source, "folder": str(folder), "seconds": length.seconds, "seconds_at_most": length.at_most}
        print_json(values | {"pattern": plan.pattern, "plan": plan.what, "same_as": plan.same_as}, terminal)
        return
    target = folder if plan.pattern == ANY_STEM else folder / plan.pattern
    known = length.seconds if length.seconds is not None else length.at_most
    lasts = "?" if known is None else clock(known) if length.seconds is not None else f"at most {clock(known)}"
    what = plan.what if plan.same_as is None else f"same audio as {shown_source(plan.same_as)}"
    what += "" if plan.besides is None else f": it was {describe_delivered(plan.besides)}"
    note = "" if what == _SPLIT else f"  ({what})"
    terminal.result(show(f"{shown_source(source)}  {lasts}  -> {target}{note}"))


@asynccontextmanager
async def _planner(arguments: Batching) -> AsyncIterator[Planner]:
    """Yield a planner on a copy of the journal, which is deleted at the end."""
    options = BatchOptions(
        into=arguments.into,
        stem_model=arguments.stem_model,
        output_format=arguments.output_format,
        selection=arguments.selecting.selection,
        key_age=arguments.key_age or KEY_AGE,
        retry_failed=arguments.retry_failed,
        changed=arguments.changed,
        new_key=arguments.new_key,
        resend=arguments.resend,
    )
    if options.selection.mixes:
        await run_in_thread(load_audio)
    journal = arguments.journal_path
    with TemporaryDirectory(prefix="aistemsplitter-") as folder:
        store = await run_in_thread(_copy, arguments.place, Path(folder))
        try:
            store.begin()  # and never committed
            yield Planner(store, options, arguments.into, own_files(journal))
        finally:
            store.close()


def _copy(journal: Place, folder: Path) -> JournalStore:
    if isinstance(journal, JournalURL):
        return JournalStore(copy_shared(journal, folder))
    copy = copy_content(journal, folder)
    try:
        return JournalStore(copy)
    except JournalError as error:
        problem = str(error).replace(str(copy), str(journal))
    raise JournalError(problem)
