"""Bodies that were compressed or written in other ways than was asked for; and bombs."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._wire.codec import parse_reply
from aistemsplitter_async._wire.encodings import decode_text
from aistemsplitter_async._wire.messages import Reply
from aistemsplitter_async.config import REPLY_CAP_BYTES
from aistemsplitter_async.errors import ProtocolError

GOLDEN = (Path(__file__).parents[2] / "samples" / "split_created.json").read_bytes()
Pack = Callable[[bytes], bytes]


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


def brotli(body: bytes) -> bytes:
    packed: bytes = pytest.importorskip("brotli").compress(body)
    return packed


def read(body: bytes, **headers: str) -> Any:
    return parse_reply(
        Reply(status=200, headers={name.replace("_", "-"): text for name, text in headers.items()}, body=body)
    )


PACKED: list[tuple[str, Pack]] = [
    ("gzip", gzip.compress),
    ("GZip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("br", brotli),
    ("gzip, deflate", lambda body: zlib.compress(gzip.compress(body))),
    ("deflate,gzip,identity", lambda body: gzip.compress(raw_deflate(body))),
    ("gzip, gzip", lambda body: gzip.compress(gzip.compress(body))),
    ("gzip", lambda body: gzip.compress(gzip.compress(body))),
    ("", gzip.compress),
    ("identity", gzip.compress),
    ("gzip", lambda body: gzip.compress(body[:40]) + gzip.compress(body[40:]) + b"\x00" * 9),
    ("gzip", lambda body: gzip.compress(body)[:-4]),  # the end is cut off, after the text
    ("gzip", bytes),  # already decoded by a transport or proxy
    ("deflate", bytes),
    ("br", bytes),
    ("identity", bytes),
    ("utf-8", bytes),  # what encodes nothing: a common mistake
    ("none", bytes),
    ("UTF-8, gzip", gzip.compress),
    ("zstd", bytes),
]


@pytest.mark.parametrize(("coding", "pack"), PACKED)
def test_a_compressed_reply_says_what_it_would_say_plainly(coding: str, pack: Pack) -> None:
    assert read(pack(GOLDEN), content_encoding=coding)["data"]["id"] == "split_123"


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + GOLDEN,
        GOLDEN + b"\x00" * 100,
        b" \r\n" + GOLDEN,
        GOLDEN.decode().encode("utf-16"),
        GOLDEN.decode().encode("utf-16-le"),
        GOLDEN.decode().encode("utf-16-be"),
        GOLDEN.decode().encode("utf-32"),
        ("\ufeff" + GOLDEN.decode() + "\x00").encode("utf-16-le"),
    ],
)
@pytest.mark.parametrize("content_type", ["", "text/html", "application/json;charset=utf-8", ";;=", "x; charset=rot13"])
def test_the_text_is_recognised_by_itself_whatever_its_type_is_said_to_be(body: bytes, content_type: str) -> None:
    assert read(body, content_type=content_type)["data"]["id"] == "split_123"


@pytest.mark.parametrize("charset", ["ISO-8859-1", "latin1", '"windows-1252"', "us-ascii"])
def test_a_charset_of_one_byte_is_believed_where_utf8_cannot_be_meant(charset: str) -> None:
    body = '{"filename": "Bjö"}'.encode("latin-1")
    assert read(body, content_type=f"application/json; x=1; charset={charset}") == {"filename": "Bjö"}
    assert read('{"filename": "Bjö"}'.encode(), content_type=f"a/b; charset={charset}") == {"filename": "Bjö"}


@pytest.mark.parametrize("charset", ["utf-8", "unicode_escape", "idna", "zlib", "utf-7", "shift_jis", ""])
def test_no_other_codec_is_tried(charset: str) -> None:
    with pytest.raises(ProtocolError, match="not usable text"):
        read(b'{"a": "\xff"}', content_type=f"a/b; charset={charset}")


@pytest.mark.parametrize("coding", ["zstd", "compress", "aes128gcm", "gzip;q=1", "\x1b[2J" * 100])
def test_an_unknown_coding_is_named(coding: str) -> None:
    with pytest.raises(ProtocolError, match="not asked for") as caught:
        read(b"\x28\xb5\x2f\xfd" + GOLDEN, content_encoding=coding)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@cache
def bombs() -> dict[str, tuple[str, bytes]]:
    zeros = b" " * 50_000_000
    bomb = gzip.compress(zeros)
    return {
        "gzip": ("gzip", bomb),
        "unlabelled": ("", bomb),
        "zlib": ("deflate", zlib.compress(zeros)),
        "raw": ("deflate", raw_deflate(zeros)),
        "nested": ("gzip", gzip.compress(bomb)),
        "in parts": ("gzip", gzip.compress(b" " * 100_000) * 2000),
        "many empty parts": ("gzip", gzip.compress(b"") * 50_000),
        "many codings": (", ".join(["gzip"] * 1000), GOLDEN),
        "just too large": ("gzip", gzip.compress(b" " * (REPLY_CAP_BYTES + 1))),
    }


BOMBS = (
    *("gzip", "unlabelled", "zlib", "raw", "nested"),
    *("in parts", "many empty parts", "many codings", "just too large"),
)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_takes_memory(name: str) -> None:
    coding, body = bombs()[name]
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode_text(body, {"content-encoding": coding})
        assert tracemalloc.get_traced_memory()[1] < 8 * REPLY_CAP_BYTES
    finally:
        tracemalloc.stop()


def test_a_brotli_bomb_is_refused() -> None:
    with pytest.raises(ProtocolError):
        decode_text(brotli(b" " * 50_000_000), {"content-encoding": "br"})


def test_a_reply_of_exactly_the_cap_is_unpacked() -> None:
    assert len(decode_text(gzip.compress(b" " * REPLY_CAP_BYTES), {"content-encoding": "gzip"})) == REPLY_CAP_BYTES


def test_brotli_that_begins_like_json_is_unpacked() -> None:
    compress = pytest.importorskip("brotli").compress
    found = set[bytes]()
    for length in (*range(100, 300), 70_000):
        text = '{"id": "' + "x" * length + '"}'
        for quality in (0, 11):
            packed = compress(text.encode(), quality=quality)
            found.add(packed.lstrip()[:1])
            assert decode_text(packed, {"content-encoding": "br"}) == text
    assert found >= {b"{", b"["}, "the test sees no such case"


@pytest.mark.parametrize("cut", range(0, len(gzip.compress(GOLDEN)) - 20, 7))
def test_half_a_compressed_reply_is_not_believed(cut: int) -> None:
    with pytest.raises(ProtocolError):
        read(gzip.compress(GOLDEN)[:cut], content_encoding="gzip")


@given(
    st.binary(max_size=300)
    | st.binary(max_size=300).map(gzip.compress)
    | st.binary(max_size=200).map(lambda b: b"\x1f\x8b" + b),
    st.sampled_from(["", "gzip", "deflate", "br", "gzip, deflate", "deflate, deflate"]) | st.text(max_size=30),
    st.text(max_size=60) | st.sampled_from(["a/b; charset=latin1", "a/b;charset=utf-16"]),
)
def test_any_bytes_and_headers_give_text_or_a_protocol_error(body: bytes, coding: str, content_type: str) -> None:
    try:
        decode_text(body, {"content-encoding": coding, "content-type": content_type})
    except ProtocolError as error:
        assert error.__context__ is None, "a chained error would carry the reply along"  # noqa: PT017
