"""The streams of an MPEG audio file: frames of one kind, in a row."""

from __future__ import annotations

import functools
import mmap
import re
from collections.abc import Iterator

import attrs

Data = bytes | mmap.mmap

_LEAD_BYTES = 65_536  # of junk, before the first frame
_CHAIN = 4  # frames in a row that chance does not make
_HALTS = 100_000  # what has more of them is not made of frames, and looking at each takes time
_FRAMES_AMISS = 1  # encoders do or do not count the frame that holds the count
_SYNC = re.compile(rb"\xff[\xe2-\xff]|ID3[\x02-\x04]", re.DOTALL)
_ID3_BYTES = 10
_MONO = 3
_BITRATES = {  # kbit/s by whether it is MPEG 1, and layer; ISO 11172-3, 13818-3
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # Hz by version


@attrs.frozen
class Frame:
    """A frame as its header describes it: its size in bytes, and its samples of a channel.

    Frames that differ in `kind` are not of one stream. One that counts the others says so at `counts_at`, if not 0.
    """

    kind: tuple[int, int, bool]  # version and layer, rate, whether it is mono
    size: int
    samples: int
    counts_at: int


@attrs.frozen
class Stream:
    """Frames of one kind: where they are, how many samples they hold, and whether the first one counts them."""

    start: int
    stop: int
    samples: int
    counted: bool


@attrs.define
class _Growing:
    """A stream whose end was not found yet."""

    start: int
    frame: Frame
    announced: int | None  # frames behind the first one, 0 if it does not say; `None` if it holds sound itself
    stop: int = 0
    frames: int = 0

    def end(self) -> Stream:
        """Return it, without its first frame if that counts too few or none: a decoder would believe it."""
        samples = self.frames * self.frame.samples
        if self.announced is None:
            return Stream(self.start, self.stop, samples, counted=False)
        behind = self.frames - 1
        if behind and not behind - _FRAMES_AMISS <= self.announced:
            return Stream(self.start + self.frame.size, self.stop, samples - self.frame.samples, counted=False)
        return Stream(self.start, self.stop, samples - self.frame.samples, counted=True)


def skip_id3(data: Data, start: int) -> int:
    """Return where the ID3v2 tags end that begin at `start`."""
    while size := _id3_size(data[start : start + _ID3_BYTES]):
        if start + size > len(data):
            break
        start += size
    return start


def find_streams(data: Data, start: int) -> Iterator[Stream]:
    """Yield the streams of a file; none if it is no MPEG audio, or hardly any."""
    position = _first(data, start)
    growing: _Growing | None = None
    halts = 0
    while position < len(data):
        frame = frame_at(data, position)
        in_step = growing is not None and frame is not None and frame.kind == growing.frame.kind
        if frame is None or position + frame.size > len(data) or not (in_step or _is_chain(data, position, 2)):
            halts += 1
            if halts > _HALTS:
                break
            tagged = skip_id3(data, position)
            if tagged > position and growing is not None:  # another file begins
                yield growing.end()
                growing = None
            position = tagged if tagged > position else _search(data, position + 1)
            continue
        announced = _announced(data, position, frame)
        if growing is None or not in_step or announced is not None:
            if growing is not None:
                yield growing.end()
            growing = _Growing(position, frame, announced)
        position += frame.size
        growing.stop = position
        growing.frames += 1
    if growing is not None:
        yield growing.end()


def frame_at(data: Data, position: int) -> Frame | None:
    """Return the frame that begins there, `None` if none does."""
    header = data[position : position + 4]
    return _frame(header[1], header[2], header[3]) if len(header) == 4 and header[0] == 0xFF else None  # noqa: PLR2004


@functools.lru_cache(maxsize=4096)
def _frame(second: int, third: int, fourth: int) -> Frame | None:
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    bitrate, rate, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if second & 0xE0 != 0xE0 or version == 1 or layer == 4 or bitrate in {0, 15} or rate == 3:  # noqa: PLR2004
        return None
    first_version, mono = version == 3, fourth >> 6 == _MONO  # noqa: PLR2004
    bits, sampling = _BITRATES[first_version, layer][bitrate - 1] * 1000, _RATES[version][rate]
    kind = (second >> 1 & 15, sampling, mono)
    if layer == 1:
        return Frame(kind, (12 * bits // sampling + padding) * 4, 384, 0)
    samples = 576 if layer == 3 and not first_version else 1152  # noqa: PLR2004
    size = samples // 8 * bits // sampling + padding
    counts_at = (13, 21, 36)[(not mono) + first_version] if layer == 3 else 0  # noqa: PLR2004  # behind the side information
    return Frame(kind, size, samples, counts_at)


def _announced(data: Data, position: int, frame: Frame) -> int | None:
    """Return how many frames one of Xing, LAME or Fraunhofer counts; `None` if it is an ordinary one."""
    at = position + frame.counts_at
    if not frame.counts_at:
        return None
    if data[at : at + 4] in {b"Xing", b"Info"}:
        return int.from_bytes(data[at + 8 : at + 12], "big") if data[at + 7] & 1 else 0
    if data[position + 36 : position + 40] == b"VBRI":
        return int.from_bytes(data[position + 50 : position + 54], "big")
    return None


def _first(data: Data, start: int) -> int:
    """Return where the first frame is, the end if this is no stream of frames."""
    limit = min(len(data), start + _LEAD_BYTES)
    position = start
    while position < limit:
        if _is_chain(data, position, _CHAIN):
            return position
        position = skip_id3(data, position) if skip_id3(data, position) > position else _search(data, position + 1)
    return len(data)


def _search(data: Data, start: int) -> int:
    found = _SYNC.search(data, start)
    return found.start() if found else len(data)


def _is_chain(data: Data, position: int, frames: int) -> bool:
    """Return whether as many frames of one kind, or all up to the end or a tag, follow one another from here."""
    kind = None
    for _ in range(frames):
        if kind is not None and (position == len(data) or data[position : position + 3] in {b"ID3", b"TAG", b"APE"}):
            return True
        frame = frame_at(data, position)
        if frame is None or frame.kind != (kind or frame.kind) or position + frame.size > len(data):
            return False
        kind = frame.kind
        position += frame.size
    return True


def _id3_size(header: bytes) -> int:
    """Return the size of an ID3v2 tag by its header, 0 if it is none."""
    if len(header) < _ID3_BYTES or header[:3] != b"ID3" or 0xFF in header[3:5] or max(header[6:]) > 0x7F:  # noqa: PLR2004
        return 0
    size = functools.reduce(lambda size, digit: size << 7 | digit, header[6:], 0)
    return _ID3_BYTES + size + _ID3_BYTES * bool(header[5] & 0x10)
