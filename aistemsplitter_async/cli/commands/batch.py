"""`batch`: splits a music library of any size as fast as the key allows, across crashes, without paying twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.partfile import NAME_REFUSED
from aistemsplitter_async._transfer.selection import NO_SUCH_MIX, NO_SUCH_STEM
from aistemsplitter_async.batch.batch import Batch
from aistemsplitter_async.batch.bounds import CHARGED_MORE, LENGTH_UNKNOWN
from aistemsplitter_async.batch.item import BatchItem, label
from aistemsplitter_async.batch.outcome import BatchReport, Done, Failed, Outcome, Skipped
from aistemsplitter_async.cli.batch_options import Batching
from aistemsplitter_async.cli.commands.forecast import Forecast
from aistemsplitter_async.cli.commands.status import find_others, report_owner
from aistemsplitter_async.cli.commands.unrecognised import announced
from aistemsplitter_async.cli.connect import connected
from aistemsplitter_async.cli.failures import Context, Exit, Problem, explain, most_severe
from aistemsplitter_async.cli.ignored import IgnoredFiles
from aistemsplitter_async.cli.library import Survey, build_library
from aistemsplitter_async.cli.places import spell
from aistemsplitter_async.cli.report.report import check_report_path, write_report
from aistemsplitter_async.cli.report.request_log import RequestLog
from aistemsplitter_async.cli.report.waveforms import Waveforms
from aistemsplitter_async.cli.results import Result, build_result, print_json
from aistemsplitter_async.cli.screen.batch_view import BatchView
from aistemsplitter_async.cli.screen.cluster_view import ClusterView
from aistemsplitter_async.cli.screen.live import shown
from aistemsplitter_async.cli.screen.render import (
    charged,
    describe_again,
    describe_repeated,
    describe_without_price,
    number,
    show,
    shown_source,
    words,
)
from aistemsplitter_async.cli.screen.terminal import BOLD, Terminal
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.config import KEY_AGE
from aistemsplitter_async.distributed.library import ClusterBatch
from aistemsplitter_async.errors import (
    GATE_UNREACHABLE,
    NOT_MIXED,
    AIStemSplitterError,
    AuthenticationError,
    InsufficientCreditsError,
    SourceUnreadableError,
    SplitFailedError,
)
from aistemsplitter_async.events import BoughtBefore, Event, SplitCreated
from aistemsplitter_async.journal.file import MOVED
from aistemsplitter_async.journal.record import StoredFailure, build_failure
from aistemsplitter_async.library.found import Ignored, Repeated, Unusable
from aistemsplitter_async.library.kinds import Kind

# Failures that say what to do themselves: another run alone changes nothing.
_UNDECIDED = ("CHANGED", "EXISTS", "NOT_AUDIO", NAME_REFUSED, NO_SUCH_MIX, NO_SUCH_STEM, NOT_MIXED)


async def batch(paths: Sequence[str], arguments: Batching, terminal: Terminal) -> int:
    """Split a library, print a result for each track, and return the exit code."""
    run = _Run(arguments, terminal)
    terminal.kept = f"nothing is lost: stems go to {arguments.into}, and the same command goes on from there"
    try:
        await (run.split_all(paths) if arguments.on is None else run.hand_out(paths))
    except AIStemSplitterError as error:
        problem = explain(error, run.context)
        terminal.error(problem.message)
        await report_owner(error, arguments.place, terminal)
        run.codes.append(problem.exit_code)
    except asyncio.CancelledError:
        terminal.say(f"stopped; nothing is lost: {run.context.again} and it continues where it stopped")
        return Exit.INTERRUPTED
    return Exit.INTERRUPTED if run.is_draining else most_severe(run.codes)


class _Run:
    """One invocation of `batch`."""

    def __init__(self, arguments: Batching, terminal: Terminal) -> None:
        self.codes: list[Exit] = []
        self.is_draining = False
        self.context = Context(
            into=str(arguments.into),
            selecting=arguments.selecting.given,
            connection=arguments.common.connection,
            is_batch=True,
            retry_failed=arguments.retry_failed,
        )
        self._arguments = arguments
        self._terminal = terminal
        self._survey = Survey()
        self._requests = RequestLog()
        self._counts: Counter[str] = Counter()
        self._ignored = IgnoredFiles()
        self._created: set[str] = set()  # splits of this run that have not succeeded
        self._others_bought: set[tuple[str, str]] = set()  # what songs were delivered as that are bought again
        self._lost = 0.0  # credits of those that failed
        self._waveforms: Waveforms | None = None  # for a report only, like the next two
        self._others: dict[str, StoredFailure | None] = {}  # sources perhaps without a journal row; why, if they failed
        self._twins: dict[str, str] = {}  # sources with the same audio as another one, and that one

    async def split_all(self, paths: Sequence[str]) -> None:
        """Split every track, print the results, a summary, and write the report."""
        arguments, terminal = self._arguments, self._terminal
        library, report_path = build_library(paths, arguments), arguments.report
        if report_path is not None:
            await run_in_thread(check_report_path, report_path)
        found = await library.search()
        if arguments.sandbox:
            terminal.say("sandbox: a local preview separation, not the hosted model")
        data = arguments.sandbox_path if arguments.sandbox else None
        async with AsyncExitStack() as stack:
            if report_path is not None:
                self._waveforms = stack.enter_context(Waveforms())
            client = await stack.enter_async_context(
                connected(arguments.common, terminal, on_event=self._note, sandbox=arguments.sandbox, sandbox_data=data)
            )
            batch: Batch
            items = announced(library.items(found, self._note_unusable), lambda: batch, terminal)
            batch = self._build_batch(client, items)
            forecast = Forecast(
                batch, client, self._survey, terminal, wanted=arguments.wanted, retry_failed=arguments.retry_failed
            )
            async with batch, forecast.running(library):
                terminal.on_first_signal = lambda: self._drain(batch)
                async with shown(BatchView(forecast.progress, self._survey, now=time.monotonic), terminal):
                    async for outcome in batch:
                        forecast.note(outcome)
                        self._print_outcome(outcome)
                terminal.on_first_signal = None
                report = await batch.report()
                await self._print_summary(report, forecast)
                if report_path is not None and self._waveforms is not None:
                    await self._write_report(report_path, batch, report, self._waveforms)

    async def hand_out(self, paths: Sequence[str]) -> None:
        """Split every track on a cluster, and print the results and a summary."""
        from aistemsplitter_async.cli.commands.cluster import describe_start, handed_out  # noqa: PLC0415  # Dask

        arguments, terminal = self._arguments, self._terminal
        library = build_library(paths, arguments)
        items = library.items(await library.search(), self._note_unusable)
        view = ClusterView(describe_start(arguments.on or ""), now=time.monotonic)
        async with shown(view, terminal), handed_out(arguments, items, terminal) as outcomes:
            view.taken = lambda: outcomes.taken
            terminal.on_first_signal = lambda: self._drain_cluster(outcomes)
            async for outcome in outcomes:
                self._print_outcome(outcome)
                view.ended, view.failed = view.ended + 1, self._counts["failed"]
            terminal.on_first_signal = None
            report = await outcomes.report()
        await self._print_summary(report, None)

    def _drain_cluster(self, outcomes: ClusterBatch) -> None:
        self.is_draining = True
        outcomes.drain()
        self._terminal.say(
            "stopping: the workers finish what is paid for; Ctrl-C again stops in seconds, and nothing is lost either"
        )

    def _build_batch(self, client: AsyncAIStemSplitter, items: AsyncIterable[BatchItem]) -> Batch:
        arguments = self._arguments
        return client.split_many(
            items,
            into=arguments.into,
            journal=spell(arguments.place),
            stem_model=arguments.stem_model,
            output_format=arguments.output_format,
            stems=arguments.selecting.stems,
            mixes=arguments.selecting.mixes,
            in_flight=arguments.in_flight,
            uploads=arguments.uploads,
            downloads=arguments.downloads,
            priority=arguments.priority,
            max_credits=arguments.max_credits,
            webhook_url=arguments.webhook_url,
            key_age=arguments.key_age or KEY_AGE,
            retry_failed=arguments.retry_failed,
            changed=arguments.changed,
            new_key=arguments.new_key,
            resend=arguments.resend,
        )

    def _drain(self, batch: Batch) -> None:
        self.is_draining = True
        batch.drain()
        count = batch.progress().paid
        self._terminal.say(
            f"stopping: finishing what is paid for ({count} split{'s' * (count != 1)}); "
            "Ctrl-C again stops at once, and nothing is lost either"
        )

    def _note(self, event: Event) -> None:
        self._requests.note(event)
        if isinstance(event, SplitCreated):
            self._created.add(event.split_id)
        if isinstance(event, BoughtBefore) and (other := (event.delivered, event.asked)) not in self._others_bought:
            self._others_bought.add(other)
            self._terminal.say(describe_again(event))

    def _note_unusable(self, found: Unusable | Ignored | Repeated) -> None:
        if isinstance(found, Ignored):
            self._ignored.note(found)
            return
        if isinstance(found, Repeated):
            self._counts["repeated"] += 1
            return
        self._counts["unusable"] += 1
        self._survey.unusable += 1
        code = "SOURCE_UNREADABLE"
        if self._waveforms is not None:
            failure = StoredFailure("prepare", SourceUnreadableError.__name__, label(found.reason), code)
            self._others[label(found.source)] = failure
        message = show(f"{found.source}: {found.reason}")
        self._print_problem(found.source, "prepare", Problem(code=code, message=message, exit_code=Exit.FAILED))

    def _print_outcome(self, outcome: Outcome) -> None:
        source = str(outcome.source)
        if isinstance(outcome, Failed):
            self._fail(source, outcome)
        elif isinstance(outcome, Done):
            self._counts["done"] += 1
            self._created.discard(outcome.split.id)
            if self._waveforms is not None:
                self._waveforms.add(outcome.files.values())
            self._print(build_result(outcome.split, source, stems=outcome.files, gain_db=outcome.gain_db), "done")
        else:
            self._skip(source, outcome)

    def _skip(self, source: str, outcome: Skipped) -> None:
        self._counts[outcome.reason] += 1
        if self._waveforms is not None and outcome.same_as:
            self._twins[label(source)] = outcome.same_as
        elif self._waveforms is not None and outcome.reason == "not begun":
            self._others[label(source)] = None
        result = Result(source=source, status=outcome.reason, stems=outcome.files, gain_db=outcome.gain_db)
        # Sources that were finished earlier are only counted: there may be thousands.
        if self._arguments.common.json or outcome.same_as:
            self._print(result, "skipped", same_as=outcome.same_as)

    def _fail(self, source: str, outcome: Failed) -> None:
        error, failure = outcome.error, build_failure(outcome.stage, outcome.error)
        self._counts["failed"] += 1
        self._counts["for good"] += not failure.passing
        self._counts["no price"] += error.code == LENGTH_UNKNOWN
        self._counts["undecided"] += failure.code in _UNDECIDED
        if self._waveforms is not None:
            self._others[label(source)] = failure
        split = error.split if isinstance(error, SplitFailedError) else None
        if split is not None and split.id in self._created:
            self._created.remove(split.id)
            self._lost += split.credits_used or 0.0
        # All tracks have the same key and the same gate, so one line about either is enough.
        refused = isinstance(error, AuthenticationError) or error.code == GATE_UNREACHABLE
        known = refused and self._counts["refused"] > 0
        self._counts["refused"] += refused
        problem = explain(error, self.context, source=shown_source(source))
        self._print_problem(source, outcome.stage, problem, status=split.status if split else None, silent=known)

    def _print_problem(
        self, source: str, stage: str, problem: Problem, *, status: str | None = None, silent: bool = False
    ) -> None:
        self.codes.append(problem.exit_code)
        if self._arguments.common.json:
            result = Result(source=source, id=problem.split_id, status=status, error=problem)
            print_json({**result.as_json(), "outcome": "failed", "stage": stage}, self._terminal)
        if not silent:
            self._terminal.error(problem.message)

    def _print(self, result: Result, outcome: str, *, same_as: str | None = None) -> None:
        if self._arguments.common.json:
            extra = {} if same_as is None else {"same_as": same_as}
            print_json({**result.as_json(), "outcome": outcome, **extra}, self._terminal)
            return
        title = self._terminal.paint(show(shown_source(result.source or "")), BOLD)
        folders = sorted({str(Path(str(file)).parent) for file in result.stems.values()})
        notes = [f"same audio as {shown_source(same_as)}"] if same_as else [*folders, *result.turned_down().values()]
        self._terminal.result("  ".join([title, *result.headline()[:2], *map(show, notes)]))

    async def _print_summary(self, report: BatchReport, forecast: Forecast | None) -> None:
        counts, terminal, others = self._counts, self._terminal, self._ignored.count(Kind.OTHER)
        failed = counts["failed"] + counts["unusable"]
        parts = [
            f"{counts['done']:,} split",
            f"{failed:,} failed" if failed else "",
            f"{counts['finished']:,} finished earlier" if counts["finished"] else "",
            f"{counts['duplicate']:,} duplicate{'s' * (counts['duplicate'] != 1)}" if counts["duplicate"] else "",
            f"{counts['elsewhere']:,} by other workers" if counts["elsewhere"] else "",
            f"{counts['not begun']:,} not begun" if counts["not begun"] else "",
            f"{others:,} other file{'s' * (others != 1)} ignored" if others else "",
        ]
        spent = charged(report.credits_used, self._lost, report.credits_used_by_all)
        sent = f", {number(self._requests.total)} request{'s' * (self._requests.total != 1)}"
        terminal.say(
            f"{', '.join(part for part in parts if part)}; {spent}, "
            f"{words(report.seconds)}{sent if forecast is not None else ''}"  # workers send theirs themselves
        )
        stopped = report.stopped_by is not None
        if not report.done + report.failed + report.skipped + counts["unusable"] and not stopped:
            terminal.say("no audio was found in the given paths")
        self._print_left_out()
        if report.stopped_by is not None:
            problem = explain(report.stopped_by, self.context)
            self.codes.append(problem.exit_code)
            if problem.code == CHARGED_MORE or forecast is None:  # it is the error of no song
                terminal.error(problem.message)
            terminal.say("no more splits were created after that; everything that is paid for is finished")
        if isinstance(report.stopped_by, InsufficientCreditsError) and self._survey.complete and forecast is not None:
            await forecast.report_shortage(stopped=True)
        if report.stopped_by is not None and report.stopped_by.code == MOVED:
            return
        passing = report.failed - counts["for good"] - counts["undecided"] - counts["no price"]
        if self.is_draining or stopped or passing > 0 or counts["not begun"]:
            terminal.say(f"{self.context.again} to continue; nothing is charged twice")
        if counts["no price"]:
            terminal.say(describe_without_price(counts["no price"]))
        if counts["for good"] and not stopped:
            terminal.say(
                f"{number(counts['for good'])} failed for good: they are tried again only with --retry-failed, which "
                "pays for a failed split again"
            )

    def _print_left_out(self) -> None:
        if self._counts["repeated"]:
            self._terminal.say(describe_repeated(self._counts["repeated"]))
        for line in self._ignored.lines(without=Kind.OTHER):
            self._terminal.say(line)

    async def _write_report(self, path: Path, batch: Batch, report: BatchReport, waveforms: Waveforms) -> None:
        await write_report(
            path,
            batch,
            self._arguments.into,
            self._requests,
            report,
            others=self._others,
            twins=self._twins,
            not_begun=max(0, self._survey.tracks - batch.progress().taken) if self._survey.complete else 0,
            workers=await find_others(self._arguments.place),
            waveforms=waveforms,
            say=self._terminal.say,
        )
        self._terminal.say(f"report: {show(path)}")
