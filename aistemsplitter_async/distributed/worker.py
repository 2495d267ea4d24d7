"""What runs on a worker of Dask: one station per run, which the tasks of that run ask for their songs.

Coroutines run on the worker's event loop, and so do the station and its client. A task leaves its place in the worker's
threads at once, since a song is waited for more than it is worked on; how many are in hand is the station's business.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Final, Literal

from distributed import Worker, WorkerPlugin, get_worker
from distributed.worker_state_machine import SecedeEvent

from aistemsplitter_async._version import __version__
from aistemsplitter_async._wire.credentials import fingerprint, parse_api_key
from aistemsplitter_async.batch.outcome import Outcome
from aistemsplitter_async.batch.station import CLOSED, Station
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.config import API_KEY_FILE_VARIABLE, API_KEY_VARIABLE, JOURNAL_VARIABLE
from aistemsplitter_async.distributed.tasks import Identity, Reply, Task, Terms, read_driver
from aistemsplitter_async.errors import AIStemSplitterError, ConfigurationError
from aistemsplitter_async.journal.place import JournalURL, parse_journal
from aistemsplitter_async.journal.postgres_reading import PostgresReader

_NAME: Final = "aistemsplitter-async"
_IDLE: Final = 60.0  # s without a song until a station is closed whose driver did not say goodbye
_REMEMBERED: Final = 100  # runs that have ended, of which tasks may come yet
_KEY_CAP_BYTES: Final = 4096

Closing = Literal["drain", "stop"]
"""How a run ends: what is paid for is finished, or left to the journal."""


async def split_song(text: str) -> Reply:
    """Split the song of a task. It may be called again for the same song, by any worker, at any time."""
    worker = get_worker()
    place = f"worker {worker.address} on {socket.gethostname()}"
    driver = read_driver(text)
    if driver.version != __version__:
        problem = Identity(__version__, driver.base_url, driver.key).explain_difference(driver)
        return ConfigurationError(f"{place}: {problem}")
    task = Task.load(text)
    _leave_threads(worker, task.key)
    stations = worker.plugins.get(_NAME)
    if not isinstance(stations, Stations):
        stations = Stations(place)
        await worker.plugin_add(stations, name=_NAME)
    try:
        return await stations.split(task)
    except AIStemSplitterError as error:
        return None if error.code == CLOSED else error


async def end_run(run: str, how: Closing, dask_worker: Worker) -> None:
    """Let a worker begin no more songs of a run. Returns at once."""
    stations = dask_worker.plugins.get(_NAME)
    if isinstance(stations, Stations):
        stations.end(run, how)


class Stations(WorkerPlugin):
    """The stations of one worker, by run.

    Args:
        place: names the worker and its host.
    """

    name = _NAME

    def __init__(self, place: str) -> None:
        self._place = place
        self._open: dict[str, _Open] = {}
        self._ended = deque[str](maxlen=_REMEMBERED)

    async def split(self, task: Task) -> Outcome:
        """Return the outcome of a song. Raises like `Station.split`, and if the worker is not fit for the run."""
        run = task.terms.run
        if run not in self._open:
            if run in self._ended:
                raise ConfigurationError("the run has ended", code=CLOSED)
            self._open[run] = _Open(task.terms, self._place, lambda: self._open.pop(run, None))
        return await self._open[run].split(task)

    def end(self, run: str, how: Closing) -> None:
        """Begin no more songs of a run."""
        if run not in self._ended:
            self._ended.append(run)
        if run in self._open:
            self._open[run].end(how)

    async def teardown(self, worker: Worker) -> None:  # noqa: ARG002  # what Dask calls
        """Finish what is paid for within the stations' grace, and close them."""
        serving = [one.serving for one in self._open.values()]
        for one in [*self._open.values()]:
            one.end("stop")
        if serving:
            await asyncio.wait(serving)


