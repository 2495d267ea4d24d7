"""Audio that other people's code yields. Whatever that code does, it ends this upload, with an error that names it.

It may raise at any moment, yield anything, or nothing and never end. Its stream runs in a task of its own, so that one
that cancels its task, or does not let itself be cancelled, takes nobody with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import operator
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import Any

import attrs

from aistemsplitter_async._send.failures import is_foreign_cancellation
from aistemsplitter_async._tasks import cancel_within
from aistemsplitter_async._wire.messages import BodyStream
from aistemsplitter_async.clock import Clock, Deadline
from aistemsplitter_async.config import ASLEEP, CLOSE_GRACE
from aistemsplitter_async.errors import SourceChangedError, SourceUnreadableError, UploadError

_AHEAD = 2  # chunks read while earlier ones are on their way
_EMPTY_IN_A_ROW = 1000  # empty chunks, after which a stream is taken for one without end
HEADER_TEXT = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


@attrs.frozen
class ForeignSource:
    """Audio of exactly `content_length` bytes, as other people's code yields it.

    Attributes:
        filename, content_type, content_length: as they were when it was examined first.
        content: the hash that its bytes must have, `sha256:<hex>`, if that is known.
    """

    filename: str
    content_type: str
    content_length: int
    _open: Callable[[], AbstractAsyncContextManager[BodyStream]]
    _clock: Clock
    _stall: float  # s without a byte, or to be opened or closed, after which it is given up
    content: str | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BodyStream]:
        async with self._blamed("opening it"):
            context = self._open()
            body = await context.__aenter__()
            if not callable(body):
                raise TypeError("opened() must give a function")
        readers = set[asyncio.Task[None]]()
        try:
            try:
                yield lambda: self._read(body, readers)
            finally:
                await self._stop(readers)
        except BaseException as error:
            with suppress(SourceUnreadableError):  # the first error is the one to be told
                async with self._blamed("closing it"):
                    await context.__aexit__(type(error), error, error.__traceback__)
            raise  # also where that code would drop it
        else:
            async with self._blamed("closing it"):
                await context.__aexit__(None, None, None)

    async def _read(self, body: BodyStream, readers: set[asyncio.Task[None]]) -> AsyncIterator[bytes]:
        """Pass chunks through, and notice a stream that is shorter or longer than was said, or another one.

        Each chunk is held back until the next one is known, so that the receiver never has all of a wrong stream.
        """
        seen, kept, hasher = 0, b"", hashlib.sha256()
        async with aclosing(self._chunks(body, readers)) as chunks:
            async for chunk in chunks:
                seen += len(chunk)
                if seen > self.content_length:
                    break
                if self.content is not None:
                    hasher.update(chunk)
                if kept:
                    yield kept
                kept = chunk
        if seen != self.content_length:
            found = "more" if seen > self.content_length else seen
            raise SourceChangedError(f"{self.filename} should have {self.content_length} bytes; its stream has {found}")
        if self.content not in (None, f"sha256:{hasher.hexdigest()}"):
            raise SourceChangedError(
                f"the stream of {self.filename} yielded other bytes than before; nothing was split"
            )
        yield kept

    async def _chunks(self, body: BodyStream, readers: set[asyncio.Task[None]]) -> AsyncGenerator[bytes, None]:
        """Yield what is not empty of the stream."""
        await self._stop(readers)  # of an attempt that was given up: nobody closes its generators at once
        chunks = asyncio.Queue[bytes | None]()
        room = asyncio.Semaphore(_AHEAD)
        reading = asyncio.get_running_loop().create_task(
            _pump(self.filename, body, chunks, room), name=f"read {self.filename}"
        )
        readers.add(reading)
        reading.add_done_callback(lambda _: chunks.put_nowait(None))
        try:
            while (chunk := await self._next(chunks)) is not None:
                room.release()
                yield chunk
            async with self._blamed("its stream"):
                if reading.cancelled():  # by itself: we are still here
                    raise asyncio.CancelledError
                reading.result()
        finally:
            await self._stop(readers)

    async def _stop(self, readers: set[asyncio.Task[None]]) -> None:
        """Cancel what still reads, and leave behind what does not let itself be cancelled."""
        running = [reader for reader in readers if not reader.done()]
        readers.clear()
        if running:
            await cancel_within(CLOSE_GRACE, *running, clock=self._clock)

    async def _next(self, chunks: asyncio.Queue[bytes | None]) -> bytes | None:
        if not chunks.empty():
            return chunks.get_nowait()
        grace = min(ASLEEP, self._stall)
        for patience in (self._stall, grace):
            due = self._clock.monotonic() + patience
            with suppress(TimeoutError):
                async with self._clock.timeout_at(due):
                    return await chunks.get()
            if self._clock.monotonic() <= due + grace:
                break  # and not late, because nothing could come: the machine slept, or the process was stopped
        raise self.give_up()

    def give_up(self) -> SourceUnreadableError:
        """Return the error of a source that yields nothing more."""
        return build_silence(self.filename, self._stall)

    @asynccontextmanager
    async def _blamed(self, what: str) -> AsyncIterator[None]:
        """Raise what other people's code raises inside as an error of this source."""
        deadline = Deadline.after(self._clock, self._stall)
        failure: BaseException
        try:
            async with deadline.scope():
                yield
            return
        except UploadError:  # it says what is wrong
            raise
        except asyncio.CancelledError as error:
            if not is_foreign_cancellation():
                raise
            failure = error
        except Exception as error:  # noqa: BLE001  # other people's code
            failure = error
        kind = f"took longer than {self._stall:g} s" if deadline.is_past else f"raised {type(failure).__name__}"
        raise SourceUnreadableError(f"cannot read {self.filename}: {what} {kind}") from failure


