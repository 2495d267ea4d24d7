"""Many splits at a time, as an async context manager over a stream of outcomes.

```python
async with client.split_many(sources, into="stems/", journal="library.journal") as outcomes:
    async for outcome in outcomes:
        ...
```

This is what a caller holds. What does the work, `runner`, loads when a batch is entered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aistemsplitter_async._loading import load
from aistemsplitter_async._transfer.binary_file import is_file_object
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.errors import ConfigurationError

if TYPE_CHECKING:
    from aistemsplitter_async._engine import Engine
    from aistemsplitter_async.batch.feeder import Sources
    from aistemsplitter_async.batch.options import BatchOptions
    from aistemsplitter_async.batch.outcome import BatchReport, Outcome
    from aistemsplitter_async.batch.progress import BatchProgress
    from aistemsplitter_async.batch.runner import Runner
    from aistemsplitter_async.journal.place import JournalURL
    from aistemsplitter_async.journal.record import Record


class Batch:
    """A batch that runs while its `async with` block does; iterate over it for the outcomes as they arrive.

    `AsyncAIStemSplitter.split_many` creates one.
    """

    def __init__(
        self,
        get_engine: Callable[[], Awaitable[Engine]],
        sources: Sources,
        options: BatchOptions,
        *,
        journal: Path | JournalURL | None,
        clock: Clock,
    ) -> None:
        kind = type(sources).__name__
        # iterable, but not a list of sources
        if isinstance(sources, str | bytes | bytearray | memoryview | Mapping) or is_file_object(sources):
            raise ConfigurationError(f"sources is a single {kind}; give a list of sources")
        if not isinstance(sources, Iterable | AsyncIterable):
            raise ConfigurationError(f"sources must be an iterable, not {kind}; give a list of sources")
        self._get_engine = get_engine
        self._sources = sources
        self._options = options
        self._journal = journal
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._entered: Runner | None = None
        self._expected: tuple[int | None, float | None] = None, None

    async def __aenter__(self) -> Self:
        """Load what a batch needs, SQLite among it, in a thread; then open the journal and start.

        Raises:
            JournalLockedError: another process is running on the journal.
            JournalError: the journal cannot be used.
            AIStemSplitterError: with `new_key`, the API could not be asked whose key it is.
            ConfigurationError: it was entered before, or its client belongs to another event loop; psycopg is missing;
                or, beside other workers on a shared journal, `into` is another folder than theirs (`code` is
                `OTHER_FOLDER`), or `max_credits` another limit.
        """
        self._check_new()
        engine = await self._get_engine()
        await load("batch.runner", "Runner")
        self._check_new()
        self._loop = asyncio.get_running_loop()
        from aistemsplitter_async.batch.runner import Runner  # noqa: PLC0415  # it is loaded now

        runner = Runner(engine, self._sources, self._options, journal=self._journal, clock=self._clock)
        runner.expect(*self._expected)
        await runner.start()
        self._entered = runner
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is still running, and close the journal."""
        await self._runner.stop(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        """Return the next outcome.

        Raises:
            ConfigurationError: the batch was not entered with `async with`, or in another event loop; or the iterable
                of sources cancelled the task that read it, or did not let itself be closed.
            JournalError: the journal could not be written any more; nothing was sent after that.
            Exception: raised by the iterable of sources; everything before it was finished.
            BaseException: raised by a source to end the program; nothing was sent after that.
        """
        runner = self._runner  # raises if not entered, instead of waiting forever
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError("a batch belongs to the event loop that it was entered in")
        outcome = await runner.next_outcome()
        if outcome is None:
            raise StopAsyncIteration
        return outcome

    def drain(self) -> None:
        """Create no more splits, but finish those that are, or may be, paid for. Returns at once."""
        self._runner.drain()

    async def finish(self, within: float) -> None:
        """Drain, and wait until all is finished that is, or may be, paid for, but no longer than `within` seconds.

        Meanwhile another task must take the outcomes. What is not finished then is in the journal.
        """
        await self._runner.finish(within)

    @property
    def stopped_by(self) -> BaseException | None:
        """The error because of which no more splits are created, if there was one."""
        return self._runner.stopped_by

    def expect(self, *, total: int | None, seconds_left: float | None = None) -> None:
        """Set how many sources there are and how long they still take, for `progress` and the status file."""
        self._expected = total, seconds_left
        if self._entered is not None:
            self._entered.expect(total, seconds_left)

    async def report(self) -> BatchReport:
        """Return the totals once the batch has ended; outcomes that were not taken until then are only counted."""
        async for _ in self:
            pass
        return self._runner.report()

    def records(self) -> AsyncGenerator[Record, None]:
        """Iterate over all records of the journal, earlier runs included, oldest first."""
        return self._runner.records()

    async def unrecognised(self) -> list[str]:
        """Return where the songs were that were bought, of which only the bytes are known, and that were not met yet.

        If such a file has another name and other tags by now, its song is bought again.
        """
        return await self._runner.unrecognised()

    async def exposed_folder(self) -> Path | None:
        """Return the journal's folder if others can read the journal, since the file system keeps no private files."""
        return await self._runner.exposed_folder()

    def progress(self) -> BatchProgress:
        """Return a snapshot of the batch, to be shown."""
        return self._runner.progress()

    @property
    def _runner(self) -> Runner:
        if self._entered is None:
            raise ConfigurationError("a batch runs inside `async with`")
        return self._entered

    def _check_new(self) -> None:
        if self._loop is not None:
            raise ConfigurationError("a batch is entered once; call split_many again")
