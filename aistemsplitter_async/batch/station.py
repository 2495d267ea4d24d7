"""One long-lived batch for many callers: each asks for a song, and gets its outcome.

```python
async with Station(client, journal="library.journal", into="stems/") as station:
    outcome = await station.split("song.wav")  # in any task of this event loop
```
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from copy import copy
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self, Unpack

from aistemsplitter_async.batch.options import BatchKeywords
from aistemsplitter_async.config import STATION_GRACE
from aistemsplitter_async.errors import ConfigurationError

if TYPE_CHECKING:
    from aistemsplitter_async._transfer.audio import Source
    from aistemsplitter_async.batch.batch import Batch
    from aistemsplitter_async.batch.call import Call
    from aistemsplitter_async.batch.item import BatchItem
    from aistemsplitter_async.batch.outcome import Outcome

CLOSED: Final = "CLOSED"  # the code of the error of callers whose song has no outcome, as the station was closed


class SplitsMany(Protocol):
    """A client, as far as a station needs one."""

    @property
    def split_many(self) -> Callable[..., Batch]:
        """Return a batch that is to be entered, of sources and the options of `AsyncAIStemSplitter.split_many`."""
        ...


class Station:
    """A batch that runs as long as its `async with` block, and that any task may ask for songs.

    All callers share the journal, the bounds on what runs at a time, and one queue: who came first is first. A song
    that several ask for at the same time is split once.

    Args:
        client: of the same event loop. It is not closed.
        journal: as in `split_many`; without one, a crash loses what was in progress.
        into: the folder for all stems; nothing is downloaded without it.
        grace: seconds for what is, or may be, paid for, to be finished when the block is left; only if it is left
            without an error.
        options: those of `split_many`; `max_credits` is for all songs together.

    Raises:
        ConfigurationError: an argument out of its range.
    """

    def __init__(
        self,
        client: SplitsMany,
        *,
        journal: str | PathLike[str] | None = None,
        into: str | PathLike[str] | None = None,
        grace: float = STATION_GRACE,
        **options: Unpack[BatchKeywords],
    ) -> None:
        if not grace >= 0:
            raise ConfigurationError(f"grace must be at least 0 seconds, not {grace!r}")
        self._callers = _Callers()
        self._batch = client.split_many(self._callers, into=into, journal=journal, **options)
        self._grace = grace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Task[None] | None = None  # of the batch

    async def __aenter__(self) -> Self:
        """Open the journal and start. Raises like the entering of a batch."""
        await self._batch.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.create_task(self._wait_for_end(), name="station")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Create no more splits, finish within `grace` what is paid for, and close the journal.

        If the block ends with an error, nothing is waited for but creates that are being sent, for a few seconds.
        Callers that are still waiting get a `ConfigurationError` (`CLOSED`). What is not finished is in the journal.
        """
        assert self._end is not None  # noqa: S101  # it was entered
        try:
            if kind is None:
                await self._batch.finish(self._grace)
        finally:
            try:
                await self._batch.__aexit__(kind, error, trace)
            finally:
                await asyncio.wait([self._end])

    async def split(self, source: Source | BatchItem) -> Outcome:
        """Split a song, unless that is done, and return its outcome, which the journal has as well.

        A caller that is cancelled withdraws the song as long as it has cost nothing; otherwise it is finished, and is
        there for whoever asks for it next. Others who wait for it are not affected.

        Args:
            source: as in `split_many`; a `BatchItem` for one with options of its own.

        Returns:
            `Done`; `Failed`, which concerns this song alone; or `Skipped`: `finished` if that was so before,
            `duplicate` if somebody else was waiting for the same song. All have the files, if there are any.

        Raises:
            AIStemSplitterError: nothing more is split, since the key was refused (`AuthenticationError`), the account
                is empty (`InsufficientCreditsError`), `max_credits` is reached (`SpendLimitError`), an outage lasted
                longer than `patience`, or the journal cannot be written (`JournalError`). It is the same for every
                caller from then on; another station starts over.
            ConfigurationError: the station was not entered, is closed (`CLOSED`), or belongs to another event loop; or
                `anew`, which needs a batch with an end.
        """
        self._check_use()
        from aistemsplitter_async.batch.call import Call  # noqa: PLC0415  # entering has loaded it
        from aistemsplitter_async.batch.item import BatchItem  # noqa: PLC0415

        item = source if isinstance(source, BatchItem) else BatchItem(source=source)
        if item.anew:
            raise ConfigurationError("anew is for split_many: a station has no end at which a song was split once more")
        outcome = await self._callers.ask(Call.of(item))
        if outcome is None or getattr(outcome, "reason", None) == "not begun":
            raise self._explain_end()
        return outcome

    def drain(self) -> None:
        """Create no more splits, but finish those that are, or may be, paid for. Returns at once."""
        self._check_use()
        self._batch.drain()

    @property
    def stopped_by(self) -> BaseException | None:
        """The error because of which no more songs are split, if there was one."""
        return None if self._end is None else self._batch.stopped_by

    def _check_use(self) -> None:
        if self._loop is None:
            raise ConfigurationError("a station runs inside `async with`")
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError("a station belongs to the event loop that it was entered in")

    def _explain_end(self) -> Exception:
        """Return the error of a caller whose song has no outcome, for that caller alone: tracebacks grow."""
        reason = self._batch.stopped_by
        if isinstance(reason, Exception):
            return copy(reason)
        return ConfigurationError(
            "this station is closed; what is paid for is in its journal, and another station goes on with it",
            code=CLOSED,
        )

    async def _wait_for_end(self) -> None:
        """Let no caller wait for an outcome that will not come."""
        try:
            with suppress(Exception, KeyboardInterrupt, SystemExit):  # the event loop has raised the last two
                await self._batch.report()
        finally:
            self._callers.refuse()


class _Callers:
    """Those who wait for their turn, as the iterable of a batch, and those who wait for their outcome."""

    def __init__(self) -> None:
        self._queued: dict[asyncio.Future[Outcome | None], Call] = {}
        self._running: dict[asyncio.Future[Outcome | None], Call] = {}
        self._has_come = asyncio.Event()
        self._is_over = False

    async def ask(self, call: Call) -> Outcome | None:
        """Wait for the turn and the outcome of `call`; `None` if there will be none."""
        if self._is_over:
            return None
        self._queued[call.answer] = call
        self._has_come.set()
        try:
            return await call.answer
        finally:
            self._queued.pop(call.answer, None)
            self._running.pop(call.answer, None)

    def refuse(self) -> None:
        """Let nobody wait any longer."""
        self._take_no_more()
        for call in self._running.values():
            call.settle(None)

    async def __aiter__(self) -> AsyncGenerator[Call, None]:
        try:
            while True:
                self._has_come.clear()
                while self._queued:
                    call = next(iter(self._queued.values()))
                    yield call
                    if self._queued.pop(call.answer, None) is not None:  # else it was withdrawn meanwhile
                        self._running[call.answer] = call
                await self._has_come.wait()
        finally:
            self._take_no_more()

    def _take_no_more(self) -> None:
        self._is_over = True
        for call in self._queued.values():
            call.settle(None)