class _Open:
    """The station of one run, in a task that enters and leaves it.

    Args:
        terms: of the run.
        place: names the worker.
        forget: called when it is closed.
    """

    def __init__(self, terms: Terms, place: str, forget: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        self._terms = terms
        self._place = place
        self._ready: asyncio.Future[Station] = loop.create_future()
        self._over = asyncio.Event()
        self._songs = 0
        self._was_used = True
        self.serving = loop.create_task(self._serve(), name=f"station of run {terms.run}")
        self.serving.add_done_callback(lambda _: forget())

    async def split(self, task: Task) -> Outcome:
        self._songs += 1
        self._was_used = True
        try:
            station = await asyncio.shield(self._ready)
            return await station.split(task.item)
        finally:
            self._songs -= 1

    def end(self, how: Closing) -> None:
        if how == "stop":
            self._over.set()
        elif self._ready.done() and self._ready.exception() is None:
            self._ready.result().drain()

    async def _serve(self) -> None:
        try:
            client, journal = await asyncio.to_thread(prepare, self._terms)
            async with (
                client,
                Station(client, journal=journal, into=self._terms.into, **self._terms.options) as station,
            ):
                self._ready.set_result(station)
                await self._wait_for_end()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(_name_place(error, self._place))
                self._ready.exception()  # or asyncio complains where no song waits for it
            if not isinstance(error, Exception):
                raise

    async def _wait_for_end(self) -> None:
        """Wait until the run is over, or nothing was asked of it for a while."""
        while self._songs or self._was_used:
            self._was_used = False
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE):
                    await self._over.wait()
                    return


def prepare(terms: Terms) -> tuple[AsyncAIStemSplitter, str | None]:
    """Return a client from the worker's own environment, and where the journal is.

    Raises:
        ConfigurationError: API, key or journal are not those of the driver.
        JournalError: the journal cannot be read.
    """
    if not (key := read_api_key()):
        raise ConfigurationError(f"it has no API key: set {API_KEY_VARIABLE} or {API_KEY_FILE_VARIABLE} there")
    client = AsyncAIStemSplitter(key, rate_limit=terms.rate_limit, poll=terms.poll, allow_hosts=terms.allow_hosts)
    own = Identity(__version__, client.base_url, fingerprint(parse_api_key(key)))
    if (problem := own.explain_difference(terms.driver)) is not None:
        raise ConfigurationError(problem)
    return client, None if terms.journal is None else find_journal(terms.journal, terms.journal_id)


def find_journal(shown: str, expected: str | None) -> str:
    """Return the URL of the driver's journal, with the password if this worker's environment has it.

    Args:
        shown: the URL without the password.
        expected: the journal's id.

    Raises:
        ConfigurationError: what is there is another journal.
        JournalError: there is none, or it cannot be read.
    """
    journal, known = parse_journal(shown), parse_journal(os.environ.get(JOURNAL_VARIABLE) or ".")
    assert isinstance(journal, JournalURL)  # noqa: S101  # the driver has checked it
    if isinstance(known, JournalURL) and known.database.shown == shown:
        journal = known
    with PostgresReader(journal) as reader:
        if reader.note("id") != expected:
            raise ConfigurationError(
                f"it has another journal than the driver: {shown} leads to another database from there; name a host "
                "that is the same one for all"
            )
    return journal.database.url.reveal()


def read_api_key() -> str | None:
    """Return the API key of this machine: of the environment, or of the file that it names.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    file = os.environ.get(API_KEY_FILE_VARIABLE)
    if os.environ.get(API_KEY_VARIABLE) or not file:
        return os.environ.get(API_KEY_VARIABLE)
    try:
        with Path(file).open("rb") as opened:
            return opened.read(_KEY_CAP_BYTES).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"cannot read the API key of {API_KEY_FILE_VARIABLE}, {file}: {type(error).__name__}"
        ) from None


def _name_place(error: BaseException, place: str) -> BaseException:
    """Return an error of this worker that says where it happened."""
    if not isinstance(error, AIStemSplitterError):
        return error
    return type(error)(f"{place}: {error}", *error.args[1:])


def _leave_threads(worker: Worker, key: str) -> None:
    """Do what `distributed.secede` does for functions in threads: let the worker begin other tasks meanwhile."""
    worker.loop.add_callback(
        worker.handle_stimulus, SecedeEvent(key=key, compute_duration=0.0, stimulus_id=f"secede-{time()}")
    )
