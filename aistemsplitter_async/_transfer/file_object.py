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
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from pathlib import PurePath
from typing import IO, Any, BinaryIO, TypeVar, TypeVarTuple, cast

import attrs

from aistemsplitter_async._tasks import OneThread, run_to_end
from aistemsplitter_async._transfer.binary_file import BinaryFile
from aistemsplitter_async._transfer.file_source import BLOCK_BYTES, refuse_non_audio
from aistemsplitter_async._transfer.foreign import build_silence
from aistemsplitter_async._wire.messages import BodyStream
from aistemsplitter_async._wire.urls import filename_of_url, is_url
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import CLOSE_GRACE
from aistemsplitter_async.errors import SourceChangedError, SourceUnreadableError, UploadError

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
_UNNAMED = "audio"


# Whose thread reads which file objects, by their ids. It is the process's, as the position of a file object is: of two
# readers, of any client in any loop, each would get a part. Not all kinds can be marked themselves, or be weak keys.
_READERS: dict[int, _Reader] = {}


class _Reader:
    """Runs calls on one file object one by one, each in its caller's context. Nothing else reads it meanwhile.

    Raises:
        SourceUnreadableError: another one does, even one that was left behind.
    """

    def __init__(self, file: BinaryFile, name: str, clock: Clock) -> None:
        if _READERS.setdefault(id(file), self) is not self:  # one step, for all threads
            raise SourceUnreadableError(
                f"cannot read {name}: the same file object is being read by another call; open the file once for "
                "each, or give its path"
            )
        self._file = file  # so that no other one gets its id
        self._name = name
        self._clock = clock
        self._thread = OneThread(f"read {name}")
        self._calls = set[asyncio.Future[Any]]()

    async def run(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Return `function(*arguments)`. If the caller is cancelled, it goes on: `aclose` waits for it."""
        call = self._start(self._guarded, function, *arguments)
        await asyncio.wait([call])
        return call.result()

    async def aclose(self) -> None:
        """Wait until nothing is read any more, so that the caller may close the file; where nothing comes, not long."""
        self._start(_READERS.pop, id(self._file))
        self._thread.shutdown(wait=False)
        await run_to_end(self._wait_within_grace())

    def _start(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._thread, copy_context().run, function, *arguments)
        self._calls.add(call)
        call.add_done_callback(self._forget)
        return call

    def _guarded(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        try:
            return function(*arguments)
        except (UploadError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # other people's code, which may even say that it was cancelled
            says = str(error) if isinstance(error, OSError | ValueError | EOFError) else ""
            reason = says or f"it raised {type(error).__name__}"
            raise SourceUnreadableError(f"cannot read {self._name}: {reason}") from error

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
    content_type: str
    content_length: int
    _file: Any
    _start: int
    _clock: Clock

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BodyStream]:
        reader = _Reader(self._file, self.filename, self._clock)
        try:
            yield lambda: self._read(reader)
        finally:
            await reader.aclose()

    async def _read(self, reader: _Reader) -> AsyncIterator[bytes]:
        """Read it from its start. The caller checks its length."""
        offset, block = 0, b"the first"
        while block and offset < self.content_length:
            size = min(BLOCK_BYTES, self.content_length - offset)
            block = await reader.run(self._read_at, self._start + offset, size)
            offset += len(block)
            if block:
                yield block
        if await reader.run(_end, self._file) != self._start + self.content_length:
            raise SourceChangedError(f"{self.filename} changed while it was read; nothing was split")

    def _read_at(self, place: int, size: int) -> bytes:
        self._file.seek(place)
        block = _read(self._file, size, self.filename)
        if self._file.tell() != place + len(block):
            raise SourceChangedError(f"something else read {self.filename}, or moved in it, while it was uploaded")
        return block


async def open_file_object(
    file: BinaryFile,
    *,
    filename: str | None,
    content_type: str | None,
    guess: Callable[[str], str],
    clock: Clock,
    stall: float,
) -> FileObjectSource:
    """Return what is left of a file object as a source.

    Args:
        file: it, at the place to begin at.
        filename: overrides its name.
        content_type: overrides what the name suggests.
        guess: returns the type that a name suggests.
        clock: where time comes from.
        stall: seconds in which it must yield something.

    Raises:
        SourceUnreadableError: it is open as text, or async, closed, at its end, in use, or cannot be read; `code` is
            `NOT_AUDIO` if what it has cannot be audio.
    """
    name = filename or _name_of(file)
    kind = content_type or guess(name)
    reader = _Reader(file, name, clock)
    try:
        async with clock.timeout_at(clock.monotonic() + stall):
            span = await reader.run(_examine, file, name, kind)
        if span is not None:
            return FileObjectSource(name, kind, span[1] - span[0], file, span[0], clock)
        copy, size = await _spool(file, name, kind, reader, clock=clock, stall=stall)
    except TimeoutError:
        raise build_silence(name, stall) from None
    finally:
        await reader.aclose()
    source = FileObjectSource(name, kind, size, copy, 0, clock)
    weakref.finalize(source, copy.close)
    return source


async def _spool(
    file: BinaryFile, name: str, kind: str, reader: _Reader, *, clock: Clock, stall: float
) -> tuple[IO[bytes], int]:
    """Copy what is left of a file object to a temporary file without a name; return that and its size."""
    copy, size = tempfile.TemporaryFile(), 0  # noqa: SIM115  # closed below, or with its source
    try:
        while True:
            async with clock.timeout_at(clock.monotonic() + stall):
                block = await reader.run(_read, file, BLOCK_BYTES, name)
            if not block:
                break
            await reader.run(copy.write, block)
            size += len(block)
        await reader.run(_refuse_non_audio, copy, name, kind)
    except BaseException:
        copy.close()
        raise
    return copy, size


def _name_of(file: object) -> str:
    name: object = None
    with suppress(Exception):  # other people's code
        name = file.name  # type: ignore[attr-defined]  # or it raises
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    if not isinstance(name, str):  # of a descriptor it is a number
        return _UNNAMED
    name = filename_of_url(name) if is_url(name) else PurePath(name).name
    return name.encode("utf-8", "replace").decode() or _UNNAMED


def _refuse_non_audio(file: BinaryIO, name: str, kind: str) -> None:
    refuse_non_audio(file, name, kind, is_unnamed=name == _UNNAMED)


def _examine(file: Any, name: str, kind: str) -> tuple[int, int] | None:
    """Return where a binary file stands and where it ends, `None` if it cannot go there and back."""
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
    try:
        end = _end(file)
    except Exception:
        if file.tell() != place:
            raise
        return None  # it knows no end
    if 0 < end <= place:
        raise SourceUnreadableError(f"cannot read {name}: it stands at its end; seek(0) goes back to its beginning")
    _refuse_non_audio(cast(BinaryIO, _Rest(file, place, end, name)), name, kind)
    file.seek(place)
    return place, end


class _Rest:
    """What a file object has from `start` to `end`, as a file of its own, as far as `Blocks` uses one."""

    def __init__(self, file: Any, start: int, end: int, name: str) -> None:
        self._file, self._start, self._end, self._name = file, start, end, name
        self._at = start

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (self._end if whence == os.SEEK_END else self._start)
        return self._at - self._start

    def read(self, size: int) -> bytes:
        self._file.seek(self._at)
        block = _read(self._file, size, self._name)
        self._at += len(block)
        return block


def _end(file: Any) -> int:
    file.seek(0, os.SEEK_END)
    return int(file.tell())


def _read(file: Any, size: int, name: str) -> bytes:
    block = file.read(size)
    if isinstance(block, bytes | bytearray | memoryview):
        return bytes(block)
    found = "nothing yet, and does not wait for it" if block is None else type(block).__name__
    raise SourceUnreadableError(f"cannot read {name}: it yields {found}, not bytes")
