"""The lines of a list, from its bytes as they arrive: line ends of any system, NUL, UTF-16, lines without end.

What a line holds stays bytes, for a file name need not be text. UTF-16 is changed to UTF-8.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from itertools import chain

import attrs

LINE_CAP_BYTES = 64 * 1024  # no path or URL is longer
_BOM = b"\xef\xbb\xbf"
_UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_SNIFFED = 8  # bytes without a byte order mark that show UTF-16: every other one is NUL
_BINARY = re.compile(rb"\A[^\x00]*([\x01-\x08\x0b\x0c\x0e-\x1f]|\n\x00|\A\x00)|\x00\x00")  # no names with NUL between


@attrs.frozen
class Problem:
    """A mistake in a line of a list. The lines after it are still parsed, unless the iterator ends with it."""

    line: int
    reason: str


Line = tuple[int, bytes | Problem]


@attrs.frozen
class Lines:
    """The lines of a list that are not blank, without their ends, with their numbers.

    Attributes:
        verbatim: whether NUL ends each, as `find -print0` writes them: then they are names and nothing else.
    """

    verbatim: bool
    rest: Iterator[Line]

    def __iter__(self) -> Iterator[Line]:
        return self.rest

    def peek(self) -> tuple[bytes, Lines]:
        """Return the first line, empty if there is none, and these lines with it."""
        first = next(self.rest, None)
        if first is None:
            return b"", self
        text = b"" if isinstance(first[1], Problem) else first[1]
        return text, Lines(self.verbatim, chain([first], self.rest))


def read_lines(chunks: Iterable[bytes], *, may_have_nul: bool = False) -> Lines:
    """Return the lines of what arrives in chunks of any size.

    They are read as they are asked for, but for the first chunk, which shows what ends the lines: with `may_have_nul`
    that may be NUL, as `find -print0` writes it.
    """
    rest = iter(chunks)
    head = next(rest, b"")
    while len(head) < len(_BOM) and not head.endswith((b"\n", b"\r")) and (more := next(rest, b"")):
        head += more
    encoding = _UTF_16.get(head[:2]) or _guess_utf_16(head)
    if encoding is not None:
        rest = _recode(chain([head], rest), encoding)
        head = next(rest, b"")
    head = head.removeprefix(_BOM)
    verbatim = may_have_nul and b"\x00" in head and _BINARY.search(head) is None
    pieces = chain([head], rest)
    return Lines(verbatim, _number(_by_nul(pieces) if verbatim else _by_line(pieces), verbatim=verbatim))


def _guess_utf_16(head: bytes) -> str | None:
    sample = head[:_SNIFFED]
    if len(sample) < _SNIFFED:
        return None
    if not any(sample[1::2]) and all(sample[::2]):
        return "utf-16-le"
    return "utf-16-be" if not any(sample[::2]) and all(sample[1::2]) else None


def _recode(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for chunk in chunks:
        if text := decoder.decode(chunk):
            yield text.encode()
    yield decoder.decode(b"", final=True).encode()


def _number(pieces: Iterator[bytes | None], *, verbatim: bool) -> Iterator[Line]:
    for number, line in enumerate(pieces, 1):
        if line is None:
            yield number, Problem(number, f"the line is longer than {LINE_CAP_BYTES // 1024} KiB, and was not read")
        elif b"\x00" in line:
            yield number, Problem(number, "this is not text; the rest of the list was not read")
            return
        elif line if verbatim else line.strip():
            yield number, line.removeprefix(_BOM) if number == 1 else line


def _by_nul(chunks: Iterator[bytes]) -> Iterator[bytes | None]:
    buffer = b""
    for chunk in chunks:
        *names, buffer = (buffer + chunk).split(b"\x00")
        for name in names:
            yield name if len(name) <= LINE_CAP_BYTES else None
        if len(buffer) > LINE_CAP_BYTES:
            buffer = buffer[: LINE_CAP_BYTES + 1]
    if buffer:
        yield buffer if len(buffer) <= LINE_CAP_BYTES else None


def _by_line(chunks: Iterator[bytes]) -> Iterator[bytes | None]:
    """Yield the lines, `None` for one that is too long; a comment may be, some programs put pictures into them."""
    buffer = b""
    for chunk in chunks:
        whole = (buffer + chunk).splitlines(keepends=True)
        buffer = b"" if not whole or whole[-1].endswith(b"\n") else whole.pop()  # `\r` may be half of an end
        for line in whole:
            yield _checked(line.rstrip(b"\r\n"))
        if len(buffer) > LINE_CAP_BYTES:
            at = buffer.find(b"\x00")
            if at >= 0:  # the rest is not read
                yield b"\x00"
            buffer = buffer[: LINE_CAP_BYTES + 1].rstrip(b"\r") or b" " * (LINE_CAP_BYTES + 1)
    if buffer:
        yield _checked(buffer.rstrip(b"\r\n"))


def _checked(line: bytes) -> bytes | None:
    if len(line) <= LINE_CAP_BYTES:
        return line
    return b"#" if line.startswith(b"#") else None
