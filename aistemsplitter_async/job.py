"""One split, held by the caller that submitted it or found its id again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from aistemsplitter_async._listeners import as_listener
from aistemsplitter_async._transfer.selection import Selection
from aistemsplitter_async.clock import Clock, Deadline
from aistemsplitter_async.errors import AIStemSplitterError

if TYPE_CHECKING:
    from aistemsplitter_async._engine import Engine
    from aistemsplitter_async._gate.lanes import Priority
    from aistemsplitter_async._transfer.meter import OnProgress
    from aistemsplitter_async._transfer.selection import Mixes, StemNames
    from aistemsplitter_async._transfer.stem_stream import StemStream
    from aistemsplitter_async.models import CreatedSplit, Split

BoundEngine = Callable[[], Awaitable["Engine"]]
"""Loads the engine, and checks that its client is open and on its own event loop."""


class Job:
    """A split to wait for. `client.submit` returns one, `client.job(id)` reattaches to one after a restart.

    Attributes:
        id: the split's id.
        idempotency_key: the key it was created under, or `None` if reattached.
        created: the server's answer to the create (with the price, `credits_used`), or `None` if reattached.
    """

    def __init__(
        self,
        engine: BoundEngine,
        split_id: str,
        *,
        clock: Clock,
        idempotency_key: str | None = None,
        created: CreatedSplit | None = None,
        created_at: float | None = None,
        priority: Priority = "interactive",
    ) -> None:
        self.id = split_id
        self.idempotency_key = idempotency_key
        self.created = created
        self._engine = engine
        self._clock = clock
        self._created_at = created_at  # monotonic seconds
        self._priority: Priority = priority
        self._credits_used = created.credits_used if created is not None else None
        self._finished: Split | None = None

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def updates(self) -> AsyncIterator[Split]:
        """Iterate over the split as it is first seen and at every observed change, the terminal state last.

        Stateless: break out and iterate again as you like. Raises like `AsyncAIStemSplitter.wait_for_split`, but
        without a deadline, and it yields a failed split instead of raising.
        """
        return follow(
            self._engine, self.id, since=self._created_at, credits_used=self._credits_used, priority=self._priority
        )

    async def wait(self, *, timeout: float | None = None, raise_on_failed: bool = True) -> Split:
        """Return the split once it is terminal. See `AsyncAIStemSplitter.wait_for_split`."""
        with self._named():
            self._finished = await (await self._engine()).wait(
                self.id,
                timeout=timeout,
                raise_on_failed=raise_on_failed,
                since=self._created_at,
                credits_used=self._credits_used,
                priority=self._priority,
            )
        return self._finished

    async def download(
        self,
        into: str | PathLike[str],
        *,
        name: str | None = None,
        stems: StemNames | None = None,
        mixes: Mixes | None = None,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
    ) -> dict[str, Path]:
        """Wait until the split has succeeded and download its stems. See `AsyncAIStemSplitter.download_stems`.

        `timeout` covers both.
        """
        selection = Selection.parse(stems, mixes)
        listener = as_listener(on_progress, "on_progress")  # refuses an async one before the wait
        deadline = Deadline.after(self._clock, timeout)
        await (await self._engine()).collector.check_mixes(selection)
        split = await self._succeeded(timeout)
        with self._named():
            return await (await self._engine()).download_stems(
                split,
                Path(into),
                name=name,
                overwrite=overwrite,
                on_progress=listener,
                deadline=deadline,
                selection=selection,
            )

    @asynccontextmanager
    async def open_stem(self, stem: str, *, timeout: float | None = None) -> AsyncIterator[StemStream]:
        """Wait until the split has succeeded and open one stem as a stream. See `AsyncAIStemSplitter.open_stem`.

        `timeout` covers both.
        """
        deadline = Deadline.after(self._clock, timeout)
        split = await self._succeeded(timeout)
        async with (await self._engine()).open_stem(split, stem, deadline) as stream:
            yield stream

    async def _succeeded(self, timeout: float | None) -> Split:
        split = self._finished
        if split is None or split.status != "succeeded":
            split = await self.wait(timeout=timeout)
        return split

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Add the split's id and idempotency key to every error raised inside."""
        try:
            yield
        except AIStemSplitterError as error:
            error.split_id = error.split_id or self.id
            error.idempotency_key = error.idempotency_key or self.idempotency_key
            raise


async def follow(
    engine: BoundEngine, split_id: str, *, priority: Priority, since: float | None, credits_used: float | None
) -> AsyncGenerator[Split, None]:
    """Iterate over the observed changes of a split; see `AsyncAIStemSplitter.updates`."""
    updates = (await engine()).updates(split_id, priority=priority, since=since, credits_used=credits_used)
    async with aclosing(updates):
        async for split in updates:
            yield split
