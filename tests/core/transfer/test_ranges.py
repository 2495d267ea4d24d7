"""An answer is joined to what is here only if the result is the file, byte for byte."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import example, given, settings, strategies as st

from aistemsplitter_async._transfer.ranges import Held, Incoming, build_range_headers, read_etag, read_incoming
from aistemsplitter_async.errors import IncompleteDownloadError

HELD = Held(offset=40, etag='"v1"', total=100)
PART = {"content-range": "bytes 40-99/100", "content-length": "60", "etag": '"v1"'}


@pytest.mark.parametrize(
    "held",
    [
        Held(),
        Held(offset=40),
        Held(offset=40, etag='"v1"'),
        Held(offset=40, total=100),
        Held(offset=0, etag='"v1"', total=100),
        Held(offset=100, etag='"v1"', total=100),
        Held(offset=101, etag='"v1"', total=100),
    ],
)
def test_what_cannot_be_continued_safely_is_asked_for_whole(held: Held) -> None:
    assert build_range_headers(held) == {}
    with pytest.raises(IncompleteDownloadError):
        read_incoming(206, PART, held)


def test_the_rest_is_asked_for_under_the_validator_of_what_is_held() -> None:
    assert build_range_headers(HELD) == {"Range": "bytes=40-", "If-Range": '"v1"'}
    assert read_incoming(206, PART, HELD) == Incoming(start=40, length=60, total=100, etag='"v1"')
    chunked = {"content-range": "bytes 40-99/100", "transfer-encoding": "gzip, Chunked", "etag": '"v1"'}
    assert read_incoming(206, chunked, HELD).start == 40


@pytest.mark.parametrize(
    "change",
    [
        {"content-range": "bytes 41-99/100"},
        {"content-range": "bytes 0-99/100"},
        {"content-range": "bytes 40-98/100"},
        {"content-range": "bytes 40-99/101"},
        {"content-range": "bytes 40-99/*"},
        {"content-range": "bytes */100"},
        {"content-range": "bytes -40-99/100"},
        {"content-range": "bytes ٤٠-99/100"},
        {"content-range": "bytes 40-99/100, bytes 0-1/100"},
        {"content-range": "octets 40-99/100"},
        {"content-range": "bytes 40-99/" + "1" * 5000},
        {"content-range": ""},
        {"content-length": "61"},
        {"content-length": "59"},
        {"content-length": ""},
        {"content-length": "-60"},
        {"content-length": "60, 60"},
        {"content-length": "9" * 5000},
        {"etag": '"v2"'},
        {"etag": 'W/"v1"'},
        {"etag": ""},
        {"etag": "v1"},
        {"content-encoding": "gzip"},
    ],
    ids=lambda change: str(change)[:50],
)
def test_a_part_that_does_not_fit_in_every_respect_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(IncompleteDownloadError):
        read_incoming(206, {**PART, **change}, HELD)


@pytest.mark.parametrize("status", [201, 203, 204, 226])
def test_other_successes_are_not_the_file(status: int) -> None:
    with pytest.raises(IncompleteDownloadError):
        read_incoming(status, {"content-length": "100"}, HELD)


def test_a_whole_file_starts_over_no_matter_what_is_held() -> None:
    for held in (Held(), HELD):
        whole = read_incoming(200, {"content-length": "100", "etag": '"v2"'}, held)
        assert whole == Incoming(start=0, length=100, total=100, etag='"v2"')


def test_a_chunked_file_has_a_marked_end_and_a_length_beside_it_means_nothing() -> None:
    assert read_incoming(200, {"transfer-encoding": "chunked"}, Held()).total is None
    assert read_incoming(200, {"transfer-encoding": "chunked", "content-length": "5"}, Held()).total is None


@pytest.mark.parametrize(
    "headers", [{}, {"content-length": ""}, {"content-length": "abc"}, {"content-length": "\uff11\uff12"}]
)
def test_a_file_that_ends_when_the_connection_does_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(IncompleteDownloadError, match="how long"):
        read_incoming(200, headers, Held())


@pytest.mark.parametrize(
    ("header", "etag"),
    [
        ('"v1"', '"v1"'),
        (' "v1" ', '"v1"'),
        ('"a-b:c/d!"', '"a-b:c/d!"'),
        ('""', None),
        ('"', None),
        ("", None),
        ("v1", None),
        ('W/"v1"', None),
        ('w/"v1"', None),
        ('"a", "b"', None),
        ('"a\r\nX: y"', None),
        ('"a b"', None),
    ],
)
def test_only_one_strong_validator_counts(header: str, etag: str | None) -> None:
    assert read_etag({"etag": header}) == etag


@st.composite
def servers(draw: st.DrawFn) -> tuple[bytes, Held, bytes, int, dict[str, str]]:
    """A file that may have changed since, and a server that answers a Range request rightly or wrongly."""
    old = draw(st.binary(min_size=2, max_size=12))
    new = draw(st.just(old) | st.binary(min_size=2, max_size=12))
    offset = draw(st.integers(0, len(old)))
    strong = draw(st.booleans())
    held = Held(offset=offset, etag=f'"{crc32(old)}"' if strong else None, total=len(old))
    start = draw(st.just(min(offset, len(new))) | st.integers(0, len(new) - 1))
    end = draw(st.just(len(new)) | st.integers(start, len(new)))
    status = draw(st.sampled_from([200, 206]))
    body = new if status == 200 else new[start:end]
    headers = {"etag": draw(st.sampled_from([f'"{crc32(new)}"', f'W/"{crc32(new)}"', ""]))}
    if draw(st.booleans()):
        headers["content-length"] = str(draw(st.just(len(body)) | st.integers(0, 15)))
    else:
        headers["transfer-encoding"] = "chunked"
    if status == 206:
        headers["content-range"] = f"bytes {start}-{end - 1}/{len(new)}"
    return old, held, body, status, headers


@settings(max_examples=50)
@given(servers())
@example(
    (b"abcd", Held(offset=2, etag='"x"', total=4), b"yz", 206, {"content-length": "2", "content-range": "bytes 2-3/4"})
)
def test_whatever_is_accepted_and_complete_is_one_version_of_the_file(
    case: tuple[bytes, Held, bytes, int, dict[str, str]],
) -> None:
    old, held, body, status, headers = case
    try:
        incoming = read_incoming(status, headers, held)
    except IncompleteDownloadError:
        return
    if "content-length" in headers and int(headers["content-length"]) != len(body):
        return  # HTTP itself shows it: the connection breaks, or the rest belongs to nothing
    joined = old[: held.offset][: incoming.start] + body
    if incoming.total is None or len(joined) == incoming.total:
        if status == 200:
            assert joined == body
        else:
            assert joined == old
    assert incoming.start in (0, held.offset)
