"""`split`: a few sources as a batch of their own, each to its own result, whatever happens to the others."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs

from aistemsplitter_async._transfer.audio import build_source
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.outcome import Done, Failed, Outcome, Skipped
from aistemsplitter_async.batch.runner import Batch
from aistemsplitter_async.cli.commands.batch import default_journal
from aistemsplitter_async.cli.connect import connected
from aistemsplitter_async.cli.failures import Exit, Failure, Place, explain, gravest
from aistemsplitter_async.cli.options import Common
from aistemsplitter_async.cli.results import Result, hand_out, tell_interrupted
from aistemsplitter_async.cli.screen.board import DONE, FAILED, Board, Track
from aistemsplitter_async.cli.screen.following import count_waiting, follow, stop_tasks
from aistemsplitter_async.cli.screen.live import shown
from aistemsplitter_async.cli.screen.render import command, show
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.cli.sources import plan_folders, plan_labels, usual_folder, without_repeats
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.errors import AIStemSplitterError, SplitFailedError

AT_A_TIME = 4  # sources in hand: enough that uploads, processing and downloads overlap


@attrs.frozen(kw_only=True)
class Order:
    """What `split` was asked for."""

    sources: Sequence[str]
    into: str
    common: Common
    stem_model: str | None = None
    output_format: str | None = None
    webhook_url: str | None = None
    idempotency_key: str | None = None
    timeout: float | None = None
    overwrite: bool = False
    sandbox: bool = False

    def repeat(self, source: str) -> str:
        """Return the command that goes on with a source: the journal knows the rest."""
        options = {
            "--into": self.into,
            "--stem-model": self.stem_model,
            "--output-format": self.output_format,
            "--webhook-url": self.webhook_url,
            "--base-url": self.common.base_url,
            "--api-key-file": self.common.api_key_file,
        }
        given = [word for name, value in options.items() if value is not None for word in (name, value)]
        return command("split", source, *given)


@attrs.frozen
class Errand:
    """One source on its way: what it is, and the folder of its stems."""

    source: str
    folder: str
    usual_folder: str
    track: Track


async def split(order: Order, terminal: Terminal) -> int:
    """Split every source, hand out a result for each, and return the exit code."""
    sources = without_repeats(order.sources)
    if len(sources) < len(order.sources):
        terminal.say("some sources were given more than once; each is split once")
    errands = [
        Errand(source, folder, usual_folder(source), Track(label, order.idempotency_key or str(uuid.uuid4())))
        for source, folder, label in zip(sources, plan_folders(sources), plan_labels(sources), strict=True)
    ]
    board = Board([errand.track for errand in errands], now=time.monotonic)
    run = _Run(order, errands, board, terminal)
    terminal.last_words = run.interrupt_the_rest
    if order.sandbox:
        terminal.say("sandbox: a local preview separation, not the hosted model")
    try:
        async with connected(order.common, terminal, on_event=board.on_event, sandbox=order.sandbox) as client:
            board.queue_length = partial(count_waiting, client)
            async with shown(board, terminal):
                await run.all_of_it(client)
    except AIStemSplitterError as error:
        run.refuse_the_rest(error)
    except asyncio.CancelledError:
        run.interrupt_the_rest()
        return Exit.INTERRUPTED
    return gravest(run.codes)


class _Run:
    """One invocation of `split`."""

    def __init__(self, order: Order, errands: list[Errand], board: Board, terminal: Terminal) -> None:
        self.codes: list[Exit] = []
        self._order = order
        self._errands = errands
        self._board = board
        self._terminal = terminal

    async def all_of_it(self, client: AsyncAIStemSplitter) -> None:
        """Bring every source to a result."""
        order = self._order
        watches: set[asyncio.Task[None]] = set()

        def watch(track: Track, since: float) -> None:
            task = asyncio.create_task(follow(client, self._board, track, since=since))
            watches.add(task)
            task.add_done_callback(watches.discard)

        self._board.on_created = watch
        usable = [errand for errand in self._errands if await self._is_usable(errand)]
        if not usable:
            return
        batch = client.split_many(
            [self._item(errand) for errand in usable],
            into=order.into,
            journal=None if order.sandbox else default_journal(Path(order.into)),
            stem_model=order.stem_model,
            output_format=order.output_format,
            webhook_url=order.webhook_url,
            in_flight=AT_A_TIME,
            priority="interactive",
            patience=0.0,  # somebody is waiting: say what is wrong rather than wait it out
            retry_failed=True,  # that is what naming it again asks for
            overwrite=order.overwrite,
        )
        try:
            async with batch:
                self._board.look = partial(self._note_splits, batch, usable)
                async for outcome in batch:
                    self._take(usable[outcome.position], outcome)
                await self._refuse_what_was_not_begun(batch)
        finally:
            self._board.on_created, self._board.look = None, lambda: None
            await stop_tasks(watches)

    async def _is_usable(self, errand: Errand) -> bool:
        """Look at a source before anything is made for it, be it only a folder."""
        try:
            await build_source(errand.source)
        except AIStemSplitterError as error:
            self._fail(errand, error)
            return False
        return True

    def _note_splits(self, batch: Batch, errands: Sequence[Errand]) -> None:
        """Let the board know of splits that an earlier run created: no event tells of those."""
        for one in batch.progress().active:
            track = errands[one.position].track
            if one.split_id is not None and track.split_id is None:
                track.split_id = one.split_id
                if one.stage == "wait" and self._board.on_created is not None:
                    self._board.on_created(track, self._board.now())

    def _item(self, errand: Errand) -> BatchItem:
        return BatchItem(
            source=errand.source,
            folder=errand.folder,
            idempotency_key=errand.track.key,
            on_progress=partial(self._board.note_bytes, errand.track),
            timeout=self._order.timeout,
            anew=self._order.overwrite,
        )

    def _take(self, errand: Errand, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            self._fail(errand, outcome.error)
        elif isinstance(outcome, Skipped) and outcome.reason == "not begun":
            return  # told of in the end
        else:
            self._succeed(errand, outcome)

    def _succeed(self, errand: Errand, outcome: Done | Skipped) -> None:
        self._board.enter(errand.track, DONE)
        split = outcome.split
        if isinstance(outcome, Skipped):
            shared = f"the same audio as {outcome.same_as}" if outcome.same_as else "split already; nothing was charged"
            self._terminal.say(f"{show(errand.track.label)}: {show(shared)}")
        self._finish(
            Result(
                source=errand.source,
                id=split.id if split else None,
                status=split.status if split else None,
                stems=outcome.files,
                credits_used=split.credits_used if split else None,
                seconds=split.duration_seconds if split else None,
            )
        )

    async def _refuse_what_was_not_begun(self, batch: Batch) -> None:
        """Hand out a failure for what no split was created for, since none could be for another."""
        reason = (await batch.report()).stopped_by
        for errand in self._errands:
            if errand.track.phase not in (DONE, FAILED) and reason is not None:
                self._fail(errand, reason, begun=False)

    def refuse_the_rest(self, error: AIStemSplitterError) -> None:
        """Hand out the same failure for every source without a result: no client could be had."""
        unfinished = [errand for errand in self._errands if errand.track.phase not in (DONE, FAILED)]
        for errand in unfinished:
            self._board.enter(errand.track, FAILED)
        failure = explain(error, self._place(None))
        self.codes.append(failure.exit_code)
        if self._order.common.json:
            for errand in unfinished:
                hand_out(Result(source=errand.source, error=failure), _Quiet(self._terminal), as_json=True)
        self._terminal.error(failure.message)

    def interrupt_the_rest(self) -> None:
        """Say of every source without a result how it stands and how to go on."""
        unfinished = [errand for errand in self._errands if errand.track.phase not in (DONE, FAILED)]
        told = [(errand, *standing) for errand in unfinished if (standing := self._standing(errand))]
        if not told:
            lost = self._order.sandbox and any(errand.track.split_id for errand in unfinished)
            self._terminal.say(
                f"interrupted; {'the sandbox is gone with its splits' if lost else 'nothing is pending'}"
            )
        for errand, how_it_stands, ways_on in told:
            tell_interrupted(f"{errand.track.label} {how_it_stands}", ways_on, self._terminal)
        if self._order.common.json:
            for errand in unfinished:
                self._hand_out_interrupted(errand)

    def _hand_out_interrupted(self, errand: Errand) -> None:
        track = errand.track
        failure = Failure(
            code="INTERRUPTED",
            message="interrupted",
            exit_code=Exit.INTERRUPTED,
            split_id=track.split_id,
            idempotency_key=track.key if track.split_id or track.may_be_created else None,
        )
        result = Result(source=errand.source, id=track.split_id, credits_used=track.credits_used, error=failure)
        hand_out(result, _Quiet(self._terminal), as_json=True)

    def _standing(self, errand: Errand) -> tuple[str, list[str]] | None:
        """Return how an unfinished source stands and the commands to go on with; `None` if nothing is left of it."""
        track, place = errand.track, self._place(errand)
        if not place.lasting:
            return None
        if track.split_id is not None:
            return f"goes on as {track.split_id}; continue with:", place.ways_on(track.split_id)
        if track.may_be_created:
            again = self._order.repeat(errand.source)
            return "may or may not have been created; find out without paying twice:", [again]
        return None

    def _fail(self, errand: Errand, error: AIStemSplitterError, *, begun: bool = True) -> None:
        self._board.enter(errand.track, FAILED)
        failure = explain(error, self._place(errand), source=errand.track.label)
        if not begun:
            failure = attrs.evolve(failure, message=f"{show(errand.track.label)}: not begun, see above")
        split = error.split if isinstance(error, SplitFailedError) else None
        self._finish(
            Result(
                source=errand.source,
                id=failure.split_id,
                status=split.status if split else None,
                credits_used=split.credits_used if split else errand.track.credits_used,
                error=failure,
            )
        )

    def _finish(self, result: Result) -> None:
        self.codes.append(result.error.exit_code if result.error else Exit.DONE)
        hand_out(result, self._terminal, as_json=self._order.common.json)

    def _place(self, errand: Errand | None) -> Place:
        order = self._order
        unusual = errand is not None and errand.folder != errand.usual_folder
        return Place(
            into=order.into,
            name=errand.folder if errand is not None and unusual else None,
            base_url=order.common.base_url,
            api_key_file=order.common.api_key_file,
            lasting=not order.sandbox,
        )


class _Quiet(Terminal):
    """A terminal for results whose errors were, or will be, told once for all."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self.key = terminal.key

    def error(self, text: str) -> None:
        """Say nothing."""
