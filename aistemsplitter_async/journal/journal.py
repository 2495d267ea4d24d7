"""The journal as the event loop sees it: a write that has returned is on the disk.

One thread owns the file. Writes that arrive during a commit share the next transaction (group commit), so a thousand
tracks cost a thousand writes but far fewer syncs.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from aistemsplitter_async._tasks import OneThread, run_in_thread, wait_out
from aistemsplitter_async.errors import AIStemSplitterError, JournalError
from aistemsplitter_async.journal.file import explain, refused
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
    async def open(cls, path: Path | None, *, owner: Mapping[str, str] | None) -> Self:
        """Open the journal at `path`, or with `None` a temporary one that is gone when it is closed.

        Args:
            path: the file; created if it is missing, with its folder, readable by its owner only.
            owner: names and values that identify whose splits these are; `None` to `bind` it afterwards.

        Raises:
            JournalLockedError: another process is running on it.
            JournalError: it is damaged, another kind of file, of a newer version, of another owner, or not writable.
        """
        store = await run_in_thread(JournalStore, path, undo=JournalStore.close)
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
        """The file."""
        return self._store.path

    async def write(self, change: Callable[Concatenate[JournalStore, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `change`, a method of `JournalStore`, and return its result once it is durable.

        It is carried out even if the caller is cancelled.

        Raises:
            JournalError: it was refused, or could not be made durable (`code` is `DISK` if the disk is full).
        """
        if self._closing:
            raise JournalError("the journal is closed")
        result: asyncio.Future[T] = self._loop.create_future()
        with self._lock:
            self._waiting.append((lambda store: change(store, *args, **kwargs), result))
            if not self._is_committing:
                self._loop.run_in_executor(self._executor, self._commit_waiting)
                self._is_committing = True
        return await result

    async def aclose(self) -> None:
        """Finish the pending writes and close the file. Another call waits for the same end."""
        if not self._closing:
            closing = self._loop.run_in_executor(self._executor, self._store.close)  # after the writes
            self._closing = (closing, self._loop.run_in_executor(None, self._executor.shutdown))
        await wait_out(*self._closing)

    def _commit_waiting(self) -> None:
        """Commit until no write is waiting; those that arrive during a commit share the next one."""
        while True:
            with self._lock:
                changes, self._waiting = self._waiting, []
                self._is_committing = bool(changes)
            if not changes:
                return
            self._loop.call_soon_threadsafe(_hand_out, _commit(self._store, changes))


def _commit(store: JournalStore, changes: list[_Change]) -> list[_Result]:
    """Make all changes in one transaction; return the result of each."""
    results: list[_Result] = []
    try:
        store.begin()
        for change, future in changes:
            try:
                results.append((future, change(store)))
            except AIStemSplitterError as error:  # refused before it wrote anything: the others continue
                results.append((future, error))
        store.commit()
    except Exception as error:  # noqa: BLE001  # of any kind: no caller may wait for its result forever
        with suppress(sqlite3.Error):  # a failing disk; the next begin fails on a transaction left open
            store.roll_back()
        problem = JournalError(f"the journal refused: {error!r}")
        if isinstance(error, sqlite3.Error):
            problem = explain(error, store.path)
        elif isinstance(error, OSError):
            problem = refused(error, store.path)
        return [(future, problem) for _, future in changes]
    return results


def _hand_out(results: list[_Result]) -> None:
    for future, result in results:
        if future.done():  # its caller was cancelled
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
