"""Stems as stores, proxies and frameworks send them: bytes on a socket, written by hand."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import AsyncAIStemSplitter, DownloadError, IncompleteDownloadError, Split
from aistemsplitter_async.config import RetryPolicy, Timeouts
from tests.e2e.raw import KEY, answer, head, listening, read_request

STEM = b"RIFF" + random.Random(1).randbytes(3_000_000)  # noqa: S311  # the same every time
ETAG = 'ETag: "v1"'


def chunked(raw: bytes, *lines: str, end: bytes = b"0\r\n\r\n") -> bytes:
    chunks = (raw[start : start + 100_000] for start in range(0, len(raw), 100_000))
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head("200 OK", "Transfer-Encoding: chunked", *lines) + coded + end


@asynccontextmanager
async def stems(answers: Sequence[bytes]) -> Any:
    """Serve `answers` in turn, the last one for ever, each on a connection of its own; yield a URL and the requests."""
    left, got = list(answers), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await read_request(reader))
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    async with listening(serve) as port:
        yield f"http://127.0.0.1:{port}/vocals.wav", got


async def fetch(into: Path, *answers: bytes, seconds: float | None = 60.0) -> tuple[bytes, list[Any]]:
    async with stems(answers) as (url, got):
        split = Split(
            id="split_1", status="succeeded", filename="a.wav", duration_seconds=seconds, stems={"vocals": url}
        )
        timeouts, retry = Timeouts(stall=5.0), RetryPolicy().scaled(0.001)
        async with AsyncAIStemSplitter(KEY, base_url=url, timeouts=timeouts, retry=retry) as client:
            files = await client.download_stems(split, into)
        return files["vocals"].read_bytes(), got


LABELS = [
    *(["Content-Encoding: "], ["Content-Encoding: aws-chunked"], ["Content-Encoding: utf-8"]),
    *(["Content-Encoding: identity", "Content-Encoding: identity"], ["Content-Encoding: binary, identity"]),
    *(["Content-Encoding: gzip"], ["Content-Encoding: br"], ["Content-Encoding: zstd, gzip"]),  # but it is a WAV
]


@pytest.mark.parametrize("frame", [answer, chunked], ids=["length", "chunked"])
@pytest.mark.parametrize("label", LABELS, ids=lambda label: "; ".join(line[18:] for line in label))
async def test_intact_bytes_are_kept_whatever_they_are_called(
    tmp_path: Path, label: list[str], frame: Callable[..., bytes]
) -> None:
    assert (await fetch(tmp_path, frame(STEM, *label)))[0] == STEM


@pytest.mark.parametrize("frame", [answer, chunked], ids=["length", "chunked"])
async def test_gzip_is_decoded(tmp_path: Path, frame: Callable[..., bytes]) -> None:
    packed = gzip.compress(STEM)
    whole = frame(packed, "Content-Encoding: gzip", ETAG)
    kept, got = await fetch(tmp_path, whole[: len(whole) // 2], whole)
    assert kept == STEM
    assert all("range" not in one.headers for one in got), "never the rest of something encoded"


async def test_what_is_intact_but_labelled_goes_on_where_it_broke(tmp_path: Path) -> None:
    whole = answer(STEM, "Content-Encoding: aws-chunked", ETAG)
    kept = len(STEM) - 1_000_000
    rest = head(
        "206 Partial Content",
        f"Content-Range: bytes {kept}-{len(STEM) - 1}/{len(STEM)}",
        f"Content-Length: {len(STEM) - kept}",
        "Content-Encoding: aws-chunked",
        ETAG,
    )
    found, got = await fetch(tmp_path, whole[:-1_000_000], rest + STEM[kept:])
    assert found == STEM
    assert got[1].headers["range"] == f"bytes={kept}-"


@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        (answer(b"\x1b\x0f\x00 brotli and more", "Content-Encoding: br"), DownloadError, "'br'"),
        (answer(b"\x28\xb5\x2f\xfd zstd and more", "Content-Encoding: zstd"), DownloadError, "'zstd'"),
        (answer(b""), IncompleteDownloadError, "nothing"),
        (answer(b"<!doctype html><title>502</title>"), IncompleteDownloadError, "page"),
        (chunked(b""), IncompleteDownloadError, "nothing"),
        (lambda: chunked(bytes(70 << 20)), DownloadError, "longer"),
        (head("200 OK", f"Content-Length: {1 << 40}"), DownloadError, "longer"),
    ],
    ids=["br", "zstd", "empty", "page", "no chunks", "too long", "too long, announced"],
)
async def test_what_is_no_stem_leaves_nothing(
    tmp_path: Path, bad: bytes | Callable[[], bytes], error: type[DownloadError], match: str
) -> None:
    with pytest.raises(error, match=match):
        await fetch(tmp_path, bad() if callable(bad) else bad, seconds=1.0)
    assert [path.name for path in (tmp_path / "a").iterdir() if path.stat().st_size > 300] == []
    assert not list(tmp_path.rglob("*.wav"))
