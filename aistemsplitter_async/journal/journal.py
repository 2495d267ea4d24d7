"""The journal as the event loop sees it: a write that has returned is on the disk.

One thread owns the file, or the connection to a shared one. Writes that arrive during a commit share the next
transaction (group commit), so a thousand tracks cost a thousand writes but far fewer syncs.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from aistemsplitter_async._tasks import OneThread, run_in_thread, wait_out
from aistemsplitter_async.errors import AIStemSplitterError, JournalError
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.store import JournalStore

P = ParamSpec("P")
T = TypeVar("T")
_Change = tuple[Callable[[JournalStore], Any], "asyncio.Future[Any]"]
_Result = tuple["asyncio.Future[Any]", Any]


class Journal:
    """The durable record of a batch's tracks, safe from any kill. `open` creates one.

    Args:
        store: the open file.
        executor: uses the store from now on: one thread, which runs its work in order of submission. `aclose` shuts it
            down.
    """

    def __init__(self, store: JournalStore, executor: Executor) -> None:
        self._store = store
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()  # of the next two
        self._waiting: list[_Change] = []
        self._is_committing = False
        self._closing: tuple[asyncio.Future[None], ...] = ()

    @classmethod
    async def open(cls, place: Path | JournalURL | None, *, owner: Mapping[str, str] | None) -> Self:
        """Open the journal at `place`, or with `None` a temporary one that is gone when it is closed.

        Args:
            place: a file, created if it is missing, with its folder, readable by its owner only; or a database that
                several workers share, where its tables are created.
            owner: names and values that identify whose splits these are; `None` to `bind` it afterwards.

        Raises:
            JournalLockedError: another process is running on it.
            JournalError: it is damaged, another kind of file, of a newer version, of another owner, or not writable;
                or the database cannot be reached, or would not keep what is committed.
            ConfigurationError: psycopg is missing.
        """
        store = await run_in_thread(JournalStore, place, undo=JournalStore.close)
        journal = cls(store, OneThread("journal"))
        try:
            if owner is not None:
                await journal.write(JournalStore.bind, owner)
        except BaseException:
            await journal.aclose()
            raise
        return journal

    @property
    def path(self) -> Path | None:
        """The file, if it is one."""
        return self._store.path

    @property
    def place(self) -> Path | JournalURL | None:
        """The file or the database."""
        return self._store.place

    @property
    def is_shared(self) -> bool:
        """Whether other workers may be running on it."""
        return self._store.is_shared

    def server_time(self) -> float | None:
        """Return the time (POSIX seconds) by which all workers on a shared one judge ages; `None` for a file."""
        return self._store.server_time()

    async def write(self, change: Callable[Concatenate[JournalStore, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `change`, a method of `JournalStore`, and return its result once it is durable.

        It is carried out even if the caller is cancelled.

        Raises:
            JournalError: it was refused, or could not be made durable (`code` is `DISK` if the disk is full,
                `JOURNAL_DOWN` while the database of a shared one cannot be used).
            LostLeaseError: it concerns a track that is another worker's now.
        """
        return await self.submit(change, *args, **kwargs)

    def submit(
        self, change: Callable[Concatenate[JournalStore, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Return the future result of `write`. When this returns, the change comes before all that are made later.

        Raises:
            JournalError: the journal is closed.
        """
        if self._closing:
            raise JournalError("the journal is closed")
        result: asyncio.Future[T] = self._loop.create_future()
        with self._lock:
            self._waiting.append((lambda store: change(store, *args, **kwargs), result))
            if not self._is_committing:
                self._loop.run_in_executor(self._executor, self._commit_waiting)
                self._is_committing = True
        return result

    async def aclose(self) -> None:
        """Finish the pending writes and close the file. Another call waits for the same end."""
        if not self._closing:
            self._store.hurry()
            closing = self._loop.run_in_executor(self._executor, self._store.close)  # after the writes
            self._closing = (closing, self._loop.run_in_executor(None, self._executor.shutdown))
        await wait_out(*self._closing)

    def _commit_waiting(self) -> None:
        """Commit until no write is waiting; those that arrive during a commit share the next one."""
        most = self._store.most_changes
        while True:
            with self._lock:
                changes, self._waiting = self._waiting[:most], self._waiting[most:] if most else []
                self._is_committing = bool(changes)
            if not changes:
                return
            self._loop.call_soon_threadsafe(_hand_out, _commit(self._store, changes))


def _commit(store: JournalStore, changes: list[_Change]) -> list[_Result]:
    """Make all changes in one transaction; return the result of each."""
    for failures in itertools.count():
        try:
            return _commit_once(store, changes)
        except Exception as error:  # noqa: BLE001  # of any kind: no caller may wait for its result forever
            problem = store.recover(error, failures)
            if problem is not None and problem.code is None and store.is_shared and len(changes) > 1:
                return [result for change in changes for result in _commit(store, [change])]  # one of them is to blame
            if problem is not None:
                return [(future, problem) for _, future in changes]
    raise AssertionError


def _commit_once(store: JournalStore, changes: list[_Change]) -> list[_Result]:
    results: list[_Result] = []
    store.begin()
    for change, future in changes:
        try:
            results.append((future, change(store)))
        except AIStemSplitterError as error:  # refused before it wrote anything: the others continue
            results.append((future, error))
    store.commit()
    return results


def _hand_out(results: list[_Result]) -> None:
    for future, result in results:
        if future.done():  # its caller was cancelled
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
