"""Turns the `input` of a create into a stored audio file and its length."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import attrs

from aistemsplitter_async.sandbox.service.account import Account
from aistemsplitter_async.sandbox.service.core import ServiceCore
from aistemsplitter_async.sandbox.service.errors import InvalidRequestError
from aistemsplitter_async.sandbox.service.limits import UNSTATED_SECONDS
from aistemsplitter_async.sandbox.service.requests import DirectURL, UploadedFile
from aistemsplitter_async.sandbox.service.separator import SeparationError
from aistemsplitter_async.sandbox.service.state import Upload
from aistemsplitter_async.sandbox.service.uploads import Uploads

_LONGEST = 1e6  # seconds; eleven days of audio is a typo


class Fetcher(Protocol):
    """Gets the file behind a URL."""

    async def fetch(self, url: str, target: Path) -> None:
        """Write the file to `target`.

        Raises:
            InvalidRequestError: The URL must not be requested, its server did not answer, or the answer is not audio.
        """
        ...


@attrs.frozen
class SplitSource:
    """Audio to split: its name in the storage (empty in silent mode), its name for people, its length in seconds."""

    name: str
    filename: str
    seconds: float
    upload: Upload | None = None


class Sources:
    """Finds uploads and fetches URLs; in silent mode nothing is fetched."""

    def __init__(self, core: ServiceCore, uploads: Uploads, fetcher: Fetcher) -> None:
        self._core = core
        self._uploads = uploads
        self._fetcher = fetcher

    async def obtain(self, account: Account, wanted: DirectURL | UploadedFile, split_id: str) -> SplitSource:
        """Return the source of a split.

        Raises:
            InvalidRequestError: It cannot be fetched or decoded, or is not an upload of this account.
            StorageFullError: There is no space for it.
        """
        if isinstance(wanted, UploadedFile):
            upload, seconds = await self._uploads.resolve(account, wanted)
            return SplitSource(upload.id, upload.filename, seconds, upload)
        filename = unquote(PurePosixPath(urlsplit(wanted.url).path).name) or "audio"
        if self._core.settings.silent:
            return SplitSource("", filename, _stated_seconds(wanted.url))
        storage = self._core.storage
        target = storage.source_path(split_id)
        try:
            await self._fetcher.fetch(wanted.url, target)
            storage.book(split_id, target.stat().st_size)
            return SplitSource(split_id, filename, await self._core.separator.probe(target))
        except BaseException as error:
            storage.drop_source(split_id)
            if isinstance(error, SeparationError):
                raise InvalidRequestError(f"input.url cannot be decoded: {error}") from None
            raise

    def discard(self, source: SplitSource) -> None:
        """Release a source whose split was not created; an upload stays, and may even be repeated."""
        if source.upload is not None:
            source.upload.splits -= 1
        elif source.name:
            self._core.storage.drop_source(source.name)

    def find_upload(self, upload_id: str | None) -> Upload | None:
        """Return the upload that a split was made from, if it is still known."""
        return None if upload_id is None else self._uploads.find(upload_id)


def _stated_seconds(url: str) -> float:
    # Nothing is fetched, so the URL itself may say how long the audio is.
    try:
        seconds = float(parse_qs(urlsplit(url).query)["seconds"][0])
    except (KeyError, ValueError):
        return UNSTATED_SECONDS
    return seconds if 0 < seconds < _LONGEST else UNSTATED_SECONDS
