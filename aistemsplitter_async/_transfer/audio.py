"""Sources of audio: bytes of known length that can be read again from the start, or a URL.

An upload may have to start over, so a source is opened once and read as often as needed. A file stays open as one
descriptor in between, and is compared with its earlier state: aiohttp would hang on a file that shrinks and silently
send a part of one that grows.
"""

from __future__ import annotations

import io
import mimetypes
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import attrs

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.binary_file import BinaryFile, is_file_object
from aistemsplitter_async._transfer.file_object import open_file_object
from aistemsplitter_async._transfer.file_source import BLOCK_BYTES, FileSource, _check_file, refuse_non_audio
from aistemsplitter_async._transfer.foreign import ForeignSource, guard
from aistemsplitter_async._wire.inputs import parse_input
from aistemsplitter_async._wire.messages import BodyStream
from aistemsplitter_async._wire.urls import filename_of_url, is_url
from aistemsplitter_async.clock import Clock, SystemClock
from aistemsplitter_async.config import Timeouts
from aistemsplitter_async.errors import ConfigurationError, SourceUnreadableError
from aistemsplitter_async.models import DirectURL, UploadedFile, redact_url

_TYPE_BY_SUFFIX = {  # unknown to `mimetypes` on some systems, or named after the container rather than the audio
    ".aac": "audio/aac",
    ".aif": "audio/aiff",
    ".aiff": "audio/aiff",
    ".flac": "audio/flac",
    ".m2ts": "video/mp2t",
    ".m4a": "audio/mp4",
    ".mkv": "video/x-matroska",
    ".mp3": "audio/mpeg",
    ".mts": "video/mp2t",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".ts": "video/mp2t",  # and not a translation by Qt
    ".wav": "audio/wav",
    ".wma": "audio/x-ms-wma",
    ".wv": "audio/x-wavpack",  # and not a page for WAP
}


_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class AudioSource(Protocol):
    """Bytes to upload. `build_source` makes one from a caller's argument."""

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
            SourceUnreadableError: it cannot be opened, or (`code` is `NOT_AUDIO`) its content cannot be audio.
            SourceChangedError: while reading, if it has changed.
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

    The factory is called once per attempt, so a retry can start over. What it yields is checked by `foreign`.
    """

    factory: BodyStream
    content_length: int
    filename: str
    content_type: str

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BodyStream]:
        yield self.factory


Source = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | AudioSource | DirectURL | Mapping[str, Any]
)


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
        ConfigurationError: `factory` is not a function.
    """
    if not callable(factory):
        raise ConfigurationError(
            f"a stream is given as a function that opens it, again for each attempt, not as {type(factory).__name__}"
        )
    if isinstance(content_length, int) and content_length <= 0:
        raise SourceUnreadableError(f"{filename} is empty")
    return StreamSource(factory, content_length, filename, content_type or guess_content_type(filename))


