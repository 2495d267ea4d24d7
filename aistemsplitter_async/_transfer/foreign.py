"""Audio that other people's code yields. Whatever that code does, it ends this upload, with an error that names it.

It may raise at any moment, yield anything, or nothing and never end. Its context and each of its streams run in tasks
of their own, so that one that cancels its task, or does not let itself be cancelled, takes nobody with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import operator
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import Any

import attrs

from aistemsplitter_async._send.failures import is_foreign_cancellation
from aistemsplitter_async._tasks import cancel_within, run_in_thread
from aistemsplitter_async._wire.messages import BodyStream
from aistemsplitter_async.clock import Clock, Deadline
from aistemsplitter_async.config import ASLEEP, CLOSE_GRACE
from aistemsplitter_async.errors import SourceChangedError, SourceUnreadableError, UploadError

_AHEAD_BYTES = 256 * 1024  # read while earlier ones are on their way
_AHEAD_CHUNKS = 64  # likewise: a stream of very small ones must let others run
_HASHED_AT_ONCE_BYTES = 1024 * 1024  # a few milliseconds; a thread costs a tenth of one
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
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Any] = loop.create_future()
        leave: asyncio.Future[None] = loop.create_future()
        visit = loop.create_task(_visit(self._open, ready, leave), name=f"open {self.filename}")
        readers = set[asyncio.Task[None]]()
        try:
            async with self._blamed("opening it"):
                await asyncio.wait([ready, visit], return_when=asyncio.FIRST_COMPLETED)
                body = ready.result() if ready.done() else visit.result()
                if not callable(body):
                    raise TypeError("opened() must give a function")
            try:
                try:
                    yield lambda: self._read(body, readers)
                finally:
                    await self._stop(readers)
            except BaseException as error:
                _raise_in(leave, error)
                with suppress(SourceUnreadableError):  # the first error is the one to be told
                    async with self._blamed("closing it"):
                        await asyncio.wait([visit])
                raise  # also where that code would drop it
            if not leave.done():  # or else that code ended by itself
                leave.set_result(None)
            async with self._blamed("closing it"):
                await asyncio.wait([visit])
                visit.result()
        finally:
            leave.cancel()  # no effect if it was told before; or else one that is left behind would stay for ever
            await cancel_within(CLOSE_GRACE, visit, clock=self._clock)

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
                    await add_to_hash(hasher, chunk)
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
        handover = _Handover()
        reading = asyncio.get_running_loop().create_task(
            _pump(self.filename, body, handover), name=f"read {self.filename}"
        )
        readers.add(reading)
        reading.add_done_callback(lambda _: handover.end())
        try:
            while block := await self._next(handover):
                yield block
            async with self._blamed("its stream"):
                reading.result()  # cancelled, if so, by itself: we are still here
        finally:
            await self._stop(readers)

    async def _stop(self, readers: set[asyncio.Task[None]]) -> None:
        """Cancel what still reads, and leave behind what does not let itself be cancelled."""
        running = [reader for reader in readers if not reader.done()]
        readers.clear()
        if running:
            await cancel_within(CLOSE_GRACE, *running, clock=self._clock)

    async def _next(self, handover: _Handover) -> bytes:
        grace = min(ASLEEP, self._stall)
        for patience in (self._stall, grace):
            due = self._clock.monotonic() + patience
            with suppress(TimeoutError):
                async with self._clock.timeout_at(due):
                    return await handover.take()
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


async def add_to_hash(hasher: hashlib._Hash, chunk: bytes) -> None:
    """Hash a chunk, one that takes long in a thread."""
    if len(chunk) > _HASHED_AT_ONCE_BYTES:
        await run_in_thread(hasher.update, chunk)
    else:
        hasher.update(chunk)


def build_silence(name: str, seconds: float) -> SourceUnreadableError:
    """Return the error of a source that yields nothing more."""
    return SourceUnreadableError(f"cannot read {name}: nothing more came of it for {seconds:g} s")


class _Handover:
    """What a stream has yielded, on its way to another task, which takes all there is at once.

    If the tasks took turns at every chunk, that would be most of the work where chunks are small.
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._is_over = False
        self._has_some = asyncio.Event()
        self._has_room = asyncio.Event()

    async def put(self, chunk: bytes) -> None:
        """Add a chunk, once there is room for it."""
        while self._bytes >= _AHEAD_BYTES or len(self._chunks) >= _AHEAD_CHUNKS:
            self._has_room.clear()
            await self._has_room.wait()
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._has_some.set()

    def end(self) -> None:
        """Note that nothing more comes."""
        self._is_over = True
        self._has_some.set()

    async def take(self) -> bytes:
        """Return what has come, as soon as there is something; nothing at the end."""
        await self._has_some.wait()
        block = b"".join(self._chunks)  # no copy of a single one
        self._chunks.clear()
        self._bytes = 0
        self._has_room.set()
        if not self._is_over:
            self._has_some.clear()
        return block


async def _visit(
    open_context: Callable[[], AbstractAsyncContextManager[object]],
    ready: asyncio.Future[object],
    leave: asyncio.Future[None],
) -> None:
    """Hold a context open from its first line to its last in this one task, and say what it gives."""
    async with open_context() as given:
        ready.set_result(given)
        await leave


def _raise_in(future: asyncio.Future[None], error: BaseException) -> None:
    """Let `error` be raised where `future` is awaited, if it still is."""
    if future.done():
        return
    if isinstance(error, asyncio.CancelledError):
        future.cancel()
    else:
        future.set_exception(error)


async def _pump(name: str, body: BodyStream, handover: _Handover) -> None:
    stream: Any = body()
    if isinstance(stream, Coroutine):
        stream.close()
        raise SourceUnreadableError(
            f"cannot read {name}: what opens its stream returned a coroutine, not an async iterator; let it `yield` "
            "the chunks, or be no `async def`"
        )
    iterator = aiter(stream)
    empty = 0
    try:
        async for chunk in iterator:
            block = _as_bytes(chunk)
            if block:
                empty = 0
                await handover.put(block)
                continue
            empty += 1
            if empty >= _EMPTY_IN_A_ROW:
                raise SourceUnreadableError(f"cannot read {name}: its stream yields no bytes, but {empty} empty chunks")
            await asyncio.sleep(0)  # it need not have let anybody else run
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()


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
            f"a source is a path, bytes, a binary file object, a URL or an AudioSource, not {kind}"
            + (f" (it has no {error.name})" if hasattr(source, "opened") else "")
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
