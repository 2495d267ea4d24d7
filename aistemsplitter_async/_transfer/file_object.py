"""Audio in a binary file object of the caller's: an open file, a `BytesIO`, a member of a zip, a socket's file.

It is read from where it stands to its end, in a thread of its own, and never closed here. An upload that starts over
goes back to that place; what cannot go back is copied to a temporary file first, since its length must be known anyway.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from pathlib import PurePath
from typing import IO, Any, Protocol, TypeGuard, TypeVar

import attrs

from aistemsplitter_async._tasks import OneThread, run_to_end
from aistemsplitter_async._transfer.file_source import BLOCK_BYTES
from aistemsplitter_async._transfer.foreign import build_silence
from aistemsplitter_async._wire.messages import BodyStream
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import CLOSE_GRACE
from aistemsplitter_async.errors import SourceChangedError, SourceUnreadableError

T = TypeVar("T")
_UNNAMED = "audio"


class BinaryFile(Protocol):
    """A file object that is open for reading bytes."""

    def read(self, size: int, /) -> bytes | None:
        """Return up to `size` bytes, none at the end."""
        ...


def is_file_object(source: object) -> TypeGuard[BinaryFile]:
    """Return whether `source` is to be read as a file object."""
    try:
        return not hasattr(source, "opened") and callable(getattr(source, "read", None))
    except Exception:  # noqa: BLE001  # other people's code, which `guard` will name
        return False


class _Users:
    """The file objects that are being read. One has one position, so of two readers each would get a part."""

    def __init__(self) -> None:
        self._ids = set[int]()  # of objects that their readers keep alive; not all kinds can be marked
        self._lock = threading.Lock()

    @contextmanager
    def reading(self, file: object, name: str) -> Iterator[None]:
        with self._lock:
            if id(file) in self._ids:
                raise SourceUnreadableError(
                    f"cannot read {name}: the same file object is being read by another call; open the file once for "
                    "each, or give its path"
                )
            self._ids.add(id(file))
        try:
            yield
        finally:
            self._ids.discard(id(file))


_USERS = _Users()  # of the process, like the position of a file object


class _Thread:
    """Runs calls on one file object, one after the other, in the context of their callers."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._thread = OneThread(f"read {name}")
        self._calls = set[asyncio.Future[Any]]()
        self._clock = clock

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        call: asyncio.Future[T] = loop.run_in_executor(self._thread, copy_context().run, function, *arguments)
        self._calls.add(call)
        call.add_done_callback(self._forget)
        await asyncio.wait([call])  # if we are cancelled, the call goes on: `aclose` waits for it
        return call.result()

    async def aclose(self) -> None:
        """Wait until nothing is read any more, so that the caller may close the file; where nothing comes, not long."""
        self._thread.shutdown(wait=False)
        if self._calls:
            await run_to_end(self._wait_within_grace())

    async def _wait_within_grace(self) -> None:
        with suppress(TimeoutError):
            async with self._clock.timeout_at(self._clock.monotonic() + CLOSE_GRACE):
                await asyncio.wait(self._calls)

    def _forget(self, call: asyncio.Future[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # retrieve it: who asked may be gone


@attrs.frozen(eq=False)
class FileObjectSource:
    """What a file object has from `start` on: `content_length` bytes."""

    filename: str
    content_type: str | None
    content_length: int
    _file: Any
    _start: int
    _clock: Clock

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BodyStream]:
        thread = _Thread(self.filename, self._clock)
        with _USERS.reading(self._file, self.filename):
            try:
                yield lambda: self._read(thread)
            finally:
                await thread.aclose()

    async def _read(self, thread: _Thread) -> AsyncIterator[bytes]:
        """Read it from its start. A length that is not as announced is for whoever counts."""
        offset, block = 0, b"the first"
        while block and offset < self.content_length:
            block = await thread.run(
                self._read_at, self._start + offset, min(BLOCK_BYTES, self.content_length - offset)
            )
            offset += len(block)
            if block:
                yield block
        if await thread.run(_end, self._file) != self._start + self.content_length:
            raise SourceChangedError(f"{self.filename} changed while it was read; nothing was split")

    def _read_at(self, place: int, size: int) -> bytes:
        self._file.seek(place)
        block = _read(self._file, size, self.filename)
        if self._file.tell() != place + len(block):
            raise SourceChangedError(f"something else read {self.filename}, or moved in it, while it was uploaded")
        return block


async def open_file_object(
    file: BinaryFile, *, filename: str | None, content_type: str | None, clock: Clock, stall: float
) -> FileObjectSource:
    """Return what is left of a file object as a source.

    Args:
        file: it, at the place to begin at.
        filename: overrides its name.
        content_type: overrides what the name suggests.
        clock: where time comes from.
        stall: seconds in which it must yield something.

    Raises:
        SourceUnreadableError: it is open as text, or async, closed, at its end, in use, or cannot be read.
    """
    name = filename or _name_of(file)
    thread = _Thread(name, clock)
    try:
        with _USERS.reading(file, name):
            async with clock.timeout_at(clock.monotonic() + stall):
                span = await thread.run(_examine, file, name)
            if span is not None:
                return FileObjectSource(name, content_type, span[1] - span[0], file, span[0], clock)
            copy, size = await _spool(file, name, thread, clock=clock, stall=stall)
    except SourceUnreadableError:
        raise
    except TimeoutError:
        raise build_silence(name, stall) from None
    except Exception as error:  # other people's code
        raise _unreadable(name, error) from error
    finally:
        await thread.aclose()
    source = FileObjectSource(name, content_type, size, copy, 0, clock)
    weakref.finalize(source, copy.close)
    return source


async def _spool(file: BinaryFile, name: str, thread: _Thread, *, clock: Clock, stall: float) -> tuple[IO[bytes], int]:
    """Copy what is left of a file object to a temporary file without a name; return that and its size."""
    copy, size = tempfile.TemporaryFile(), 0  # noqa: SIM115  # closed below, or with its source
    try:
        while True:
            async with clock.timeout_at(clock.monotonic() + stall):
                block = await thread.run(_read, file, BLOCK_BYTES, name)
            if not block:
                break
            await thread.run(copy.write, block)
            size += len(block)
    except BaseException:
        copy.close()
        raise
    return copy, size


def _name_of(file: object) -> str:
    name = getattr(file, "name", None)
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    if not isinstance(name, str):  # of a descriptor it is a number
        return _UNNAMED
    return PurePath(name).name.encode("utf-8", "replace").decode() or _UNNAMED


def _examine(file: Any, name: str) -> tuple[int, int] | None:
    """Return where a binary file stands and where it ends, `None` if it cannot go back there."""
    if getattr(file, "closed", False) is True:
        raise SourceUnreadableError(f"cannot read {name}: it is closed; open it again, and close it after the call")
    nothing = "" if isinstance(file, io.TextIOBase) else file.read(0)
    if isinstance(nothing, str):
        raise SourceUnreadableError(f'cannot read {name}: it is open as text; open it with mode "rb"')
    if inspect.isawaitable(nothing):
        if inspect.iscoroutine(nothing):
            nothing.close()
        raise SourceUnreadableError(
            f"cannot read {name}: read() of a {type(file).__name__} is async; give the file inside (Starlette's and "
            "FastAPI's `upload.file`), or stream_source(..)"
        )
    seekable = getattr(file, "seekable", None)
    if seekable is not None and not seekable():
        return None
    try:
        place = int(file.tell())
        file.seek(place)
    except (AttributeError, OSError):
        return None
    end = _end(file)
    file.seek(place)
    if 0 < end <= place:
        raise SourceUnreadableError(f"cannot read {name}: it stands at its end; seek(0) goes back to its beginning")
    return place, end


def _end(file: Any) -> int:
    file.seek(0, os.SEEK_END)
    return int(file.tell())


def _read(file: Any, size: int, name: str) -> bytes:
    try:
        block = file.read(size)
    except Exception as error:  # other people's code
        raise _unreadable(name, error) from error
    if isinstance(block, bytes | bytearray | memoryview):
        return bytes(block)
    found = "nothing yet, and does not wait for it" if block is None else type(block).__name__
    raise SourceUnreadableError(f"cannot read {name}: it yields {found}, not bytes")


def _unreadable(name: str, error: Exception) -> SourceUnreadableError:
    says = str(error) if isinstance(error, OSError | ValueError) else ""
    return SourceUnreadableError(f"cannot read {name}: {says or f'it raised {type(error).__name__}'}")
