"""What a body is: its first bytes decide, whatever the header says."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given, settings, strategies as st

from aistemsplitter_async._transfer import contents
from aistemsplitter_async._transfer.contents import Body, check_stem, longest_stem, read_codings
from aistemsplitter_async.config import STEM_CAP_BYTES
from aistemsplitter_async.errors import DownloadError, IncompleteDownloadError

WAV = b"RIFF\x24\x10\x00\x00WAVEfmt " + bytes(range(256)) * 40


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def decode(header: str, body: bytes, step: int = 1 << 20) -> bytes:
    """Return what is kept of a body that comes in pieces of `step` bytes."""
    decoder = Body(read_codings(header))
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    return b"".join([*read(decoder, pieces), *decoder.decode(b"", last=True)])


def read(decoder: Body, pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        for part in decoder.decode(piece):
            assert 0 < len(part) <= max(len(piece) + 16, contents._PIECE_BYTES)
            yield bytes(part)


NO_CODING = [
    *("", "identity", "identity, identity", ",", " , ", "IDENTITY", "none", "null", "aws-chunked", "aws-chunked,"),
    *("utf-8", "UTF-8, utf-8", "binary", "7bit", "8bit", "wav", "audio/wav", "aws-chunked, identity", "x" * 60_000),
]


@pytest.mark.parametrize("header", NO_CODING, ids=lambda header: header[:20])
def test_what_is_no_coding_leaves_the_bytes_as_they_are(header: str) -> None:
    assert read_codings(header) == ()
    for body in (WAV, b"\x1f\x8b that is not labelled", bytes(100), b"x"):
        assert decode(header, body) == body


CODED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "aws-chunked, gzip": gzip.compress,
    "gzip, gzip": gzip.compress,  # once, and named twice
    "gzip,gzip": lambda data: gzip.compress(gzip.compress(data)),
    "deflate": zlib.compress,
    "deflate ": raw_deflate,
    "deflate, gzip": lambda data: gzip.compress(zlib.compress(data)),
}


@pytest.mark.parametrize(("header", "encode"), CODED.items(), ids=CODED.keys())
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_what_is_encoded_is_decoded(header: str, encode: Callable[[bytes], bytes], step: int) -> None:
    for data in (WAV, bytes(3_000_000), b"x"):
        if step > 1 or len(data) < 1 << 20:
            assert decode(header, encode(data), step) == data


@pytest.mark.parametrize("header", ["gzip", "x-gzip", "deflate", "br", "zstd", "compress", "gzip, br", "aes128gcm"])
@pytest.mark.parametrize(
    "audio",
    [WAV, b"ID3\x04" + WAV, b"\xff\xfb\x90\x64" + WAV, b"fLaC" + WAV, b"OggS" + WAV, b"\0\0\0\x20ftypM4A " + WAV],
    ids=["wav", "id3", "mp3", "flac", "ogg", "m4a"],
)
def test_audio_that_is_only_called_encoded_is_taken_as_it_is(header: str, audio: bytes) -> None:
    assert decode(header, audio, 5) == audio


@pytest.mark.parametrize("header", ["gzip", "zstd", "compress"])
def test_what_does_not_begin_like_its_coding_is_not_encoded(header: str) -> None:
    assert decode(header, b"any bytes but those") == b"any bytes but those"
    assert decode(header, b"a") == b"a"


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("br", b"\x1b\x0f\x00 brotli"),
        ("zstd", b"\x28\xb5\x2f\xfd and so on"),
        ("compress", b"\x1f\x9d and so on"),
        ("br, gzip", gzip.compress(b"\x1b\x0f\x00 brotli")),
        ("dcb", b"\xffDCB"),
    ],
    ids=["br", "zstd", "compress", "br in gzip", "dcb"],
)
def test_what_cannot_be_decoded_is_refused_by_name_and_with_a_way_out(header: str, body: bytes) -> None:
    with pytest.raises(DownloadError, match=f"'{header.split(',', maxsplit=1)[0]}'.*URL") as caught:
        decode(header, body)
    assert caught.value.code == "ENCODED"
    assert not isinstance(caught.value, IncompleteDownloadError), "it would be the same next time"


@pytest.mark.parametrize("encode", [gzip.compress, zlib.compress, raw_deflate])
def test_it_is_complete_where_its_coding_ends_and_nowhere_else(encode: Callable[[bytes], bytes]) -> None:
    header = "gzip" if encode is gzip.compress else "deflate"
    body = encode(WAV)
    for cut in (*range(2, 40), len(body) // 2, len(body) - 1):
        with pytest.raises(IncompleteDownloadError, match=header):
            decode(header, body[:cut])
    if header == "deflate":  # nothing else shows that it really is encoded
        with pytest.raises(IncompleteDownloadError, match="wrongly"):
            decode(header, body + b"more")
    else:
        assert decode(header, body + b"\x1fmore", 11) == WAV, "its checksum was right, and what follows is not of it"
        with pytest.raises(IncompleteDownloadError, match="check"):
            decode(header, body[:-8] + bytes(4) + body[-4:])
        assert decode(header, body + body, 11) == WAV + WAV, "a file of two members"
        assert decode(header, body + bytes(512), 11) == WAV, "filled up"


def test_a_few_bytes_that_stand_for_many_take_bounded_memory() -> None:
    bomb = gzip.compress(bytes(100 << 20))
    assert len(bomb) < 200_000
    assert sum(len(piece) for piece in read(Body(("gzip",)), [bomb])) == 100 << 20


def test_nobody_encodes_a_file_many_times() -> None:
    with pytest.raises(IncompleteDownloadError, match="1000 times"):
        read_codings(", ".join(["gzip"] * 1000))


@settings(max_examples=200)
@given(st.binary(), st.lists(st.sampled_from(["gzip", "deflate", "utf-8"]), max_size=3), st.integers(1, 50))
def test_whatever_was_encoded_comes_back(data: bytes, names: list[str], step: int) -> None:
    data = b"RIFF" + data
    body = data
    encoders: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress, "utf-8": bytes}
    for name in names:
        body = encoders[name](body)
    assert decode(",".join(names), body, step) == data


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html>",
        b"\n\n <html>",
        b"\xef\xbb\xbf<?xml version='1.0'?>",
        b'{"error": 1}',
        b'{\n  "success": false',
    ],
)
def test_a_page_is_not_a_stem(page: bytes) -> None:
    with pytest.raises(IncompleteDownloadError, match="vocals"):
        check_stem("vocals", page)


@pytest.mark.parametrize("head", [b"", b"RIFF", b"\xff\xfb<html>", b"{", b"{\x00", b" \x00<", bytes(10)])
def test_other_bytes_may_be_one(head: bytes) -> None:
    check_stem("vocals", head)


@pytest.mark.parametrize(
    "unknown", [None, 0.0, -1.0, float("nan"), float("inf"), 1e308, 1e9, pytest.param(10**400, id="huge")]
)
def test_a_stem_of_unknown_duration_is_no_longer_than_a_wav_can_be(unknown: float | None) -> None:
    assert longest_stem(unknown) == STEM_CAP_BYTES == 1 << 32


def test_a_stem_is_no_longer_than_audio_of_its_duration_can_be() -> None:
    cd = 44_100 * 2 * 2
    for seconds in (1.0, 214.0, 36_000.0):
        assert 2 * seconds * cd < longest_stem(seconds) < 20 * seconds * cd + (1 << 27)
    assert longest_stem(604_800.0) > 1 << 40, "a week"
