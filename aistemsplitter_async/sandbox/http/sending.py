"""Sends replies: whole files in constant memory, and answers that a fault breaks off."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.sandbox.http.replies import FilePart, Manner, Reply
from aistemsplitter_async.sandbox.service.timeline import SandboxClock

Disconnection = Callable[[web.BaseRequest], Awaitable[None]]

_CHUNK_BYTES = 256 * 1024
_LINGER_NONE = struct.pack("ii", 1, 0)  # closing then sends RST and drops what was not sent


async def send(
    request: web.BaseRequest, reply: Reply, *, clock: SandboxClock, disconnection: Disconnection
) -> web.StreamResponse:
    """Send a reply.

    Args:
        request: What it answers.
        reply: The answer.
        clock: Times the pauses of a fault.
        disconnection: Returns when the client of a request has disconnected.
    """
    if reply.manner is not None:
        await _send_in_manner(request, reply, reply.manner, clock)
        if reply.manner.then == "stall":
            await disconnection(request)
        return web.Response()  # the connection is closed, so this one goes nowhere
    if isinstance(reply.body, bytes):
        response = web.Response(status=reply.status, body=reply.body, headers=reply.headers)
        await response.prepare(request)
        await response.write_eof()
        return response
    stream = web.StreamResponse(status=reply.status, headers=reply.headers)
    stream.content_length = reply.length
    await stream.prepare(request)
    if request.method != "HEAD":
        async for piece in _read_pieces(reply.body, _CHUNK_BYTES):
            await stream.write(piece)
    await stream.write_eof()
    return stream


async def _send_in_manner(request: web.BaseRequest, reply: Reply, manner: Manner, clock: SandboxClock) -> None:
    """Write the answer to the bare connection, since HTTP libraries cannot break the protocol."""
    transport = request.transport
    if transport is None:
        return
    if reply.status:
        transport.set_write_buffer_limits(0)  # drained means handed to the kernel
        await _write(request, transport, _build_head(request, reply, manner))
        async for piece in _cut_pieces(reply, manner):
            framed = b"%x\r\n%b\r\n" % (len(piece), piece) if manner.framing == "chunked" else piece
            await _write(request, transport, framed)
            if manner.every:
                await clock.sleep(manner.every)
    if manner.then == "stall":
        return
    if manner.then == "reset":
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        transport.abort()
    elif manner.then == "finish" and manner.framing == "chunked":
        await _write(request, transport, b"0\r\n\r\n")
    transport.close()


async def _write(request: web.BaseRequest, transport: asyncio.Transport, data: bytes) -> None:
    if transport.is_closing():
        raise ConnectionResetError("the client has disconnected")
    transport.write(data)
    await request.writer.drain()


def _build_head(request: web.BaseRequest, reply: Reply, manner: Manner) -> bytes:
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Unknown"
    headers = {**reply.headers, "Connection": "close"}
    if manner.framing == "length":
        headers["Content-Length"] = str(reply.length)
    elif manner.framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
    version = f"HTTP/{request.version.major}.{request.version.minor}"
    lines = [f"{version} {reply.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


async def _cut_pieces(reply: Reply, manner: Manner) -> AsyncIterator[bytes]:
    left = reply.sent_bytes
    if isinstance(reply.body, bytes):
        for start in range(0, left, manner.piece_bytes):
            yield reply.body[start : min(left, start + manner.piece_bytes)]
    else:
        part = FilePart(reply.body.path, reply.body.start, left)
        async for piece in _read_pieces(part, manner.piece_bytes):
            yield piece


async def _read_pieces(part: FilePart, piece_bytes: int) -> AsyncIterator[bytes]:
    left = part.length
    file = await run_in_thread(_open_at, part.path, part.start, undo=_close)
    try:
        while left:
            piece = await run_in_thread(file.read, min(left, piece_bytes))
            if not piece:
                raise ConnectionResetError("the file became shorter while it was sent")
            left -= len(piece)
            yield piece
    finally:
        file.close()


def _open_at(path: Path, start: int) -> BinaryIO:
    file = path.open("rb")
    file.seek(start)
    return file


def _close(file: BinaryIO) -> None:
    file.close()
