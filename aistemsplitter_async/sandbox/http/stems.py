"""A stem as an answer: the whole file, or the part of it that `Range` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aistemsplitter_async.sandbox.http.ranges import plan_slice
from aistemsplitter_async.sandbox.http.replies import FilePart, Reply
from aistemsplitter_async.sandbox.separation.silence import build_silence
from aistemsplitter_async.sandbox.service.state import Split, Stem
from aistemsplitter_async.sandbox.service.storage import Storage

_CONTENT_TYPES: Final = {"wav": "audio/wav", "mp3": "audio/mpeg"}


def build_stem_reply(
    request_headers: Mapping[str, str],
    storage: Storage,
    split: Split,
    stem: Stem,
    more: Mapping[str, str],
    *,
    etag: str,
) -> Reply:
    """Return a stem, or a part of it, with `more` headers; `etag` is its validator, without quotes."""
    part = plan_slice(request_headers, stem.size_bytes, f'"{etag}"')
    stop = part.start + part.length
    headers = {
        "ETag": f'"{etag}"',
        "Accept-Ranges": "bytes",
        "Content-Type": _CONTENT_TYPES.get(split.output_format, "application/octet-stream"),
        **more,
    }
    if part.status == 206:  # noqa: PLR2004  Partial Content
        headers["Content-Range"] = f"bytes {part.start}-{stop - 1}/{stem.size_bytes}"
    elif part.status == 416:  # noqa: PLR2004  Range Not Satisfiable
        headers["Content-Range"] = f"bytes */{stem.size_bytes}"
    path = storage.stem_folder(split.id) / stem.filename
    if path.exists():
        return Reply(part.status, FilePart(path, part.start, part.length), headers)
    return Reply(part.status, build_silence(split.output_format)[part.start : stop], headers)
