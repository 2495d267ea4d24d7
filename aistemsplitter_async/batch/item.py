"""One source of a batch: its options, and what is known of it before anything is sent."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import attrs

from aistemsplitter_async._audio.examine import Examined, Length, examine, measure
from aistemsplitter_async._files import find_same, reason_of
from aistemsplitter_async._listeners import as_listener
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async._transfer.audio import AudioSource, BytesSource, Source, build_source, source_name
from aistemsplitter_async._transfer.file_source import FileSource, refuse_non_audio
from aistemsplitter_async._transfer.foreign import HEADER_TEXT, ForeignSource, add_to_hash
from aistemsplitter_async._transfer.meter import OnProgress
from aistemsplitter_async._transfer.names import ANY_STEM, check_name, folder_name, stem_file_name
from aistemsplitter_async._wire.credentials import parse_idempotency_key
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.errors import ConfigurationError, SourceChangedError, SourceUnreadableError, UnsafeNameError
from aistemsplitter_async.journal.record import AudioId
from aistemsplitter_async.journal.rows import Sighting, Stamp
from aistemsplitter_async.library.tags import measure_file
from aistemsplitter_async.models import DirectURL

_MAX_INTEGER = 2**63 - 1  # that SQLite can store; ext4 has times after the year 2262


def _text(_: object, attribute: attrs.Attribute[str], value: str | None) -> None:
    if value is not None and not (isinstance(value, str) and value):
        raise ConfigurationError(f"{attribute.name} must be text, not {value!r}")


def _inside(_: object, attribute: attrs.Attribute[str], value: str | None) -> None:
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{attribute.name} must be text, not {value!r}")
    try:
        for name in value.split("/") if value else ():
            check_name(name)
    except UnsafeNameError as error:
        raise ConfigurationError(
            f"{attribute.name} must be a path below `into` that every file system allows: {error}"
        ) from None


def _with_stem(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(f"{attribute.name} must be text, not {value!r}")
    try:
        stem_file_name("vocals", value)
    except UnsafeNameError as error:
        raise ConfigurationError(f"{attribute.name} must be a file name with {ANY_STEM} in it: {error}") from None


def _media_type(_: object, attribute: attrs.Attribute[str], value: str | None) -> None:
    if value is not None and not (isinstance(value, str) and HEADER_TEXT.fullmatch(value)):
        raise ConfigurationError(f"{attribute.name} must be a media type, not {value!r}")


def _usable_key(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(f"{attribute.name} must be text, not {value!r}")
    parse_idempotency_key(value)


def _listens(_: object, attribute: attrs.Attribute[OnProgress], value: OnProgress) -> None:
    as_listener(value, attribute.name)


def _possible_length(_: object, attribute: attrs.Attribute[float], value: float | None) -> None:
    if value is not None and not (_is_number(value) and 0 < value < math.inf):  # nor NaN
        raise ConfigurationError(f"{attribute.name} must be more than 0, not {value!r}; leave out what is not known")


def _possible_time(_: object, attribute: attrs.Attribute[float], value: float | None) -> None:
    if value is not None and not (_is_number(value) and not math.isnan(value)):
        raise ConfigurationError(f"{attribute.name} must be a number of seconds, not {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@attrs.frozen(kw_only=True)
class BatchItem:
    """A source with options of its own; `split_many` takes them among plain sources.

    Attributes:
        source: a path, bytes, an `https` URL, or the result of `stream_source`.
        folder: where its stems go, relative to `into`, with `/` between parts, empty for `into` itself; by
            default its name without extension.
        pattern: how their files are called, with `{stem}`; the extension is added.
        seconds: its length, which `max_credits` needs where none can be measured: of a URL, a stream, a file of an
            unknown format. Otherwise what the file itself says counts, unless this is more.
        filename: the name to send; by default the file's own.
        content_type: by default inferred from the name.
        idempotency_key: of its first create; by default a random one.
        on_progress: a listener, called with a `Progress` as its bytes move, up and down.
        timeout: seconds it may take in all; its split, if there is one by then, continues at the server.
        anew: whether to split it, and pay for it, again even if the journal has it as finished.
    """

    source: Source
    folder: str | None = attrs.field(default=None, validator=_inside)
    pattern: str = attrs.field(default=ANY_STEM, validator=_with_stem)
    seconds: float | None = attrs.field(default=None, validator=_possible_length)
    filename: str | None = attrs.field(default=None, validator=_text)
    content_type: str | None = attrs.field(default=None, validator=_media_type)
    idempotency_key: str | None = attrs.field(default=None, validator=attrs.validators.optional(_usable_key))
    on_progress: OnProgress | None = attrs.field(default=None, validator=_listens)
    timeout: float | None = attrs.field(default=None, validator=_possible_time)
    anew: bool = False


@attrs.frozen
class OpenedItem:
    """A readable source, for a file with the stamp that shows whether it changes from here on."""

    audio: AudioSource | DirectURL
    label: str
    folder: str
    path: Path | None = None
    stamp: Stamp | None = None

    async def check_unchanged(self) -> None:
        """Check that the file has not changed since it was opened.

        Raises:
            SourceChangedError: it has, or it is gone.
        """
        if self.path is not None and await run_in_thread(_stamp, self.path) != self.stamp:
            raise SourceChangedError(f"{self.path} changed while it was being uploaded; nothing was split")

    async def measure(self) -> Length:
        """Return how long its audio is, as its bytes say; of a URL or a stream that is not known.

        Raises:
            SourceUnreadableError, SourceChangedError: it cannot be read.
        """
        if self.path is not None:
            length = await run_in_thread(_measure_file, self.path)
            await self.check_unchanged()
            return length
        if isinstance(self.audio, BytesSource):
            return await run_in_thread(measure, BytesIO(self.audio.data))
        return Length(None, None)

    def pinned(self, content: str | None) -> OpenedItem:
        """Return it with a stream that fails unless it yields the same bytes again; for a file, its stamp is enough."""
        audio = self.audio
        return (
            attrs.evolve(self, audio=attrs.evolve(audio, content=content)) if isinstance(audio, ForeignSource) else self
        )

    async def identify(self) -> AudioId:
        """Return what identifies this audio under any name.

        A stream cannot be read out of order, which its format may need: only its bytes identify it.

        Raises:
            SourceUnreadableError, SourceChangedError: it cannot be read to its end, or is a file that cannot be audio.
        """
        if isinstance(self.audio, DirectURL):
            return AudioId(None, f"url:{self.audio.url}")
        if self.path is not None:
            examined = await run_in_thread(_examine_file, self.path, self.audio.content_type)
            await self.check_unchanged()
            return AudioId(examined.content, examined.identity)
        if isinstance(self.audio, BytesSource):
            examined = await run_in_thread(examine, BytesIO(self.audio.data))
            return AudioId(examined.content, examined.identity)
        hasher = hashlib.sha256()
        async with self.audio.opened() as body:
            async for block in body():
                await add_to_hash(hasher, block)
        return AudioId(f"sha256:{hasher.hexdigest()}", None)

    def sighted(self, audio: AudioId, pattern: str) -> Sighting:
        """Return it as the journal looks for its row."""
        return Sighting(
            audio=audio,
            source=self.label,
            stamp=self.stamp,
            settled=self.stamp is None or self.stamp.is_settled(time.time()),  # by the clock of the file system
            folder=self.folder,
            pattern=pattern,
            split_input=self.audio if isinstance(self.audio, DirectURL) else None,
        )


async def open_item(
    item: BatchItem, own_files: Sequence[Path] = (), *, clock: Clock | None = None, stall: float | None = None
) -> OpenedItem:
    """Open a source; return what is known of it before anything is sent.

    Args:
        item: the source.
        own_files: those of the journal, whose first is the journal itself; they are no sources, and not opened.
        clock: see `build_source`.
        stall: see `build_source`.

    Raises:
        SourceUnreadableError: it cannot be read; nothing was sent.
    """
    audio = await build_source(
        item.source, filename=item.filename, content_type=item.content_type, clock=clock, stall=stall
    )
    name = source_name(audio)
    folder = item.folder if item.folder is not None else folder_name(name, fallback="split")
    if isinstance(audio, DirectURL):
        return OpenedItem(audio, audio.url, folder)
    if not isinstance(audio, FileSource):
        return OpenedItem(audio, name, folder)
    path = audio.path.absolute()  # does not touch the disk
    return OpenedItem(audio, label(str(path)), folder, path, await run_in_thread(_stamp_source, path, own_files))


def label(source: str) -> str:
    """Return a path or URL as text to be shown: a file's name need not be text."""
    return source.encode("utf-8", "backslashreplace").decode()


def _stamp_source(path: Path, own_files: Sequence[Path]) -> Stamp | None:
    own = find_same(path, own_files)
    if own is not None:
        what = "is" if own == own_files[0] else "belongs to"
        raise SourceUnreadableError(f"cannot split {path}: it {what} the journal of this batch, {own_files[0]}")
    return _stamp(path)


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_size, *(at & _MAX_INTEGER for at in (status.st_mtime_ns, status.st_ctime_ns)))


def _examine_file(path: Path, content_type: str) -> Examined:
    try:
        with path.open("rb") as file:
            refuse_non_audio(file, str(path), content_type)
            return examine(file)
    except OSError as error:
        raise SourceUnreadableError(f"cannot read {path}: {reason_of(error)}") from None


def _measure_file(path: Path) -> Length:
    try:
        return measure_file(path)
    except OSError as error:
        raise SourceUnreadableError(f"cannot read {path}: {reason_of(error)}") from None