async def build_source(
    source: Source,
    *,
    filename: str | None = None,
    content_type: str | None = None,
    clock: Clock | None = None,
    stall: float | None = None,
) -> AudioSource | DirectURL:
    """Return the audio source for a caller's `source`. Nothing that the result does raises anything but our errors.

    Args:
        source: a path, bytes, a binary file object, an http(s) URL, or an `AudioSource`, for example from
            `stream_source`.
        filename: overrides the name; needed to infer the type of bytes.
        content_type: overrides the type inferred from the name.
        clock: where time comes from.
        stall: seconds in which a source that is other people's code must yield something; see `Timeouts.stall`.

    Raises:
        SourceUnreadableError: it is no source, no such file, not a regular one, empty, or not permitted; `code` is
            `NOT_FETCHED` for an address such as one of FTP, and `NOT_AUDIO` for bytes and file objects that cannot be
            audio, which of a path is told when it is opened. Nothing was sent.
    """
    clock, stall = clock or SystemClock(), Timeouts().stall if stall is None else stall
    if isinstance(source, BytesSource | FileSource | ForeignSource | DirectURL):
        return source
    if isinstance(source, Mapping | UploadedFile):
        return _parse_direct(source)
    if isinstance(source, str) and _is_url(source):
        return DirectURL(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _build_bytes(await _copy(source, filename or "audio"), filename or "audio", content_type)
    if isinstance(source, str | os.PathLike):
        path = _as_path(source)
        try:
            size = await run_in_thread(_check_file, path)
        except SourceUnreadableError:
            if isinstance(source, str) and (scheme := _SCHEME.match(source)):
                raise _build_not_fetched(source, scheme[0]) from None
            raise
        name = filename or os.fsencode(path.name).decode("utf-8", "replace")  # a file name need not be text
        return FileSource(path, size, name, content_type or guess_content_type(name))
    foreign: object = source
    if is_file_object(source):
        foreign = await open_file_object(
            source, filename=filename, content_type=content_type, guess=guess_content_type, clock=clock, stall=stall
        )
    return guard(
        foreign, filename=filename, content_type=content_type, guess=guess_content_type, clock=clock, stall=stall
    )


def _parse_direct(source: Mapping[str, object] | UploadedFile) -> DirectURL:
    try:
        parsed = source if isinstance(source, UploadedFile) else parse_input(source)
    except ConfigurationError as error:
        raise SourceUnreadableError(f"this dict is no source: {error}") from None
    except Exception as error:  # a mapping of other people's making
        raise SourceUnreadableError(
            f"cannot read the {type(source).__name__}: it raised {type(error).__name__}"
        ) from error
    if isinstance(parsed, DirectURL):
        return parsed
    raise SourceUnreadableError("what is uploaded already is no source; give it to create_split")


def _is_url(source: str) -> bool:
    try:
        if urlsplit(source).scheme.lower() not in ("http", "https"):
            return False
        if source.isprintable():
            return True
        problem = "it contains unprintable characters"
    except ValueError as error:  # a bracket, or a character that some take for another one
        if not is_url(source):
            return False
        problem = str(error)
    raise SourceUnreadableError(f"{redact_url(source)!a} is not a URL: {problem}")


def _build_not_fetched(source: str, scheme: str) -> SourceUnreadableError:
    way = "give the file's path" if scheme.lower() == "file://" else "download it, and give the file's path"
    reason = f"of addresses, only https:// is fetched by the API, not {scheme.lower()}"
    return SourceUnreadableError(f"cannot read {redact_url(source)}: {reason}; {way}", code="NOT_FETCHED")


async def _copy(data: bytes | bytearray | memoryview, name: str) -> bytes:
    """Return a copy of what may be changed."""
    try:
        if isinstance(data, bytes):
            return data
        return await copy_bytes(memoryview(data))
    except ValueError as error:  # of a memoryview that was released
        raise SourceUnreadableError(f"cannot read {name}: {error}") from None


async def copy_bytes(view: memoryview) -> bytes:
    """Return a copy of a buffer; a large one is made in a thread."""
    if view.nbytes <= BLOCK_BYTES or not view.c_contiguous:
        return bytes(view)
    with view.cast("B") as content:  # released here, or the buffer could not change afterwards
        return await run_in_thread(_copy_blocks, content)


def _copy_blocks(view: memoryview) -> bytes:
    """Copy block by block: in one step it would hold up all threads, the event loop's among them."""
    return b"".join([bytes(view[start : start + BLOCK_BYTES]) for start in range(0, len(view), BLOCK_BYTES)])


def _build_bytes(data: bytes, name: str, content_type: str | None) -> BytesSource:
    if not data:
        raise SourceUnreadableError(f"{name} is empty")
    kind = content_type or guess_content_type(name)
    refuse_non_audio(io.BytesIO(data), name, kind, is_unnamed=kind == "application/octet-stream")
    return BytesSource(data, name, kind)


def _as_path(source: str | os.PathLike[str]) -> Path:
    try:
        return Path(source)
    except Exception as error:  # a path of other people's making
        raise SourceUnreadableError(
            f"cannot read the {type(source).__name__}: as a path it raised {type(error).__name__}"
        ) from error


def guess_content_type(filename: str) -> str:
    """Return the media type that a file name suggests, `application/octet-stream` if none."""
    known = _TYPE_BY_SUFFIX.get(Path(filename).suffix.lower())
    return known or mimetypes.guess_type(filename)[0] or "application/octet-stream"


def source_name(source: AudioSource | DirectURL) -> str:
    """Return the file name a source goes by, possibly empty for a URL."""
    return filename_of_url(source.url) if isinstance(source, DirectURL) else source.filename
