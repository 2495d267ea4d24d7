"""The journal as the event loop sees it: a write that has returned is on the disk.

One thread owns the file. Writes that come in while it is busy with a commit go into the next one together (group
commit), so a thousand tracks cost a thousand writes but far fewer syncs.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from aistemsplitter_async._tasks import run_in_thread, wait_out
from aistemsplitter_async.errors import AIStemSplitterError, JournalError
from aistemsplitter_async.journal.store import Store

P = ParamSpec("P")
T = TypeVar("T")
_Change = tuple[Callable[[Store], Any], "asyncio.Future[Any]"]


class Journal:
    """What a batch knows of its tracks, safe from any kill. Make one with `open`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Change] = []
        self._turn = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, path: Path | None, *, owner: Mapping[str, str]) -> Self:
        """Open the journal at `path`, or with `None` one that is gone when it is closed.

        Args:
            path: the file; created if need be, with its folder, readable by its owner only.
            owner: names and values that tell whose splits these are.

        Raises:
            JournalLockedError: another process is running on it.
            JournalError: it is damaged, another kind of file, of a newer version, of another owner, or not writable.
        """
        journal = cls(await run_in_thread(Store, path, undo=Store.close))
        try:
            await journal.write(Store.bind, owner)
        except BaseException:
            await journal.aclose()
            raise
        return journal

    async def write(self, change: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `change`, a method of `Store`, and return its result once it is durable.

        It is done even if the caller is cancelled.

        Raises:
            JournalError: it was refused, or could not be made durable (`code` is `DISK` if the disk is full).
        """
        result: asyncio.Future[T] = self._loop.create_future()
        with self._turn:
            if self._closing:
                raise JournalError("the journal is closed")
            self._waiting.append((partial(_call, change, args, kwargs), result))
            self._turn.notify()
        return await result

    async def aclose(self) -> None:
        """Finish what was asked for and close the file."""
        with self._turn:
            self._closing = True
            self._turn.notify()
        await wait_out(self._loop.run_in_executor(None, self._thread.join))

    def _work(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._waiting or self._closing)
                changes, self._waiting = self._waiting, []
            if not changes:
                self._store.close()
                return
            results = self._commit(changes)
            self._loop.call_soon_threadsafe(_hand_out, results)

    def _commit(self, changes: list[_Change]) -> list[tuple[asyncio.Future[Any], Any]]:
        """Do all changes in one transaction; return what to tell whom."""
        store, results = self._store, []
        try:
            store.begin()
            for change, future in changes:
                try:
                    results.append((future, change(store)))
                except AIStemSplitterError as error:  # refused before it wrote anything: the others go on
                    results.append((future, error))
            store.commit()
        except Exception as error:  # noqa: BLE001  # whatever it is, nobody may wait for this thread for ever
            with suppress(sqlite3.Error):  # a failing disk; what is left open is refused with the next begin
                store.roll_back()
            problem = JournalError(f"the journal refused: {error!r}")
            if isinstance(error, sqlite3.Error):
                problem = store.explain(error)
            return [(future, problem) for _, future in changes]
        return results


def _call(change: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], store: Store) -> Any:
    return change(store, *args, **kwargs)


def _hand_out(results: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in results:
        if future.done():  # its caller was cancelled
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
