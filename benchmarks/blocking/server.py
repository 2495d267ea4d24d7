"""A server that answers every request of a client at once, in a process of its own."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import wave
from collections.abc import Iterator
from contextlib import contextmanager, suppress

MIB = 1024 * 1024
LONG = 60  # s of a long stem
STEMS = ("vocals", "drums", "bass", "other")


def write_wave(seconds: int) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setparams((2, 2, 44100, 0, "NONE", ""))
        file.writeframes(bytes(range(256)) * (44100 * 4 * seconds // 256))
    return written.getvalue()


class Server:
    """Answers every request at once."""

    def __init__(self) -> None:
        self.base = ""
        self._stem, self._long_stem = write_wave(1), write_wave(LONG)
        self._created = 0

    def split(self, name: str) -> dict[str, object]:
        stems = [f"stem{number}" for number in range(3000)] if name == "split_many_stems" else STEMS
        more = {"more": [[{"a": 1, "b": 2.5}] * 4000, ["text"] * 100_000]} if name == "split_large" else {}
        return {
            "id": name, "status": "succeeded", "stemModel": "4s", "filename": "x.mp3", "durationSeconds": LONG,
            "creditsUsed": 1, "createdAt": "2026-05-04T10:00:00Z", "updatedAt": "2026-05-04T10:00:09Z", "error": None,
            "stems": {stem: f"{self.base}/cdn/{name}/{stem}.wav" for stem in stems},
        } | more  # fmt: skip

    def data(self, method: str, path: str) -> dict[str, object]:
        """Return what a reply of the API or the worker has in it."""
        if path.endswith("/credits"):
            return {"balance": 6200, "unit": "seconds"}
        if path.endswith("/uploads"):
            expires = "2036-01-01T00:00:00Z"
            return {"uploadId": "u", "uploadUrl": f"{self.base}/worker", "uploadHeaders": {}, "expiresAt": expires}
        if path == "/worker":
            return {"url": f"{self.base}/kept", "key": "k"}
        if method == "POST":
            self._created += 1
            split = {"status": "queued", "creditsUsed": 1, "createdAt": "2026-05-04T10:00:00Z"}
            return {"id": f"split_{self._created}", **split}
        return self.split(path.rpartition("/")[2])

    def reply(self, method: str, path: str) -> tuple[str, str, bytes]:
        """Return a reply's status, type and body."""
        if path.startswith("/cdn/"):
            return "200 OK", "audio/wav", self._long_stem if "split_long" in path else self._stem
        if path.endswith("unknown"):
            return "404 Not Found", "application/json", b'{"success": false, "error": {"code": "NO", "message": "no"}}'
        body = {"success": True, "data": self.data(method, path)}
        return "200 OK", "application/json", json.dumps(body).encode()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.lower().split("\r\n")
                left = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
                while left:
                    left -= len(await reader.read(min(left, MIB)))
                status, kind, body = self.reply(*head.split(" ", 2)[:2])
                fields = f"Content-Type: {kind}\r\nContent-Length: {len(body)}"
                writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()

    async def run(self) -> None:
        server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        print(self.base, flush=True)
        await asyncio.Event().wait()


@contextmanager
def served() -> Iterator[str]:
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


if __name__ == "__main__":
    asyncio.run(Server().run())
