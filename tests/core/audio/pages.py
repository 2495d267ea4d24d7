"""Ogg files taken apart into packets and put on other pages, and checksums as the specification words them."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import attrs


@attrs.frozen
class Packet:
    body: bytes
    granule: int | None  # of its page, if it is the last one that ends there


def _crc(value: int) -> int:
    crc = value << 24
    for _ in range(8):
        crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return crc


_TABLE = [_crc(value) for value in range(256)]


def checksum(page: bytes) -> int:
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _TABLE[crc >> 24 ^ byte]
    return crc


def page(body: bytes, sizes: bytes, *, flags: int = 0, granule: int = -1, serial: int = 7, sequence: int = 0) -> bytes:
    header = b"OggS" + struct.pack("<BBqII", 0, flags, granule, serial, sequence)
    rest = bytes([len(sizes)]) + sizes + body
    return header + struct.pack("<I", checksum(header + bytes(4) + rest)) + rest


def packets(data: bytes) -> list[Packet]:
    """Return the packets of a file with one stream."""
    found: list[Packet] = []
    position, pending = 0, b""
    while position < len(data):
        granule = struct.unpack_from("<q", data, position + 6)[0]
        sizes = data[position + 27 : position + 27 + data[position + 26]]
        position += 27 + len(sizes)
        ended = 0
        for size in sizes:
            pending += data[position : position + size]
            position += size
            if size < 255:
                found.append(Packet(pending, None))
                pending, ended = b"", 1
        if ended:
            found[-1] = attrs.evolve(found[-1], granule=granule)
    return found


def paged(every: Iterable[Packet], per_page: int = 255, serial: int = 7) -> bytes:
    """Put packets on pages with at most `per_page` entries in the table of sizes; one with a granule ends its page."""
    pages: list[tuple[bytes, bytes, int, bool]] = []
    sizes, body, granule, continued = b"", b"", -1, False

    def turn(*, goes_on: bool) -> None:
        nonlocal sizes, body, granule, continued
        pages.append((body, sizes, granule, continued))
        sizes, body, granule, continued = b"", b"", -1, goes_on

    for packet in every:
        rest = packet.body
        while len(rest) >= 255:
            if len(sizes) == per_page:
                turn(goes_on=len(rest) < len(packet.body))
            sizes, body, rest = sizes + b"\xff", body + rest[:255], rest[255:]
        if len(sizes) == per_page:
            turn(goes_on=len(rest) < len(packet.body))
        sizes, body = sizes + bytes([len(rest)]), body + rest
        if packet.granule is not None:
            granule = packet.granule
            turn(goes_on=False)
    if sizes:
        turn(goes_on=False)
    return b"".join(
        page(
            body,
            sizes,
            flags=continued | (number == 0) << 1 | (number == len(pages) - 1) << 2,
            granule=granule,
            serial=serial,
            sequence=number,
        )
        for number, (body, sizes, granule, continued) in enumerate(pages)
    )
