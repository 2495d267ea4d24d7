"""Sources that are none, by name: each is the fault of its song alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aistemsplitter_async import BatchItem, stream_source
from benchmarks.trials.songs import Song

_AUDIO = Song(77).build()  # of a song that nobody may be charged for
_HALF = len(_AUDIO) // 2


class _Audio:
    """An audio source as a user may write one; what is wrong with it is passed in."""

    filename: Any = "odd.wav"
    content_type: Any = "audio/wav"
    content_length: Any = len(_AUDIO)

    def __init__(self, read: Callable[[], Any] | None = None, **given: Any) -> None:
        self._read = read or _read_well
        vars(self).update(given)

    def __repr__(self) -> str:
        return "an odd source"

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Any]:
        yield self._read


async def _read_well() -> AsyncIterator[Any]:
    yield _AUDIO


class _Unnamed(_Audio):
    @property
    def filename(self) -> Any:
        raise LookupError("nobody gave it a name")


class _Unopened(_Audio):
    def opened(self) -> Any:
        raise PermissionError("not with this one")


class _OpenedBadly(_Audio):
    """One whose `opened` raises when it is entered."""

    error: BaseException | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Any]:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        yield self._read


class _NoManager(_Audio):
    def opened(self) -> Any:
        return _AUDIO


class _SlowTimeout(_Audio):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Any]:
        async with asyncio.timeout(5):
            await asyncio.sleep(60)
        yield _read_well


def _yielding(*chunks: Any, error: BaseException | None = None) -> Callable[[], AsyncIterator[Any]]:
    async def read() -> AsyncIterator[Any]:
        for chunk in chunks:
            yield chunk
        if error is not None:
            raise error

    return read


def _later(error: BaseException) -> Callable[[], AsyncIterator[Any]]:
    """Read well once, for the batch that identifies the song; then raise, for the upload."""
    reads = [0]

    async def read() -> AsyncIterator[Any]:
        reads[0] += 1
        yield _AUDIO[:_HALF]
        if reads[0] > 1:
            raise error
        yield _AUDIO[_HALF:]

    return read


async def _read_for_ever() -> AsyncIterator[Any]:
    yield _AUDIO[:_HALF]
    await asyncio.Event().wait()


async def _read_nothing() -> AsyncIterator[Any]:
    while True:
        yield b""


def _stream(read: Callable[[], Any], length: int = len(_AUDIO)) -> Any:
    return stream_source(read, content_length=length, filename="odd.wav")


MISFITS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "number": lambda: 7,
    "list": lambda: ["song.wav"],
    "class": lambda: _Audio,
    "nothing in an item": lambda: BatchItem(source=None),  # type: ignore[arg-type]
    "empty name": lambda: "",
    "nul in its name": lambda: "a\0b.wav",
    "missing": lambda: "/nowhere/song.wav",
    "long name": lambda: "x" * 5000,
    "empty bytes": lambda: b"",
    "silent stream": lambda: _stream(_read_for_ever),
    "empty stream": lambda: _stream(_read_nothing),
    "stream of text": lambda: _stream(_yielding("text", "text")),
    "stream of numbers": lambda: _stream(_yielding(1, 2)),
    "stream of nothing": lambda: _stream(_yielding(None)),
    "short stream": lambda: _stream(_yielding(_AUDIO[:_HALF])),
    "long stream": lambda: _stream(_yielding(_AUDIO, _AUDIO)),
    "stream that raises": lambda: _stream(_yielding(_AUDIO[:_HALF], error=ValueError("bad sector"))),
    "stream that raises later": lambda: _stream(_later(OSError("gone"))),
    "stream that cancels": lambda: _stream(_yielding(_AUDIO[:_HALF], error=asyncio.CancelledError())),
    "stream that cancels later": lambda: _stream(_later(asyncio.CancelledError())),
    "stream that times out": lambda: _stream(_yielding(_AUDIO[:_HALF], error=TimeoutError())),
    "no stream": lambda: _stream(lambda: 7),
    "plain iterator": lambda: _stream(lambda: iter([_AUDIO])),
    "factory that raises": lambda: _stream(lambda: 1 / 0),
    "unnamed": _Unnamed,
    "unopened": _Unopened,
    "unopened later": lambda: _OpenedBadly(error=ConnectionError("it is on a disk of another machine")),
    "cancels when opened": lambda: _OpenedBadly(error=asyncio.CancelledError()),
    "no manager": _NoManager,
    "times out when opened": _SlowTimeout,
    "source of text": lambda: _Audio(_yielding("text")),
    "source that raises": lambda: _Audio(_yielding(_AUDIO[:_HALF], error=RuntimeError("no"))),
    "source that raises later": lambda: _Audio(_later(RuntimeError("no"))),
    "source that cancels": lambda: _Audio(_yielding(error=asyncio.CancelledError())),
    "name of bytes": lambda: _Audio(filename=b"odd.wav"),
    "no name": lambda: _Audio(filename=None),
    "no length": lambda: _Audio(content_length=None),
    "length of text": lambda: _Audio(content_length="many"),
    "negative length": lambda: _Audio(content_length=-5),
    "wrong length": lambda: _Audio(content_length=len(_AUDIO) + 5),
}