def build_silence(name: str, seconds: float) -> SourceUnreadableError:
    """Return the error of a source that yields nothing more."""
    return SourceUnreadableError(f"cannot read {name}: nothing more came of it for {seconds:g} s")


async def _pump(name: str, body: BodyStream, chunks: asyncio.Queue[bytes | None], room: asyncio.Semaphore) -> None:
    stream: Any = body()
    empty = 0
    try:
        async for chunk in stream:
            block = _as_bytes(chunk)
            if block:
                empty = 0
                await room.acquire()
                chunks.put_nowait(block)
                continue
            empty += 1
            if empty >= _EMPTY_IN_A_ROW:
                raise SourceUnreadableError(f"cannot read {name}: its stream yields no bytes, but {empty} empty chunks")
            await asyncio.sleep(0)  # it need not have let anybody else run
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


def _as_bytes(chunk: object) -> bytes:
    """Return a copy of a chunk, unless nobody can change it: some streams use one buffer again and again."""
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, str | int | None):  # `bytes(5)` would be five zeros
        raise TypeError(f"a chunk must be bytes, not {type(chunk).__name__}")
    return memoryview(chunk).tobytes()  # type: ignore[arg-type]  # or it raises


def guard(
    source: Any,
    *,
    filename: str | None,
    content_type: str | None,
    guess: Callable[[str], str],
    clock: Clock,
    stall: float,
) -> ForeignSource:
    """Return an `AudioSource` that is other people's code so that it can do no harm.

    Args:
        source: it, or what should be one.
        filename: overrides its own.
        content_type: overrides its own.
        guess: returns the type that a name suggests.
        clock: where time comes from.
        stall: seconds in which it must yield something.

    Raises:
        SourceUnreadableError: it is none, or does not say what it has.
    """
    kind = type(source).__name__
    try:
        opened = source.opened
        name = source.filename if filename is None else filename
        media = source.content_type if content_type is None else content_type
        length = source.content_length
    except AttributeError as error:
        raise SourceUnreadableError(
            f"a source is a path, bytes, a URL or an AudioSource, not {kind} ({error.name or 'something'} is missing)"
        ) from None
    except Exception as error:
        raise SourceUnreadableError(f"cannot read the {kind}: it raised {type(error).__name__}") from error
    if not isinstance(name, str) or not name:
        raise SourceUnreadableError(f"cannot read the {kind}: its filename is {_show(name)}, not text")
    if media is None or media == "":
        media = guess(name)
    if not isinstance(media, str) or not HEADER_TEXT.fullmatch(media):
        raise SourceUnreadableError(f"cannot read {name}: its content_type is {_show(media)}, not a media type")
    size = _as_count(length)
    if size is None:
        raise SourceUnreadableError(f"cannot read {name}: its content_length is {_show(length)}, not a number of bytes")
    if size <= 0:
        raise SourceUnreadableError(f"{name} is empty")
    return ForeignSource(name, media, size, opened, clock, stall)


def _as_count(length: object) -> int | None:
    if isinstance(length, bool):
        return None
    try:
        return operator.index(length)  # type: ignore[arg-type]  # or it raises
    except Exception:  # noqa: BLE001  # other people's code
        return None


def _show(value: object) -> str:
    return repr(value)[:80] if isinstance(value, str | bytes | int | float | None) else type(value).__name__
