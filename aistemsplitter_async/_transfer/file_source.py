"""Audio in a file, which may change while it is read."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import attrs

from aistemsplitter_async._audio.non_audio import what_else
from aistemsplitter_async._files import reason_of
from aistemsplitter_async._tasks import run_in_thread, wait_out
from aistemsplitter_async._wire.messages import BodyStream
from aistemsplitter_async.errors import SourceChangedError, SourceUnreadableError

# Measured with `benchmarks/upload.py`: every block costs a trip to a thread, so 64 KiB ones reach less than half the
# speed of 1 MiB ones; larger ones gain nothing that can be told from noise, and cost memory.
BLOCK_BYTES = 1024 * 1024
_FETCHED_ON_READ = 0x40000000  # SF_DATALESS of macOS: what a cloud has of it comes as it is read
_FINDS_DATA = hasattr(os, "SEEK_DATA")  # not so on Windows, whose clouds fetch what is read
_MAYBE_AUDIO = ("audio/", "video/", "application/ogg")


@attrs.frozen
class FileSource:
    """A regular file. `content_length` is the size it had when it was first examined."""

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
            await run_in_thread(reader.refuse_non_audio, self.content_type)
            yield lambda: self._read(reader, before)
        finally:
            await reader.aclose()

    async def _read(self, reader: _BlockReader, before: _Fingerprint) -> AsyncIterator[bytes]:
        """Read the file from its start, the next block while the last one is on its way.

        The last block is handed over only once the file is known to be unchanged.
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
    """Identifies a version of a file. The content is not compared: an edit changes one of these."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class _BlockReader:
    """One descriptor, read in threads, and closed only when no thread is using it any more.

    If it were closed too early, its number might already belong to another file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._reads: set[asyncio.Future[bytes]] = set()
        try:
            # Not blocking: the path was a regular file a moment ago, but may be a pipe now.
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            raise SourceUnreadableError(f"cannot read {path}: {reason_of(error)}") from None
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self.close()
            raise SourceUnreadableError(f"cannot read {path}: it is not a regular file")

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
        """Return the block that `start` began to read; empty at the end of the file."""
        await asyncio.wait([read])  # leaves it running if we are cancelled: its thread cannot be stopped
        try:
            return read.result()
        except OSError as error:
            raise SourceUnreadableError(f"cannot read {self._path}: {reason_of(error)}") from None

    async def aclose(self) -> None:
        try:
            await wait_out(*self._reads)
        finally:
            self.close()

    def refuse_non_audio(self, content_type: str) -> None:
        """Raise `SourceUnreadableError` for a file that cannot be audio."""
        with self._turn, os.fdopen(os.dup(self._descriptor), "rb") as file:
            refuse_non_audio(file, str(self._path), content_type)

    def _read_block(self, offset: int) -> bytes:
        with self._turn:  # a read of an abandoned attempt may still be running
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, BLOCK_BYTES)

    def _forget(self, read: asyncio.Future[bytes]) -> None:
        self._reads.discard(read)
        if not read.cancelled():
            read.exception()  # retrieve it: the attempt that wanted this block may be over


def refuse_non_audio(file: BinaryIO, name: str, content_type: str, *, is_unnamed: bool = False) -> None:
    """Refuse what cannot be audio before anything is sent: a web page under the name of a song, a list of songs.

    Text is refused unless its name says that it is audio; of bytes with no name, nothing says that they are not.

    Raises:
        SourceUnreadableError: it is certain; `code` is `NOT_AUDIO`.
    """
    try:
        other = what_else(file, named_audio=content_type.startswith(_MAYBE_AUDIO) or is_unnamed)
    except OSError as error:
        raise SourceUnreadableError(f"cannot read {name}: {reason_of(error)}") from None
    if other is not None:
        raise SourceUnreadableError(f"cannot split {name}: it is not audio but {other}", code="NOT_AUDIO")


def _check_file(path: Path) -> int:
    """Return the size in bytes of a readable, regular, non-empty file."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise SourceUnreadableError(f"cannot read {path}: {reason_of(error)}") from None
    if problem := _unusable(path, status):
        raise SourceUnreadableError(f"cannot read {path}: {problem}")
    return status.st_size


def _unusable(path: Path, status: os.stat_result) -> str | None:
    if stat.S_ISDIR(status.st_mode):
        return "it is a folder"
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if status.st_size == 0:
        return "it is empty"
    if not os.access(path, os.R_OK):
        return "permission denied"
    return "nothing of it is on this disk; download it first" if _is_hollow(path, status) else None


def _is_hollow(path: Path, status: os.stat_result) -> bool:
    """Return whether a file is all hole: it stands in for one in a cloud, or a download has reserved its space."""
    if getattr(status, "st_blocks", 1) or getattr(status, "st_flags", 0) & _FETCHED_ON_READ or not _FINDS_DATA:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # reported where it is read
        return False
    try:
        os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    finally:
        os.close(descriptor)
    return False
