"""Raw bytes to a sandbox in a thread, and everything it logs: what a hand-made client sees, and what its owner does."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import attrs

from aistemsplitter_async.sandbox import BlockingSandbox, Sandbox

_SILENCE = 0.5  # s after which no answer is expected any more: an unfinished request is waited for


class _Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or record.exc_info:
            self.texts.append(logging.Formatter("%(name)s: %(message)s").format(record))


@attrs.frozen
class Wild:
    """A running sandbox, its addresses, and what was logged at the level of warnings or with a traceback."""

    sandbox: BlockingSandbox
    complaints: list[str]

    @property
    def origins(self) -> tuple[str, str, str]:
        return self.sandbox.base_url.removesuffix("/v1"), self.sandbox.worker_url, self.sandbox.cdn_url

    def exchange(self, origin: str, request: bytes) -> list[int]:
        """Send bytes on a connection of their own, and return the statuses of the answers."""
        address = urlsplit(origin)
        assert address.hostname is not None
        assert address.port is not None
        answer = b""
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.settimeout(_SILENCE)
            try:
                connection.sendall(request)
                while piece := connection.recv(1 << 20):
                    answer += piece
            except (TimeoutError, ConnectionError):
                pass
        return [int(status) for status in re.findall(rb"^HTTP/1\.[01] ([0-9]{3}) ", answer, re.MULTILINE)]

    def ask(self, origin: str, method: str, target: str | bytes, *lines: bytes, body: bytes = b"") -> list[int]:
        """Send one request with these header lines."""
        target = target.encode("utf-8", "surrogateescape") if isinstance(target, str) else target
        key = self.sandbox.api_key.encode()
        names = {line.partition(b":")[0].lower() for line in lines}
        own = [b"Connection: close"]
        own += [b"Host: localhost"] * (b"host" not in names)
        own += [b"Authorization: Bearer " + key] * (b"authorization" not in names and origin == self.origins[0])
        own += [b"Content-Length: %d" % len(body)] * (b"content-length" not in names and bool(body))
        head = [method.encode() + b" " + target + b" HTTP/1.1", *own, *lines]
        return self.exchange(origin, b"\r\n".join(head) + b"\r\n\r\n" + body)


@contextmanager
def running_wild(**options: Any) -> Iterator[Wild]:
    """Start a silent sandbox without a limit; `options` may say otherwise."""
    handler = _Complaints()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with BlockingSandbox(Sandbox(**({"separation": "silent", "requests_per_minute": None} | options))) as sandbox:
            yield Wild(sandbox, handler.texts)
    finally:
        root.removeHandler(handler)
