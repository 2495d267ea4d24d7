"""`split`: splits a few sources as a small batch. Each gets a result, even if the others fail."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Sequence
from functools import partial

import attrs

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.audio import build_source
from aistemsplitter_async._transfer.file_source import FileSource
from aistemsplitter_async.batch.batch import Batch
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.outcome import Done, Failed, Outcome, Skipped
from aistemsplitter_async.cli.commands.unrecognised import announced
from aistemsplitter_async.cli.connect import connected_board
from aistemsplitter_async.cli.failures import Context, Exit, explain, most_severe
from aistemsplitter_async.cli.options import Splitting
from aistemsplitter_async.cli.places import find_journal, spell
from aistemsplitter_async.cli.results import (
    Result,
    build_interrupted,
    build_result,
    print_interrupted,
    print_json,
    print_result,
)
from aistemsplitter_async.cli.screen.board import DONE, FAILED, Activity, Board
from aistemsplitter_async.cli.screen.render import command, given_options, show
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.cli.sources import advise_on, plan_folders, plan_labels, settle_sources, usual_folder
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.errors import AIStemSplitterError, SplitFailedError

_IN_FLIGHT = 4  # sources at a time: enough that uploads, processing and downloads overlap


@attrs.frozen
class SourceJob:
    """One source, the folder for its stems, and its activity on the screen."""

    source: str
    folder: str
    activity: Activity


async def split(given: Sequence[str], arguments: Splitting, terminal: Terminal) -> int:
    """Split every source, print a result for each, and return the exit code."""
    sources = settle_sources(given)
    if len(sources) < len(given):
        terminal.say("some sources were given more than once; each is split once")
    jobs = [
        SourceJob(source, folder, Activity(label, arguments.idempotency_key or str(uuid.uuid4())))
        for source, folder, label in zip(sources, plan_folders(sources), plan_labels(sources), strict=True)
    ]
    board = Board([job.activity for job in jobs], now=time.monotonic, log=terminal.log)
    run = _Run(arguments, jobs, board, terminal)
    terminal.kept = f"nothing is lost: stems go to {arguments.into}"
    if not arguments.sandbox:
        terminal.kept += ", and the same command shows them again without being charged"
    terminal.on_forced_exit = run.interrupt_the_rest
    if arguments.sandbox:
        terminal.say("sandbox: a local preview separation, not the hosted model")
    try:
        async with connected_board(board, arguments.common, terminal, sandbox=arguments.sandbox) as client:
            await run.split_all(client)
    except AIStemSplitterError as error:
        run.fail_the_rest(error)
    except asyncio.CancelledError:
        run.interrupt_the_rest()
        return Exit.INTERRUPTED
    return most_severe(run.codes)


class _Run:
    """One invocation of `split`."""

    def __init__(self, arguments: Splitting, jobs: Sequence[SourceJob], board: Board, terminal: Terminal) -> None:
        self.codes: list[Exit] = []
        self._arguments = arguments
        self._jobs = jobs
        self._board = board
        self._terminal = terminal

    async def split_all(self, client: AsyncAIStemSplitter) -> None:
        """Split every source that can be read, and print the results."""
        arguments = self._arguments
        usable = [job for job in self._jobs if await self._is_usable(job)]
        if not usable:
            return
        batch = client.split_many(
            announced(map(self._item, usable), lambda: batch, self._terminal),
            into=arguments.into,
            journal=None if arguments.sandbox else spell(find_journal(None, arguments.into, os.environ)),
            stem_model=arguments.stem_model,
            output_format=arguments.output_format,
            stems=arguments.selecting.stems,
            mixes=arguments.selecting.mixes,
            webhook_url=arguments.webhook_url,
            in_flight=_IN_FLIGHT,
            priority="interactive",
            patience=0.0,  # a person is waiting: report a problem instead of waiting it out
            retry_failed=arguments.retry_failed or "unpaid",  # naming the source again asks for what costs nothing
            overwrite=arguments.overwrite,
            changed=arguments.changed,
            new_key=arguments.new_key,
            resend=arguments.resend,
        )
        try:
            async with batch:
                self._board.find_splits = partial(self._find_splits, batch, usable)
                async for outcome in batch:
                    self._print_outcome(usable[outcome.position], outcome)
                await self._fail_what_was_not_begun(batch)
        finally:
            self._board.find_splits = lambda: None

    async def _is_usable(self, job: SourceJob) -> bool:
        """Check a source before anything, even a folder, is created for it."""
        try:
            source = await build_source(job.source)
            if isinstance(source, FileSource):
                async with source.opened():  # it may be audio
                    pass
        except AIStemSplitterError as error:
            self._fail(job, error, advice=await run_in_thread(advise_on, job.source))
            return False
        return True

    def _find_splits(self, batch: Batch, jobs: Sequence[SourceJob]) -> None:
        """Record splits that an earlier run created: there is no event for those."""
        for one in batch.progress().active:
            activity = jobs[one.position].activity
            if one.split_id is not None and activity.split_id is None:
                activity.split_id = one.split_id
                if one.stage == "wait":
                    self._board.follow_split(activity, time.monotonic())

    def _item(self, job: SourceJob) -> BatchItem:
        return BatchItem(
            source=job.source,
            folder=job.folder,
            idempotency_key=job.activity.key,
            on_progress=partial(self._board.note_bytes, job.activity),
            timeout=self._arguments.timeout,
            anew=self._arguments.overwrite,
        )

    def _print_outcome(self, job: SourceJob, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            self._fail(job, outcome.error)
        elif isinstance(outcome, Done) or outcome.reason != "not begun":  # those that were not begun fail at the end
            self._succeed(job, outcome)

    def _succeed(self, job: SourceJob, outcome: Done | Skipped) -> None:
        self._board.enter(job.activity, DONE)
        if isinstance(outcome, Skipped):
            reason = f"the same audio as {outcome.same_as}" if outcome.same_as else "split already; nothing was charged"
            self._terminal.say(f"{show(job.activity.label)}: {show(reason)}")
        self._print(build_result(outcome.split, job.source, stems=outcome.files, gain_db=outcome.gain_db))

    async def _fail_what_was_not_begun(self, batch: Batch) -> None:
        """Print a failure for each source without a split, if an error of another one stopped the batch."""
        reason = (await batch.report()).stopped_by
        for job in self._unfinished():
            if reason is not None:
                self._fail(job, reason, begun=False)

    def fail_the_rest(self, error: AIStemSplitterError) -> None:
        """Print the same failure for every source without a result: no client could be built."""
        problem = explain(error, self._context())
        self.codes.append(problem.exit_code)
        for job in self._unfinished():
            self._board.enter(job.activity, FAILED)
            if self._arguments.common.json:
                print_json(Result(source=job.source, error=problem).as_json(), self._terminal)
        self._terminal.error(problem.message)

    def interrupt_the_rest(self) -> None:
        """Print the state of every source without a result, and how to continue."""
        unfinished = self._unfinished()
        states = [(job, *state) for job in unfinished if (state := self._state(job))]
        if not states:
            lost = self._arguments.sandbox and any(job.activity.split_id for job in unfinished)
            self._terminal.say(
                f"interrupted; {'the sandbox and its splits are gone' if lost else 'nothing is pending'}"
            )
        for job, text, commands in states:
            print_interrupted(f"{job.activity.label} {text}", commands, self._terminal)
        if self._arguments.common.json:
            for job in unfinished:
                activity = job.activity
                key = activity.key if activity.split_id or activity.may_be_created else None
                problem = build_interrupted(activity.split_id, key)
                result = Result(
                    source=job.source, id=activity.split_id, credits_used=activity.credits_used, error=problem
                )
                print_json(result.as_json(), self._terminal)

    def _unfinished(self) -> list[SourceJob]:
        return [job for job in self._jobs if not job.activity.is_over]

    def _state(self, job: SourceJob) -> tuple[str, list[str]] | None:
        """Return the state of an interrupted source, and the commands to continue; `None` if nothing is left of it."""
        activity, context = job.activity, self._context(job)
        if not context.resumable:
            return None
        if activity.split_id is not None:
            return f"exists as {activity.split_id}; continue with:", context.continuations(activity.split_id)
        if activity.may_be_created:
            again = _command_for(job.source, self._arguments)
            return "may or may not have been created; find out without paying twice:", [again]
        return None

    def _fail(
        self, job: SourceJob, error: AIStemSplitterError, *, begun: bool = True, advice: str | None = None
    ) -> None:
        self._board.enter(job.activity, FAILED)
        problem = explain(error, self._context(job), source=job.activity.label)
        if advice is not None:
            problem = attrs.evolve(problem, message=f"{problem.message}; {show(advice)}")
        if not begun:
            problem = attrs.evolve(problem, message=f"{show(job.activity.label)}: not begun, see above")
        split = error.split if isinstance(error, SplitFailedError) else None
        result = build_result(split, job.source, stems={}, error=problem)
        self._print(result if split else attrs.evolve(result, credits_used=job.activity.credits_used))

    def _print(self, result: Result) -> None:
        self.codes.append(result.error.exit_code if result.error else Exit.DONE)
        print_result(result, self._terminal, as_json=self._arguments.common.json)

    def _context(self, job: SourceJob | None = None) -> Context:
        arguments = self._arguments
        return Context(
            into=str(arguments.into),
            name=job.folder if job is not None and job.folder != usual_folder(job.source) else None,
            selecting=arguments.selecting.given,
            connection=arguments.common.connection,
            is_split=True,
            retry_failed=arguments.retry_failed,
            resumable=not arguments.sandbox,
        )


def _command_for(source: str, arguments: Splitting) -> str:
    """Return the command that continues with a source; the rest is in the journal."""
    options = {
        "--into": arguments.into,
        "--stem-model": arguments.stem_model,
        "--output-format": arguments.output_format,
        **arguments.selecting.given,
        "--webhook-url": arguments.webhook_url,
        **arguments.common.connection,
    }
    return command("split", source, *given_options(options))
