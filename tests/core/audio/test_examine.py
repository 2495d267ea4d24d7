"""What holds for every format: tags are not audio, audio is all that counts, and no bytes are too strange."""

from __future__ import annotations

import hashlib
import io
import re

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._audio.blocks import BLOCK_BYTES, Blocks, Range
from aistemsplitter_async._audio.examine import Length
from tests.core.audio.made import encoded, examined, measured, noise
from tests.core.audio.test_mp4 import PLAIN, fragmented

KINDS = ("WAV", "AIFF", "RF64", "FLAC", "MP3", "OGG")
SAMPLES = [
    *(encoded(kind, None, 0.3) for kind in KINDS),
    encoded("OGG", "OPUS", 0.3, 48000),
    PLAIN.build(),
    fragmented(),
]


def test_what_is_not_audio_is_identified_by_all_of_it() -> None:
    for data in (b"", b"x", b"RIFF", noise(100_000)):
        whole = f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert (examined(data).content, examined(data).identity) == (whole, whole)
        assert measured(data) == Length(None, None)


@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_files_are_read_without_an_error(sample: bytes, data: st.DataObject) -> None:
    damaged = bytearray(sample[: data.draw(st.integers(0, len(sample)))])
    for _ in range(data.draw(st.integers(0, 8))):
        at = data.draw(st.integers(0, 300) | st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8) | st.just(b"\xff" * 4))
    damaged += data.draw(st.just(b"") | st.sampled_from(SAMPLES))
    found, length = examined(bytes(damaged)), measured(bytes(damaged))
    assert found.content == f"sha256:{hashlib.sha256(damaged).hexdigest()}"
    assert length.seconds is None or (length.at_most is not None and 0 <= length.seconds <= length.at_most)


@pytest.mark.parametrize(
    "hostile",
    [
        *(b"\xff" * 8, b"\xff\xfb\x90\x00", b"ID3\x04" + bytes(6), b"OggS\0", b"OggS\0\0" + bytes(20) + b"\xff" * 256),
        *(b"\xff\xf8\xca\x18", b"\0\0\0\x08free", b"LIST" + bytes(4), b"APETAGEX" + bytes(24), b"fLaC", noise(4096)),
    ],
)
@pytest.mark.parametrize("sample", SAMPLES, ids=range(len(SAMPLES)))
def test_what_looks_like_audio_again_and_again_is_not_looked_at_again_and_again(
    sample: bytes, hostile: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_out = 0
    read = Blocks.read

    def counting(self: Blocks, start: int, length: int) -> bytes:
        nonlocal given_out
        piece = read(self, start, length)
        given_out += len(piece)
        return piece

    monkeypatch.setattr(Blocks, "read", counting)
    data = sample + hostile * (BLOCK_BYTES // 8 // len(hostile))
    measured(data)
    examined(data)
    assert given_out < 40 * len(data)


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7])
def test_blocks_give_any_bytes_of_a_file(size: int) -> None:
    data = noise(size)
    blocks = Blocks(io.BytesIO(data))
    for start in (0, 1, size // 2, BLOCK_BYTES - 3, BLOCK_BYTES, 2 * BLOCK_BYTES - 1, size - 5, size, size + 9):
        for length in (0, 1, 9, BLOCK_BYTES, 2 * BLOCK_BYTES + 1):
            assert blocks.read(max(0, start), length) == data[max(0, start) : max(0, start) + length]
    assert b"".join(blocks.stream(Range(3, size))) == data[3:]


@given(st.integers(BLOCK_BYTES - 40, BLOCK_BYTES + 40), st.integers(0, BLOCK_BYTES + 60))
def test_blocks_find_what_goes_over_the_edge_of_two(place: int, start: int) -> None:
    data = bytearray(2 * BLOCK_BYTES + 9)
    data[place : place + 8] = b"APETAGEX"
    found = Blocks(io.BytesIO(data)).find(re.compile(b"APETAGEX"), start, len(data))
    assert found == (place if start <= place else len(data))
