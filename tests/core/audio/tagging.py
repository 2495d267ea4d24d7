"""Tags as taggers write them, made by hand."""

from __future__ import annotations

import struct


def synchsafe(size: int) -> bytes:
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def id3v2(body: bytes, version: int = 4, flags: int = 0) -> bytes:
    header = bytes([version, 0, flags]) + synchsafe(len(body))
    return b"ID3" + header + body + (b"3DI" + header if flags & 0x10 else b"")


def id3v1(title: bytes) -> bytes:
    return b"TAG" + title[:30].ljust(125, b"\0")


def ape(body: bytes, *, header: bool = True) -> bytes:
    size = len(body) + 32

    def end(flags: int) -> bytes:
        return b"APETAGEX" + struct.pack("<IIII", 2000, size, 1, flags | header << 31) + bytes(8)

    return (end(1 << 29) if header else b"") + body + end(0)


def lyrics3v2(body: bytes) -> bytes:
    content = b"LYRICSBEGIN" + body
    return content + b"%06dLYRICS200" % len(content)


def lyrics3v1(body: bytes) -> bytes:
    return b"LYRICSBEGIN" + body + b"LYRICSEND"
