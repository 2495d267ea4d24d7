"""Hands a stem over as it comes, to code that is not ours: each byte once, in constant memory, and never a short file.

What was handed over cannot be taken back. So after a broken connection only the rest is asked for; and an answer that
begins at the beginning nonetheless must repeat what was handed over, which its hash shows, before more of it is taken.

A task receives, at most a little ahead of the reader: what came is read at once, while that task may still wait for
more, and a reader that is cancelled costs no connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from typing import Self

from anyio import CancelScope

from aistemsplitter_async._send.attempt import Attempt
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._send.transfer import Transfer
from aistemsplitter_async._send.transport import StreamedReply
from aistemsplitter_async._tasks import cancel_and_wait, run_to_end
from aistemsplitter_async._transfer.answer import StemAnswer, build_changed
from aistemsplitter_async._transfer.audio import copy_bytes, guess_content_type
from aistemsplitter_async._transfer.contents import build_too_long
from aistemsplitter_async._transfer.meter import Meter
from aistemsplitter_async._transfer.metered import run_metered
from aistemsplitter_async._transfer.names import extension_for, make_name
from aistemsplitter_async._transfer.ranges import Held, Incoming
from aistemsplitter_async._transfer.stem_urls import MAY_PASS, StemURLs
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    ConfigurationError,
    IncompleteDownloadError,
)

_AHEAD_BYTES = 64 * 1024  # received ahead of the reader; an attempt that brings as many is followed by a first one
_AUDIO_TYPE = re.compile(r"audio/[a-z0-9][a-z0-9.+-]{0,60}")


class StemStream:
    """The bytes of one stem, from `client.open_stem`: an async iterable, and an async file that is read forwards.

    Attributes:
        name: the stem's name.
        length: bytes that it has, `None` if the server did not say.
        content_type: such as `audio/mpeg`.
        filename: a safe name for a file, such as `vocals.mp3`.
    """

    def __init__(self, name: str, urls: StemURLs, pipeline: Pipeline, *, cap: int) -> None:
        self.name = name
        self.length: int | None = None
        self.content_type: str = ""
        self.filename: str = ""
        self._urls = urls
        self._pipeline = pipeline
        self._cap = cap
        self._etag: str | None = None  # of the file whose bytes were handed over
        self._received = 0  # bytes of the stem, with those that wait in `_ready`
        self._hash = hashlib.sha256()  # of those
        self._ready = bytearray()
        self._answer: StemAnswer | None = None
        self._call = urls.call(name)
        self._exchange: Attempt | None = None  # that the answer is of
        self._transfer = Transfer(self._call, pipeline.emit)
        self._is_whole = False
        self._is_closed = False
        self._turn = asyncio.Lock()
        self._readers = set[CancelScope]()
        self._receiving: asyncio.Task[None] | None = None
        self._came = asyncio.Event()  # more of the stem, or the end of what receives it
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # one for all, in which a listener finds again what it opened

    def __repr__(self) -> str:
        return f"StemStream({self.filename or self.name!r})"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return what has come, or wait for the next bytes; a few of 64 KiB at most. Raises like `read`."""
        piece = await self._take(1, None)
        if not piece:
            raise StopAsyncIteration
        return piece

    async def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, fewer only at the end of the stem, and none after it.

        Without `size`, all that is left is read into memory. Where a read was cancelled or failed, the next continues.

        Raises:
            IncompleteDownloadError: the stem kept ending early, or something else kept coming in its place.
            DownloadError: it changed at the server after its beginning was handed over (`code` is `CHANGED`), is longer
                than audio of the split's duration can be (`TOO_LONG`), or cannot be decoded (`ENCODED`).
            StemsExpiredError: its URLs were refused for two minutes, fresh ones too.
            APIConnectionError, APIStatusError: as often as it was retried, the connection broke or the server refused.
            ConfigurationError: the stream was closed, by the end of its `async with`, or is of another event loop.
        """
        if size is None or size < 0:
            return await self._take(None, None)
        return await self._take(size, size)

    async def open(self) -> None:
        """Ask for the stem, and wait for its first bytes. Raises like `read`."""
        await self._take(1, 0)

    async def aclose(self) -> None:
        """Close the connection. Reads that wait raise `ConfigurationError`."""
        self._is_closed = True
        for scope in list(self._readers):
            scope.cancel()
        await run_to_end(self._close(), self._context)

    async def _close(self) -> None:
        async with self._turn:
            if self._receiving is not None:
                await cancel_and_wait(self._receiving)
            await self._drop_answer(None)
            self._transfer.finish()
        self._ready.clear()

    async def _take(self, enough: int | None, most: int | None) -> bytes:
        """Return bytes that are here, at most `most`, once there are `enough` or the stem has no more."""
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError("a stream belongs to the event loop it was opened on, and this is another one")
        if not self._is_closed:
            with self._reading():
                async with self._turn:
                    while not self._is_whole and (enough is None or len(self._ready) < enough):
                        await self._wait_for_more()
                    return await self._cut(most)
        raise ConfigurationError(f"the stream of {self.name!r} is closed; read it inside of its `async with`")

    async def _cut(self, most: int | None) -> bytes:
        ready, self._ready = self._ready, bytearray()  # for what comes meanwhile
        try:
            with memoryview(ready) as view, view[:most] as wanted:
                piece = await copy_bytes(wanted)
            del ready[:most]
            return piece
        finally:
            ready += self._ready
            self._ready = ready

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with CancelScope() as scope:
            self._readers.add(scope)
            try:
                yield
                self._transfer.note(None)
            except BaseException as error:
                self._transfer.note(error)
                if isinstance(error, AIStemSplitterError):
                    error.split_id = error.split_id or self._urls.split_id
                raise
            finally:
                self._readers.discard(scope)

    async def _wait_for_more(self) -> None:
        """Wait until more of the stem is here, or its end. What receives it goes on if the caller is cancelled."""
        self._came.clear()
        if self._receiving is None:
            self._receiving = self._loop.create_task(self._receive(), context=self._context)
            self._receiving.add_done_callback(self._note_end)
        if not self._receiving.done():
            await self._came.wait()  # whatever it is, bytes that are here are handed over before an error is raised
            return
        ended, self._receiving = self._receiving, None
        ended.result()

    def _note_end(self, receiving: asyncio.Task[None]) -> None:
        if not receiving.cancelled():
            receiving.exception()  # retrieved, or asyncio logs that it never was: perhaps there is no further read
        self._came.set()

    async def _receive(self) -> None:
        """Receive until enough of the stem is ready, or its end; over another connection if this one breaks."""
        breaks = list[AIStemSplitterError]()
        if self._answer is not None:
            try:
                await self._attempt(None)
            except (APIConnectionError, IncompleteDownloadError) as error:
                breaks.append(error)
            else:
                return

        async def once(url: str) -> None:
            if breaks:  # counted as an attempt, so that there is a pause before the next
                raise breaks.pop()
            before = self._received
            await self._attempt(url)
            while not self._is_whole and self._received - before < _AHEAD_BYTES:  # or it would never end
                await self._attempt(None)

        async def run(url: str) -> None:
            await self._pipeline.run(self._call, partial(once, url), url=url)

        await self._pipeline.outlast(self._urls.call(self.name), partial(self._urls.run, self.name, run), MAY_PASS)

    async def _attempt(self, url: str | None) -> None:
        """Receive more of the answer, of a new one if there is a URL."""
        clock = self._pipeline.clock
        if self._answer is None:
            meter = Meter(self._pipeline.timeouts, now=clock.monotonic())
        else:
            self._answer.resume(now=clock.monotonic())
            meter = self._answer.meter
        if url is not None:
            self._exchange = self._urls.attempt(self._call, url).__enter__()  # left with the answer
        try:
            await run_metered(self._gather(url, meter), meter, clock=clock, what=f"the download of {self.name}")
            if self._answer is not None:
                self._answer.pause(now=clock.monotonic())
            if self._is_whole:
                await self._drop_answer(None)
        except BaseException as error:
            await self._drop_answer(error)
            raise

    async def _gather(self, url: str | None, meter: Meter) -> None:
        if url is not None:
            await self._open(url, meter)
        answer, is_enough = self._answer, False
        while answer is not None and not is_enough:
            await answer.receive(self._pipeline.clock)
            self._accept(answer)
            is_enough = self._is_whole or len(self._ready) >= _AHEAD_BYTES

    async def _open(self, url: str, meter: Meter) -> None:
        held = Held(offset=self._received, etag=self._etag, total=self.length)
        async with AsyncExitStack() as opened:
            assert self._exchange is not None  # noqa: S101  # it was begun by the caller
            opening = self._urls.open(self.name, url, held, self._exchange, forget=self._forget)
            reply, incoming = await opened.enter_async_context(opening)
            self._learn(url, reply, incoming)
            self._answer = StemAnswer(
                self.name, reply, incoming, held=self._received, cap=self._cap, meter=meter, opened=opened.pop_all()
            )

    def _learn(self, url: str, reply: StreamedReply, incoming: Incoming) -> None:
        """Learn from the first answer what the stem is.

        Raises:
            DownloadError: it is too long.
        """
        if (incoming.total or 0) > self._cap:
            raise build_too_long(self.name, self._cap)
        if self._received:
            return
        said = reply.headers.get("content-type", "")
        extension = extension_for(url, said)
        self.length = incoming.total
        self.filename = f"{make_name(self.name, fallback='stem')}.{extension}"
        kind = said.partition(";")[0].strip().lower()
        self.content_type = kind if _AUDIO_TYPE.fullmatch(kind) else guess_content_type(self.filename)

    def _forget(self) -> None:
        self._etag = None  # so that the next attempt asks for all of it

    def _accept(self, answer: StemAnswer) -> None:
        """Take what was received, and remember what must be known to continue from there.

        Raises:
            IncompleteDownloadError: it is no stem.
            DownloadError: it is too long, or of another file than what was handed over.
        """
        data = answer.take(self._hash.digest())
        if None not in (answer.incoming.total, self.length) and answer.incoming.total != self.length:
            raise build_changed(self.name)
        if self._received + len(data) > self._cap:
            raise build_too_long(self.name, self._cap)
        self._hash.update(data)
        self._received += len(data)
        self._ready += data
        if answer.is_known:
            self._etag = answer.incoming.etag
        if answer.is_over and not self._received:
            raise IncompleteDownloadError(f"the server sent nothing instead of the stem {self.name!r}")
        if answer.is_over and self.length not in (None, self._received):
            raise build_changed(self.name)
        self._is_whole = answer.is_over
        self._came.set()

    async def _drop_answer(self, error: BaseException | None) -> None:
        """Close the answer's connection, because of `error` if it broke."""
        answer, self._answer = self._answer, None
        exchange, self._exchange = self._exchange, None
        kind = None if error is None else type(error)
        try:
            if answer is not None:
                await answer.opened.__aexit__(kind, error, None)
        finally:
            if exchange is not None:
                self._transfer.bytes += exchange.received
                exchange.__exit__(kind, error, None)
