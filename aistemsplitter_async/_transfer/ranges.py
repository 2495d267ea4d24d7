"""Resuming a download: what to ask for, and whether the answer fits what is already here.

RFC 9110 sections 13.1.5 (If-Range), 14.2 (Range) and 14.4 (Content-Range).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from aistemsplitter_async._transfer.contents import read_codings
from aistemsplitter_async.errors import IncompleteDownloadError

_OK = 200
_PARTIAL = 206
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.IGNORECASE | re.ASCII)
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_STRONG_ETAG = re.compile(
    r'"[!#-~\x80-\uffff]{1,254}"'
)  # a header may have 64 KiB; the manifest keeps hundreds of them


@attrs.frozen(kw_only=True)
class Held:
    """The part that is here already: `offset` bytes of a file that had this strong `etag` and `total` length."""

    offset: int = 0
    etag: str | None = None
    total: int | None = None

    @property
    def is_resumable(self) -> bool:
        """Return whether the rest can be asked for without risking a mixture of two files."""
        return self.offset > 0 and self.etag is not None and self.total is not None and self.offset < self.total


@attrs.frozen(kw_only=True)
class Incoming:
    """The content of an answer: bytes of a file, from `start` on.

    Attributes:
        start: where in the file.
        length: how many bytes are to come, as they are sent; `None` if a chunked body only marks its end.
        total: the file's length; `None` if only the end will tell.
        etag: a strong validator of its bytes, as they are kept.
        codings: what may have to be decoded, see `contents.read_codings`.
    """

    start: int
    length: int | None
    total: int | None
    etag: str | None
    codings: tuple[str, ...] = ()


def build_range_headers(held: Held) -> dict[str, str]:
    """Return the headers that ask for the rest of what is held, or for everything."""
    if not held.is_resumable or held.etag is None:
        return {}
    return {"Range": f"bytes={held.offset}-", "If-Range": held.etag}


def read_incoming(status: int, headers: Mapping[str, str], held: Held) -> Incoming:
    """Return which bytes a 2xx answer contains.

    Raises:
        IncompleteDownloadError: the file's length is unknown, or the answer does not fit what is held.
    """
    codings = read_codings(headers.get("content-encoding", ""))
    etag = read_etag(headers)
    length = headers.get("content-length", "")
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    if not chunked and not _LENGTH.fullmatch(length):
        raise IncompleteDownloadError(
            "the server does not say how long the file is, so it cannot be known whether it is whole"
        )
    if status == _OK:
        sent = None if chunked else int(length)
        if codings:  # neither the length nor the validator is that of the bytes that will be kept
            return Incoming(start=0, length=sent, total=None, etag=None, codings=codings)
        return Incoming(start=0, length=sent, total=sent, etag=etag)
    if status != _PARTIAL or not held.is_resumable or codings:  # the middle does not show whether it is encoded
        raise IncompleteDownloadError(f"the server answered {status}{_describe(codings)} instead of the file")
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    first, last, total = (int(number) for number in match.groups()) if match else (-1, -1, -1)
    fits = first == held.offset and total == held.total and last == total - 1 and etag == held.etag
    if not fits or (not chunked and int(length) != total - held.offset):
        raise IncompleteDownloadError("the server sent another part of the file than the one asked for")
    return Incoming(start=held.offset, length=total - held.offset, total=total, etag=held.etag)


def _describe(codings: tuple[str, ...]) -> str:
    return f" with Content-Encoding {', '.join(codings)}" if codings else ""


def read_etag(headers: Mapping[str, str]) -> str | None:
    """Return the strong validator of a reply; a weak one does not promise the same bytes."""
    etag = headers.get("etag", "").strip()
    return etag if _STRONG_ETAG.fullmatch(etag) else None
