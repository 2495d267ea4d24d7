"""`batch`: a music library of any size at the speed of the key, through crashes, without paying twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.batch.item import label
from aistemsplitter_async.batch.outcome import Done, Failed, Skipped
from aistemsplitter_async.cli.commands.forecast import Forecast
from aistemsplitter_async.cli.commands.status import tell_owner
from aistemsplitter_async.cli.connect import connected
from aistemsplitter_async.cli.failures import Exit, Failure, Place, explain, gravest
from aistemsplitter_async.cli.library import Library, Survey
from aistemsplitter_async.cli.options import Batching, Common
from aistemsplitter_async.cli.report.request_log import RequestLog
from aistemsplitter_async.cli.report.waveforms import Waveforms
from aistemsplitter_async.cli.results import Result, hand_out_json
from aistemsplitter_async.cli.screen.batch_view import BatchView, Meter, shown
from aistemsplitter_async.cli.screen.render import charged, number, show, words
from aistemsplitter_async.cli.screen.terminal import BOLD, Terminal
from aistemsplitter_async.cli.sources import shown_source
from aistemsplitter_async.config import KEY_AGE
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    AuthenticationError,
    InsufficientCreditsError,
    SourceUnreadableError,
    SplitFailedError,
)
from aistemsplitter_async.events import Event, SplitCreated
from aistemsplitter_async.journal.record import StoredFailure, build_failure
from aistemsplitter_async.library.found import Ignored, Unusable
from aistemsplitter_async.library.template import parse_template

if TYPE_CHECKING:
    from aistemsplitter_async.batch.outcome import Outcome
    from aistemsplitter_async.batch.runner import Batch

JOURNAL_NAME = ".aistemsplitter.journal"


@attrs.frozen(kw_only=True)
class BatchOrder:
    """What `batch` was asked for."""

    paths: list[str]
    into: Path
    journal: Path
    common: Common
    options: Batching
    stem_model: str | None = None
    output_format: str | None = None
    webhook_url: str | None = None
    sandbox: bool = False

    @property
    def library(self) -> Library:
        """What is to be split."""
        template = None if self.options.template is None else parse_template(self.options.template)
        return Library(paths=self.paths, into=self.into, template=template)


async def batch(order: BatchOrder, terminal: Terminal) -> int:
    """Split a library, hand out a result for each track, and return the exit code."""
    run = _Run(order, terminal)
    try:
        await run.all_of_it()
    except AIStemSplitterError as error:
        failure = explain(error, run.place)
        terminal.error(failure.message)
        await tell_owner(error, order.journal, terminal)
        run.codes.append(failure.exit_code)
    except asyncio.CancelledError:
        run.tell_interrupted()
        return Exit.INTERRUPTED
    return Exit.INTERRUPTED if run.drained else gravest(run.codes)


class _Run:
    """One invocation of `batch`."""

    def __init__(self, order: BatchOrder, terminal: Terminal) -> None:
        self.codes: list[Exit] = []
        self.drained = False
        self.place = Place(
            into=str(order.into),
            base_url=order.common.base_url,
            api_key_file=order.common.api_key_file,
            whole=True,
        )
        self._order = order
        self._terminal = terminal
        self._survey = Survey()
        self._meter = Meter()
        self._requests = RequestLog()
        self._counts: Counter[str] = Counter()
        self._ignored = 0
        self._created: set[str] = set()  # splits of this run that have not succeeded
        self._lost = 0.0  # credits of those that failed
        self._others: dict[
            str, StoredFailure | None
        ] = {}  # what the journal may have no row for, and why, if it failed
        self._twins: dict[str, str] = {}  # the same audio under another name: the source it shares its stems with
        self._waveforms: Waveforms | None = None

    async def all_of_it(self) -> None:
        """Bring every track to its outcome."""
        order, terminal = self._order, self._terminal
        library = order.library
        if order.options.report is not None:
            from aistemsplitter_async.cli.report.report import check_report_path  # noqa: PLC0415  # most runs make none

            await run_in_thread(check_report_path, order.options.report)
        found = await library.search()
        if order.sandbox:
            terminal.say("sandbox: a local preview separation, not the hosted model")
        data = order.journal.with_name(f"{order.journal.name}.sandbox") if order.sandbox else None
        async with AsyncExitStack() as stack:
            if order.options.report is not None:
                self._waveforms = stack.enter_context(Waveforms())
            client = await stack.enter_async_context(
                connected(order.common, terminal, on_event=self._note, sandbox=order.sandbox, sandbox_data=data)
            )
            batch = client.split_many(
                library.items(found, self._note_unusable),
                into=order.into,
                journal=order.journal,
                stem_model=order.stem_model,
                output_format=order.output_format,
                in_flight=order.options.in_flight,
                uploads=order.options.uploads,
                downloads=order.options.downloads,
                priority=order.options.priority,
                max_credits=order.options.max_credits,
                webhook_url=order.webhook_url,
                key_age=order.options.key_age or KEY_AGE,
                retry_failed=order.options.retry_failed,
            )
            forecast = Forecast(
                batch, self._survey, self._meter, client, terminal, retry_failed=order.options.retry_failed
            )
            async with batch, forecast.beside(library):
                terminal.drain = lambda: self._drain(batch)
                async with shown(BatchView(batch.progress, self._survey, self._meter, terminal)):
                    async for outcome in batch:
                        if isinstance(outcome, Skipped):
                            forecast.note(outcome)
                        self._hand_out(outcome)
                terminal.drain = None
                await self._conclude(batch, forecast)
                if self._waveforms is not None:
                    await self._write_report(batch, self._waveforms)

    def _drain(self, batch: Batch) -> None:
        self.drained = True
        batch.drain()
        count = batch.progress().paid
        self._terminal.say(
            f"stopping: finishing what is paid for ({count} split{'' if count == 1 else 's'}); "
            "Ctrl-C again stops at once, and nothing is lost either"
        )

    def _note(self, event: Event) -> None:
        self._requests.note(event)
        if isinstance(event, SplitCreated):
            self._created.add(event.split_id)

    def _note_unusable(self, found: Unusable | Ignored) -> None:
        if isinstance(found, Ignored):
            self._ignored += found.files
            return
        self._counts["unusable"] += 1
        self._survey.unusable += 1
        self._others[found.source] = StoredFailure(
            "prepare", SourceUnreadableError.__name__, found.reason, "SOURCE_UNREADABLE", passing=True
        )
        self.codes.append(Exit.FAILED)
        failure = Failure(
            code="SOURCE_UNREADABLE", message=show(f"{found.source}: {found.reason}"), exit_code=Exit.FAILED
        )
        self._hand_out_failure(found.source, "prepare", failure, None)

    def _hand_out(self, outcome: Outcome) -> None:
        """Write one outcome where it belongs."""
        self._meter.note(outcome)
        source = str(outcome.source)
        if isinstance(outcome, Done):
            self._counts["done"] += 1
            self._created.discard(outcome.split.id)
            if self._waveforms is not None:
                self._waveforms.add(outcome.files.values())
            result = Result(
                source=source,
                id=outcome.split.id,
                status=outcome.split.status,
                stems=outcome.files,
                credits_used=outcome.split.credits_used,
                seconds=outcome.split.duration_seconds,
            )
            self._write(result, "done")
        elif isinstance(outcome, Skipped):
            self._counts[outcome.reason] += 1
            if self._waveforms is not None and outcome.same_as:
                self._twins[label(source)] = outcome.same_as
            elif self._waveforms is not None and outcome.reason == "not begun":
                self._others[label(source)] = None
            note = f"same audio as {shown_source(outcome.same_as)}" if outcome.same_as else None
            result = Result(source=source, status=outcome.reason, stems=outcome.files)
            self._write(result, "skipped", note, same_as=outcome.same_as)
        else:
            self._fail(outcome)

    def _fail(self, outcome: Failed) -> None:
        self._counts["failed"] += 1
        self._counts["for good"] += not build_failure(outcome.stage, outcome.error).passing
        source = str(outcome.source)
        failure = explain(outcome.error, self.place, source=shown_source(source))
        self.codes.append(failure.exit_code)
        if self._waveforms is not None:
            self._others[label(source)] = build_failure(outcome.stage, outcome.error)
        split = outcome.error.split if isinstance(outcome.error, SplitFailedError) else None
        if split is not None and split.id in self._created:
            self._created.remove(split.id)
            self._lost += split.credits_used
        told = isinstance(outcome.error, AuthenticationError) and self._counts["refused"] > 0
        self._counts["refused"] += isinstance(outcome.error, AuthenticationError)
        self._hand_out_failure(source, outcome.stage, failure, split.status if split else None, told=told)

    def _hand_out_failure(
        self, source: str, stage: str, failure: Failure, status: str | None, *, told: bool = False
    ) -> None:
        if self._order.common.json:
            result = Result(source=source, id=failure.split_id, status=status, error=failure)
            hand_out_json({**result.as_json(), "outcome": "failed", "stage": stage}, self._terminal)
        if not told:  # the key is the same for all, and so is what is wrong with it
            self._terminal.error(failure.message)

    def _write(self, result: Result, outcome: str, note: str | None = None, *, same_as: str | None = None) -> None:
        if self._order.common.json:
            extra = {} if same_as is None else {"same_as": same_as}
            hand_out_json({**result.as_json(), "outcome": outcome, **extra}, self._terminal)
            return
        if outcome == "skipped" and note is None:
            return  # counted at the end: a library that is finished already is no news
        title = self._terminal.paint(show(shown_source(result.source or "")), BOLD)
        folder = {str(Path(str(file)).parent) for file in result.stems.values()}
        self._terminal.result(
            "  ".join([title, *result.headline()[:2], *map(show, [note] if note else sorted(folder))])
        )

    async def _conclude(self, batch: Batch, forecast: Forecast) -> None:
        """Say how it went, and write the report."""
        report, counts, terminal = await batch.report(), self._counts, self._terminal
        parts = [
            f"{counts['done']:,} split",
            f"{counts['failed'] + counts['unusable']:,} failed" if counts["failed"] + counts["unusable"] else "",
            f"{counts['finished']:,} finished earlier" if counts["finished"] else "",
            f"{counts['duplicate']:,} duplicate{'s' * (counts['duplicate'] != 1)}" if counts["duplicate"] else "",
            f"{counts['not begun']:,} not begun" if counts["not begun"] else "",
            f"{self._ignored:,} other files passed over" if self._ignored else "",
        ]
        terminal.say(
            f"{', '.join(part for part in parts if part)}; {charged(report.credits_used, self._lost)}, "
            f"{words(report.seconds)}, {number(self._requests.total)} request{'s' * (self._requests.total != 1)}"
        )
        if not report.done + report.failed + report.skipped + counts["unusable"] and report.stopped_by is None:
            terminal.say("no audio was found in what was given")
        if report.stopped_by is not None:
            self.codes.append(explain(report.stopped_by, self.place).exit_code)
            terminal.say("no more splits were created after that; everything that is paid for is finished")
        if isinstance(report.stopped_by, InsufficientCreditsError) and self._survey.complete:
            await forecast.tell_shortage(stopped=True)
        if self._goes_on(report.failed - counts["for good"], stopped=report.stopped_by is not None):
            terminal.say("run the same command again to go on; nothing is charged twice")
        if counts["for good"] and report.stopped_by is None:
            terminal.say(f"{number(counts['for good'])} failed for good: they are tried again only with --retry-failed")

    async def _write_report(self, batch: Batch, waveforms: Waveforms) -> None:
        from aistemsplitter_async.cli.report.report import write_report  # noqa: PLC0415

        path, terminal = self._order.options.report, self._terminal
        assert path is not None  # noqa: S101  # or there would be no waveforms
        await write_report(
            path,
            batch,
            self._order.into,
            self._requests,
            await batch.report(),
            others=self._others,
            twins=self._twins,
            not_begun=max(0, self._survey.tracks - batch.progress().taken) if self._survey.complete else 0,
            waveforms=waveforms,
            say=terminal.say,
        )
        terminal.say(f"report: {show(path)}")

    def _goes_on(self, failed: int, *, stopped: bool) -> bool:
        return bool(self.drained or stopped or failed or self._counts["not begun"])

    def tell_interrupted(self) -> None:
        """Say how to go on after a stop in the middle."""
        self._terminal.say("stopped; nothing is lost: run the same command again and it goes on where it was")


def default_journal(into: Path) -> Path:
    """Return where the journal of a folder of stems is."""
    return into / JOURNAL_NAME
