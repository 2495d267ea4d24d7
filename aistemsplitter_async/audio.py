"""Where audio comes from: bytes of known length that can be read again from the start, or a URL.

An upload may have to start over, so a source is opened once and read as often as needed. A file stays open as one
descriptor in between, and is compared with what it was before: aiohttp would hang on a file that shrinks and silently
send a part of one that grows.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import stat
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import attrs

from aistemsplitter_async._core.messages import BodyStream
from aistemsplitter_async._core.naming import filename_of_url
from aistemsplitter_async._net.threads import run_in_thread, wait_out
from aistemsplitter_async.errors import SourceChangedError, SourceUnreadableError, UploadError
from aistemsplitter_async.models import DirectURL

# Measured with `benchmarks/upload.py`: every block costs a trip to a thread, so 64 KiB ones reach less than half the
# speed of 1 MiB ones; larger ones gain nothing that can be told from noise, and cost memory.
BLOCK_BYTES = 1024 * 1024

_TYPE_BY_SUFFIX = {  # what `mimetypes` does not know everywhere, or names after the container rather than the audio
    ".aac": "audio/aac",
    ".aif": "audio/aiff",
    ".aiff": "audio/aiff",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".wma": "audio/x-ms-wma",
}


class AudioSource(Protocol):
    """Bytes to upload. `build_source` makes one of what a caller gives."""

    @property
    def filename(self) -> str: ...
    @property
    def content_type(self) -> str: ...
    @property
    def content_length(self) -> int:
        """Size in bytes."""
        ...

    def opened(self) -> AbstractAsyncContextManager[BodyStream]:
        """Open the source; the function inside reads it from its beginning, again at every call.

        Raises:
            SourceUnreadableError: it cannot be opened.
            SourceChangedError: while reading, if it is not what it was.
        """
        ...


@attrs.frozen
class BytesSource:
    """Audio in memory."""

    data: bytes = attrs.field(repr=False)
    filename: str
    content_type: str

    @property
    def content_length(self) -> int:
        return len(self.data)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BodyStream]:
        async def read() -> AsyncIterator[bytes]:
            for start in range(0, len(self.data), BLOCK_BYTES):
                yield self.data[start : start + BLOCK_BYTES]

        yield read


@attrs.frozen
class StreamSource:
    """Audio from anywhere: `factory` opens an async stream of chunks, of exactly `content_length` bytes in all.

    The factory is called once per attempt, so a retry can start over.
    """

    factory: BodyStream
    content_length: int
    filename: str
    content_type: str

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BodyStream]:
        yield lambda: _exactly(self.factory, self.content_length, self.filename)


async def _exactly(factory: BodyStream, length: int, name: str) -> AsyncIterator[bytes]:
    """Pass chunks through, and notice a stream that is shorter or longer than was said.

    Each chunk is kept until it is known what follows, so that nobody ever holds all of a stream that is wrong.
    """
    seen = 0
    kept = b""
    chunks: AsyncIterator[bytes] | None = None
    try:
        chunks = factory()
        async for chunk in chunks:
            seen += len(chunk)
            if seen > length:
                break
            if kept and chunk:
                yield kept
            kept = chunk or kept
    except UploadError:
        raise
    except Exception as error:
        raise SourceUnreadableError(f"cannot read {name}: its stream raised {type(error).__name__}") from error
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
    if seen != length:
        raise SourceChangedError(
            f"{name} should have {length} bytes; its stream has {'more' if seen > length else seen}"
        )
    yield kept


@attrs.frozen
class FileSource:
    """A regular file. `size` is what it had when it was looked at first."""

    path: Path
    content_length: int
    filename: str
    content_type: str

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BodyStream]:
        reader = await run_in_thread(_BlockReader, self.path, undo=_BlockReader.close)
        try:
            before = reader.fingerprint()
            self._expect(unchanged=before.size == self.content_length)
            yield lambda: self._read(reader, before)
        finally:
            await reader.aclose()

    async def _read(self, reader: _BlockReader, before: _Fingerprint) -> AsyncIterator[bytes]:
        """Read the file from its start, the next block while the last one is on its way.

        The last block is handed over only when the file is known to be what it was.
        """
        offset = 0
        upcoming = reader.start(offset)
        while offset < before.size:
            block = await reader.finish(upcoming)
            offset += len(block)
            self._expect(unchanged=bool(block) and offset <= before.size)
            if offset < before.size:
                upcoming = reader.start(offset)
            else:
                self._expect(unchanged=reader.fingerprint() == before)
            yield block

    def _expect(self, *, unchanged: bool) -> None:
        if not unchanged:
            raise SourceChangedError(f"{self.path} changed while it was read; nothing was split")


@attrs.frozen
class _Fingerprint:
    """What tells whether a file is still the same: the content is not compared, an edit shows in these."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class _BlockReader:
    """One descriptor, read in threads, and closed only when no thread is using it any more.

    A number that was closed too early may by then belong to another file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._reads: set[asyncio.Future[bytes]] = set()
        problem = None
        try:
            # Not blocking: what was a regular file a moment ago may be a pipe by now.
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            problem = _why(error)
        else:
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                self.close()
                problem = "it is not a regular file"
        if problem:
            raise SourceUnreadableError(f"cannot read {path}: {problem}")

    def close(self) -> None:
        os.close(self._descriptor)

    def fingerprint(self) -> _Fingerprint:
        status = os.fstat(self._descriptor)
        return _Fingerprint(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def start(self, offset: int) -> asyncio.Future[bytes]:
        """Begin to read the block at `offset`."""
        read = asyncio.get_running_loop().run_in_executor(None, self._read_block, offset)
        self._reads.add(read)
        read.add_done_callback(self._forget)
        return read

    async def finish(self, read: asyncio.Future[bytes]) -> bytes:
        """Return a block that was begun; empty at the end of the file."""
        await asyncio.wait([read])  # which leaves it alone if we are cancelled: its thread cannot be stopped
        try:
            return read.result()
        except OSError as error:
            problem = _why(error)
        raise SourceUnreadableError(f"cannot read {self._path}: {problem}")

    async def aclose(self) -> None:
        try:
            await wait_out(*self._reads)
        finally:
            self.close()

    def _read_block(self, offset: int) -> bytes:
        with self._turn:  # a read of an attempt that was given up may still be at work
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, BLOCK_BYTES)

    def _forget(self, read: asyncio.Future[bytes]) -> None:
        self._reads.discard(read)
        if not read.cancelled():
            read.exception()  # looked at: nobody may be waiting for this block any more


Source = str | os.PathLike[str] | bytes | AudioSource


def stream_source(
    factory: BodyStream, *, content_length: int, filename: str, content_type: str | None = None
) -> StreamSource:
    """Return a source for audio that is neither a file nor in memory.

    Args:
        factory: called without arguments, once per attempt; returns an async iterator of bytes from the beginning.
        content_length: how many bytes that will be.
        filename: the name to give it, e.g. "song.ogg".
        content_type: inferred from `filename` if not given.

    Raises:
        SourceUnreadableError: `content_length` is not positive.
    """
    if content_length <= 0:
        raise SourceUnreadableError(f"{filename} is empty")
    return StreamSource(factory, content_length, filename, content_type or guess_content_type(filename))


async def build_source(
    source: Source, *, filename: str | None = None, content_type: str | None = None
) -> AudioSource | DirectURL:
    """Return the audio source that `source` means.

    Args:
        source: a path, bytes, an http(s) URL as text, or an `AudioSource` such as `stream_source` makes.
        filename: overrides the name; needed to infer the type of bytes.
        content_type: overrides the type inferred from the name.

    Raises:
        SourceUnreadableError: no such file, not a regular one, empty, or not permitted. Nothing was sent.
    """
    if isinstance(source, str) and urlsplit(source).scheme.lower() in ("http", "https"):
        return DirectURL(source)
    if isinstance(source, bytes | bytearray | memoryview):
        if not source:
            raise SourceUnreadableError(f"{filename or 'the audio'} is empty")
        name = filename or "audio"
        return BytesSource(bytes(source), name, content_type or guess_content_type(name))
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        size = await run_in_thread(_check_file, path)
        name = filename or os.fsencode(path.name).decode("utf-8", "replace")  # it need not be text
        return FileSource(path, size, name, content_type or guess_content_type(name))
    if not hasattr(source, "opened"):
        raise TypeError(f"a source is a path, bytes, a URL or an AudioSource, not {type(source).__name__}")
    return source


def _check_file(path: Path) -> int:
    """Return the size in bytes of a readable, regular, non-empty file."""
    size = 0
    try:
        status = path.stat()
        size = status.st_size
        problem = _unusable(path, status)
    except (OSError, ValueError) as error:
        problem = _why(error)
    if problem:
        raise SourceUnreadableError(f"cannot read {path}: {problem}")
    return size


def _unusable(path: Path, status: os.stat_result) -> str | None:
    if stat.S_ISDIR(status.st_mode):
        return "it is a folder"
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if status.st_size == 0:
        return "it is empty"
    return None if os.access(path, os.R_OK) else "permission denied"


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def guess_content_type(filename: str) -> str:
    """Return the media type that a file name suggests, `application/octet-stream` if none."""
    known = _TYPE_BY_SUFFIX.get(Path(filename).suffix.lower())
    return known or mimetypes.guess_type(filename)[0] or "application/octet-stream"


def source_name(source: AudioSource | DirectURL) -> str:
    """Return the file name a source goes by, possibly empty for a URL."""
    return filename_of_url(source.url) if isinstance(source, DirectURL) else source.filename
