"""A library on a cluster, as a caller holds it: `driver`, which needs Dask, loads when a run is entered."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Collection
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

import attrs

from aistemsplitter_async._loading import load
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._version import __version__
from aistemsplitter_async._wire.credentials import fingerprint, parse_api_key
from aistemsplitter_async.batch.options import BatchKeywords
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.clock import Clock, SystemClock
from aistemsplitter_async.config import API_KEY_VARIABLE, JOURNAL_VARIABLE, SCHEDULER_PATIENCE, PollPolicy, RateLimit
from aistemsplitter_async.distributed.tasks import Identity, Terms
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.journal.place import JournalURL, parse_journal
from aistemsplitter_async.journal.session import Session

if TYPE_CHECKING:
    from distributed import Security

    from aistemsplitter_async.batch.feeder import Sources
    from aistemsplitter_async.batch.outcome import BatchReport, Outcome
    from aistemsplitter_async.distributed.driver import Driver


class DaskLibrary:
    """A cluster of Dask that splits songs. Its workers are plain `dask worker`, where this package is installed too.

    Each worker reads the API key and the journal's password from its own environment, or from `~/.pgpass`; tasks do not
    carry them. Anybody who reaches a scheduler can run code on its workers: use a private network, or TLS.

    Args:
        address: of the scheduler, such as `tcp://scheduler:8786`.
        journal: the URL of a journal in PostgreSQL, which all workers share; by default `AISTEMSPLITTER_JOURNAL`.
        api_key: `AISTEMSPLITTER_API_KEY` by default. Workers must have the same.
        base_url: as of a client. Workers must have the same.
        rate_limit: what is known of the key's limit, for all workers.
        poll: when running splits are polled, for all workers.
        allow_hosts: as of a client, for all workers.
        patience: seconds to wait for a scheduler that is gone.
        security: what `distributed.Client` takes for TLS.

    Raises:
        ConfigurationError: no key, an invalid URL, or a journal that a cluster cannot share.
    """

    def __init__(
        self,
        address: str,
        *,
        journal: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        rate_limit: RateLimit | None = None,
        poll: PollPolicy | None = None,
        allow_hosts: Collection[str] = (),
        patience: float = SCHEDULER_PATIENCE,
        security: Security | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._address = address
        self._client = AsyncAIStemSplitter(
            api_key, base_url=base_url, rate_limit=rate_limit, poll=poll, allow_hosts=allow_hosts
        )
        key = parse_api_key(api_key if api_key is not None else os.environ.get(API_KEY_VARIABLE))
        self._identity = Identity(__version__, self._client.base_url, fingerprint(key))
        self._journal = parse_shared(journal or os.environ.get(JOURNAL_VARIABLE))
        self._rate_limit, self._poll = rate_limit, poll
        self._hosts = tuple(allow_hosts)
        self._patience = patience
        self._security = security
        self._clock = clock or SystemClock()

    def run(
        self, sources: Sources, *, into: str | PathLike[str] | None = None, **options: Unpack[BatchKeywords]
    ) -> ClusterBatch:
        """Split many songs on the cluster. Enter what is returned, and iterate over it for the outcomes.

        Args:
            sources: as of `split_many`, but only paths and URLs, and `BatchItem`s of them; others are `Failed`. Every
                worker must see a file under the same path.
            into: the folder for all stems, which every worker must see under the same path.
            options: those of `split_many`; those that count something are for each worker, but `max_credits`.

        Raises:
            ConfigurationError: an argument out of its range.
        """
        self._client.split_many((), into=into, **options)  # checks what it is given, and does nothing
        terms = Terms(
            run=uuid.uuid4().hex[:12],
            driver=self._identity,
            journal=self._journal.database.shown,
            into=None if into is None else str(Path(into).absolute()),  # does not touch the disk
            options=options,
            rate_limit=self._rate_limit,
            poll=self._poll,
            allow_hosts=self._hosts,
        )
        return ClusterBatch(
            self._address,
            sources,
            terms,
            journal=self._journal,
            patience=self._patience,
            security=self._security,
            clock=self._clock,
        )


class ClusterBatch:
    """A run of a library on a cluster, as long as its `async with` block; iterate over it for the outcomes.

    `DaskLibrary.run` creates one. It is like a `Batch`, whose songs other machines split.
    """

    def __init__(
        self,
        address: str,
        sources: Sources,
        terms: Terms,
        *,
        journal: JournalURL | None,
        patience: float,
        security: Security | None,
        clock: Clock,
    ) -> None:
        self._address = address
        self._sources = sources
        self._terms = terms
        self._journal = journal
        self._patience = patience
        self._security = security
        self._clock = clock
        self._entered: Driver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        """Load Dask in a thread, open the journal to see which it is, and connect to the scheduler.

        Raises:
            APIConnectionError: there is no scheduler (`SCHEDULER_LOST`).
            JournalError: the journal cannot be used.
            ConfigurationError: the extra `dask` or `postgres` is missing, or the run was entered before.
        """
        if self._loop is not None:
            raise ConfigurationError("a run is entered once; call run again")
        self._loop = asyncio.get_running_loop()
        try:
            await load("distributed.driver", "Driver")
        except ImportError as error:
            raise ConfigurationError(
                f"a cluster needs Dask: pip install 'aistemsplitter-async[dask]' ({error})"
            ) from None
        from aistemsplitter_async.distributed.driver import Driver  # noqa: PLC0415  # it is loaded now

        terms = self._terms
        if self._journal is not None:
            terms = attrs.evolve(terms, journal_id=await run_in_thread(open_and_identify, self._journal))
        driver = Driver(
            self._address,
            self._sources,
            terms,
            patience=self._patience,
            security=self._security,
            clock=self._clock,
        )
        await driver.start()
        self._entered = driver
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give out no more songs, and let the workers finish for some seconds what is paid for. The journal has all."""
        await self._driver.stop()

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        """Return the next outcome.

        Raises:
            APIConnectionError: the scheduler is gone, and none came back within `patience` (`SCHEDULER_LOST`). Running
                the same again costs nothing.
            ConfigurationError: the run was not entered, or in another event loop.
            Exception: raised by the iterable of sources, or by a worker that has a fault.
        """
        driver = self._driver
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError("a run belongs to the event loop that it was entered in")
        outcome = await driver.next_outcome()
        if outcome is None:
            raise StopAsyncIteration
        return outcome

    def drain(self) -> None:
        """Give out no more songs, but let the workers finish what is, or may be, paid for. Returns at once."""
        self._driver.drain()

    async def report(self) -> BatchReport:
        """Return the totals once the run has ended; outcomes that were not taken until then are only counted."""
        async for _ in self:
            pass
        return self._driver.report()

    @property
    def taken(self) -> int:
        """How many sources were taken so far."""
        return self._driver.taken

    @property
    def stopped_by(self) -> BaseException | None:
        """The error because of which no more songs are given out, if there was one.

        It may be that of a worker that is not fit for the run (`ConfigurationError`): it has another API key, API or
        version, and its message names the host.
        """
        return self._driver.stopped_by

    @property
    def _driver(self) -> Driver:
        if self._entered is None:
            raise ConfigurationError("a run on a cluster needs `async with`")
        return self._entered


def open_and_identify(journal: JournalURL) -> str:
    """Return the id of a journal, which is made if there is none.

    Raises:
        JournalError: it cannot be used.
        ConfigurationError: psycopg is missing.
    """
    session = Session(journal)
    try:
        session.open()
        return session.identify()
    finally:
        session.close()


def parse_shared(place: str | None) -> JournalURL:
    """Return where a journal is that a cluster can share.

    Raises:
        ConfigurationError: it is none.
    """
    journal = None if place is None else parse_journal(place)
    if not isinstance(journal, JournalURL):
        raise ConfigurationError(
            f"a cluster needs a journal that all its workers share: postgresql://host/database, in {JOURNAL_VARIABLE} "
            "or as journal. A file belongs to one process; with that, use split_many, or batch without --on, which is "
            "as fast where the key's limit is what is waited for"
        )
    return journal
