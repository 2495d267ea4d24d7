"""From the `input` of a create to a stored audio file and its length."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import attrs

from aistemsplitter_async.sandbox.service.limits import UNSTATED_SECONDS
from aistemsplitter_async.sandbox.service.requests import DirectURL, RefusalError, UploadedFile, invalid
from aistemsplitter_async.sandbox.service.separator import SeparationError
from aistemsplitter_async.sandbox.service.state import Upload
from aistemsplitter_async.sandbox.service.storage import StorageFullError

if TYPE_CHECKING:
    from pathlib import Path

    from aistemsplitter_async.sandbox.service.account import Account
    from aistemsplitter_async.sandbox.service.separator import Separator
    from aistemsplitter_async.sandbox.service.storage import Storage
    from aistemsplitter_async.sandbox.service.uploads import Uploads


_LONGEST = 1e6  # seconds; eleven days of audio is a typo


@attrs.frozen
class Source:
    """Audio to be split: its name in the storage (empty in silent mode), its name for people, its length in seconds."""

    name: str
    filename: str
    seconds: float
    upload: Upload | None = None


class Sources:
    """Finds or fetches sources. `fetcher` is `None` where a `direct_url` is not fetched (silent mode)."""

    def __init__(self, *, uploads: Uploads, storage: Storage, separator: Separator, fetcher: Fetcher | None) -> None:
        self._uploads = uploads
        self._storage = storage
        self._separator = separator
        self._fetcher = fetcher

    async def obtain(self, account: Account, wanted: DirectURL | UploadedFile, split_id: str) -> Source:
        """Return the source of a split; refuse with 422 one that cannot be had, decoded, or does not belong."""
        if isinstance(wanted, UploadedFile):
            upload, seconds = await self._uploads.resolve(account, wanted)
            return Source(upload.id, upload.filename, seconds, upload)
        filename = unquote(PurePosixPath(urlsplit(wanted.url).path).name) or "audio"
        if self._fetcher is None:
            return Source("", filename, _stated_seconds(wanted.url))
        target = self._storage.source_path(split_id)
        try:
            await self._fetcher.fetch(wanted.url, target)
            self._storage.book(split_id, target.stat().st_size)
            return Source(split_id, filename, await self._separator.probe(target))
        except BaseException as error:
            self._storage.drop_source(split_id)
            if isinstance(error, SeparationError):
                raise invalid(f"input.url cannot be decoded: {error}") from None
            if isinstance(error, StorageFullError):
                raise RefusalError(500, "SERVER_ERROR", str(error)) from None
            raise

    def discard(self, source: Source) -> None:
        """Let go of a source that no split came of; an upload stays, and may even be repeated."""
        if source.upload is not None:
            source.upload.splits -= 1
        elif source.name:
            self._storage.drop_source(source.name)

    def find_upload(self, upload_id: str | None) -> Upload | None:
        """Return the upload a split was made of, if it was one and is still known."""
        return None if upload_id is None else self._uploads.find(upload_id)


def _stated_seconds(url: str) -> float:
    # Nothing is fetched, so the URL itself may say how long the audio is meant to be.
    try:
        seconds = float(parse_qs(urlsplit(url).query)["seconds"][0])
    except (KeyError, ValueError):
        return UNSTATED_SECONDS
    return seconds if 0 < seconds < _LONGEST else UNSTATED_SECONDS


class Fetcher(Protocol):
    """Gets the file behind a URL."""

    async def fetch(self, url: str, target: Path) -> None:
        """Write the file to `target`; raise `RefusalError` with 422 where that cannot be done."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...
