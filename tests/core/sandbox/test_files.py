"""Parts of files, signed addresses, silence, storage caps: the pure half of upload worker and CDN."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async.sandbox.http.leaks import find_leak
from aistemsplitter_async.sandbox.http.ranges import Slice, plan_slice
from aistemsplitter_async.sandbox.http.signing import build_signed_path, parse_expiry
from aistemsplitter_async.sandbox.separation.silence import build_silence, probe_wav
from aistemsplitter_async.sandbox.service.errors import StorageFullError
from aistemsplitter_async.sandbox.service.limits import Limits
from aistemsplitter_async.sandbox.service.storage import Storage

ETAG = '"abc"'
SECRET = b"s" * 32
WHOLE = Slice(200, 0, 100)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, WHOLE),
        ({"Range": "bytes=0-9"}, Slice(206, 0, 10)),
        ({"Range": "bytes=90-"}, Slice(206, 90, 10)),
        ({"Range": "bytes=-10"}, Slice(206, 90, 10)),
        ({"Range": "bytes=-1000"}, Slice(206, 0, 100)),
        ({"Range": "bytes=50-5000"}, Slice(206, 50, 50)),
        ({"Range": "bytes=99-99"}, Slice(206, 99, 1)),
        ({"Range": "bytes=100-"}, Slice(416, 0, 0)),
        ({"Range": "bytes=-0"}, Slice(416, 0, 0)),
        ({"Range": "bytes=9-0"}, WHOLE),
        ({"Range": "bytes=0-1,5-6"}, WHOLE),
        ({"Range": "lines=0-1"}, WHOLE),
        ({"Range": "bytes=a-b"}, WHOLE),
        ({"Range": "bytes=0-9", "If-Range": ETAG}, Slice(206, 0, 10)),
        ({"Range": "bytes=0-9", "If-Range": '"old"'}, WHOLE),
        ({"Range": "bytes=0-9", "If-Range": f"W/{ETAG}"}, WHOLE),
        ({"Range": "bytes=0-9", "If-Range": "Sun, 22 Nov 2026 19:05:47 GMT"}, WHOLE),
        ({"If-None-Match": ETAG}, Slice(304, 0, 0)),
        ({"If-None-Match": f'"x", W/{ETAG}'}, Slice(304, 0, 0)),
        ({"If-None-Match": '"x"'}, WHOLE),
        ({"If-Match": '"x"'}, Slice(412, 0, 0)),
        ({"If-Match": f"W/{ETAG}"}, Slice(412, 0, 0)),
        ({"If-Match": "*"}, WHOLE),
    ],
)
def test_a_request_gets_the_part_that_the_rfc_says(headers: dict[str, str], expected: Slice) -> None:
    assert plan_slice(headers, 100, ETAG) == expected


@given(st.integers(0, 300), st.integers(0, 300) | st.none(), st.integers(1, 200))
def test_a_part_is_always_within_the_file(first: int, last: int | None, size: int) -> None:
    part = plan_slice({"Range": f"bytes={first}-{'' if last is None else last}"}, size, ETAG)
    assert 0 <= part.start <= part.start + part.length <= size
    if part.status == 206:
        assert part.start == first
        assert part.length == min(size, size if last is None else last + 1) - first


def query(path: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in path.partition("?")[2].split("&"))


def test_a_signed_address_says_when_it_expires_and_cannot_be_changed() -> None:
    signed = build_signed_path("/stems/a", 1000.0004, SECRET)
    fields = query(signed)
    assert parse_expiry("/stems/a", fields, SECRET) == 1000.001
    assert parse_expiry("/stems/b", fields, SECRET) is None
    assert parse_expiry("/stems/a", fields, b"t" * 32) is None
    assert parse_expiry("/stems/a", fields | {"expires": "2000000"}, SECRET) is None
    assert parse_expiry("/stems/a", fields | {"signature": "é"}, SECRET) is None
    assert parse_expiry("/stems/a", fields | {"expires": "9" * 5000}, SECRET) is None
    assert parse_expiry("/stems/a", {}, SECRET) is None


def test_a_key_is_found_wherever_it_leaks_to() -> None:
    keys = {"ast_one", "ast_two"}
    assert find_leak([("Accept", "*/*")], "/upload/x", keys) is None
    assert find_leak([("authorization", "Basic xyz")], "/upload/x", keys) == "authorization"
    assert find_leak([("X-Custom", "Bearer ast_two")], "/upload/x", keys) == "X-Custom"
    assert find_leak([], "/upload/x?key=ast_one", keys) == "url"


def test_silence_is_a_valid_file_of_either_format() -> None:
    soundfile = pytest.importorskip("soundfile")
    for output_format in ("wav", "mp3"):
        samples, _ = soundfile.read(io.BytesIO(build_silence(output_format)))
        assert len(samples) > 0
        assert not samples.any()
        assert len(build_silence(output_format)) < 4096


def test_a_wav_file_is_measured_by_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(4 * 12_000))
    whole = probe_wav(path)
    assert whole is not None
    assert (whole.seconds, whole.is_usable) == (1.5, True)
    path.write_bytes(path.read_bytes()[:-800])
    cut = probe_wav(path)
    assert cut is not None
    assert (cut.seconds, cut.is_usable) == (1.475, False)
    path.write_bytes(b"RIFF no")
    assert probe_wav(path) is None


def test_storage_refuses_what_would_exceed_a_cap_and_releases_space(tmp_path: Path) -> None:
    storage = Storage(tmp_path, Limits(max_disk_bytes=100, max_files=2))
    storage.book("a", 60)
    with pytest.raises(StorageFullError):
        storage.book("b", 41)
    storage.book("a", 50)
    storage.book("b", 50)
    with pytest.raises(StorageFullError):
        storage.book("c", 0)
    storage.drop_source("a")
    storage.book("c", 50)
    storage.drop_stems("c")
    storage.drop_source("never there")
    assert (storage.used_bytes, storage.files) == (50, 1)
