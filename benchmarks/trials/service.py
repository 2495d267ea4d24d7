"""The service, written by hand on bare sockets: API, upload worker, CDN and a proxy that refuses, all on one port."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import attrs

from benchmarks.trials.account import Account, Charge
from benchmarks.trials.replies import Answer, failure, success, write_reply
from benchmarks.trials.scenario import Fault, Op, Trial
from benchmarks.trials.songs import build_stem
from benchmarks.trials.watchdog import Watchdog

API_KEY = "ast_torture_4f1d8c"
TOKEN = "upload-token-77aa"  # noqa: S105  # opens nothing
MOST_OF_A_STEM = 320 * 1024 * 1024  # bytes of one without end that nobody should take: no song here has a minute
_BLOCK = bytes(512 * 1024)


class HungUpError(Exception):
    """The connection is over."""


@attrs.frozen
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@attrs.frozen
class Answered:
    """One request as the service noted it.

    Attributes:
        op: what it was.
        asked: when it came (seconds of the loop).
        at: when it was answered.
        wait: the seconds that the answer asked for before the next one, as far as that is certain.
        status: of the answer.
    """

    op: Op
    asked: float
    at: float
    wait: float = 0.0
    status: int = 200


class Service:
    """Serves an account on a port of this machine, and does to the requests what a trial says.

    Attributes:
        port: where it listens.
        tasks: one per connection.
        on_create: called with the number of a create, from 0, when it arrives.
        on_sleep: called when the machine falls asleep.
        answered: the requests, in the order of the answers.
        endless: bytes sent of stems without an end.
        swallowed: requests that were sent on a dead connection.

    Args:
        account: what it knows.
        trial: what goes wrong.
        listening: a socket of this machine.
        healthy: nothing goes wrong.
        now: POSIX seconds of its own clock.
        watchdog: is told of everything.
    """

    def __init__(
        self,
        account: Account,
        trial: Trial,
        listening: socket.socket,
        *,
        healthy: bool,
        now: Callable[[], float],
        watchdog: Watchdog,
    ) -> None:
        self.account = account
        self.port: int = listening.getsockname()[1]
        self.on_create: Callable[[int], None] = lambda _: None
        self._listening = listening
        self.tasks: set[asyncio.Task[None]] = set()
        self._trial = trial
        self._healthy = healthy
        self._faults = () if healthy else trial.faults
        self._proxy_status = 0 if healthy else trial.proxy_status
        self._now = now
        self._watchdog = watchdog
        self.on_sleep: Callable[[], None] = lambda: None
        self.answered: list[Answered] = []
        self.endless = 0
        self.swallowed = 0
        self._counts: Counter[str] = Counter()
        self._open: set[asyncio.StreamWriter] = set()
        self._dead: set[asyncio.StreamWriter] = set()
        self._began: dict[Fault, float] = {}  # those that last
        self._done_at: dict[str, float] = {}  # when a split was first seen to be done

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._accept, sock=self._listening.dup())

    async def stop(self) -> None:
        """Stop listening, and close the connections."""
        self._server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with suppress(HungUpError, asyncio.IncompleteReadError, OSError):
                while True:
                    await self._answer_one(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if writer in self._dead:
            self.swallowed += 1
            await asyncio.Event().wait()
        asked_at = asyncio.get_running_loop().time()
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if method == "CONNECT":
            more = "" if self._proxy_status == 200 else "Content-Length: 0\r\n"
            writer.write(f"HTTP/1.1 {self._proxy_status} Said\r\n{more}\r\n".encode()[: self._trial.proxy_bytes])
            await writer.drain()
            raise HungUpError
        path = target.removeprefix(self.base)
        op = _op_of(method, path)
        self._watchdog.note_request(op)
        number = self._counts.total()
        fault = self._take_fault(op, path)
        length = int(headers.get("content-length", "0"))
        if fault.cut is not None and fault.cut.of == "request":
            await reader.readexactly(min(length, max(0, fault.cut.byte - len(head))))
            _hang_up(writer, reset=fault.cut.reset)
        asked = Asked(method, path, headers, await reader.readexactly(length))
        if ("authorization" in headers) != path.startswith("/v1/"):
            self.account.problems.append(f"the API key went to {path}, or was missing there")
        if op == "create" and not self._healthy:
            self.on_create(self._counts[op] - 1)
            await _let_pass(self._trial.pauses[0])
            if self._is_sick(asked):
                fault = Fault(op=op, effect=self._trial.sick_effect, status=500)
        if op == "upload" and not self._healthy:
            await asyncio.sleep(self._trial.reservations.upload)
        usual = self._do(op, asked) if fault.effect else Answer(500)
        if op == "create" and not self._healthy:
            await _let_pass(self._trial.pauses[1])
            await asyncio.sleep(self._trial.slow)
        dated = attrs.evolve(fault, date=fault.date or self._trial.dated)
        reply = write_reply(usual, dated, self._now())
        self._note(op, asked_at, fault, usual)
        if writer in self._dead:
            await asyncio.Event().wait()
        if fault.cut is not None:
            writer.write(reply[: fault.cut.byte])
            await writer.drain()
            _hang_up(writer, reset=fault.cut.reset)
        if op == "download" and self._is_endless(path):
            await self._send_without_end(reply, writer)
        writer.write(reply)
        await writer.drain()
        self._watchdog.note_sign()
        sleep = self._trial.sleep
        if sleep is not None and sleep.request == number and not self._healthy:
            self._dead |= self._open
            self.on_sleep()

    def _take_fault(self, op: Op, path: str) -> Fault:
        number = self._counts[op]
        self._counts[op] += 1
        for fault in self._faults:
            if fault.op == op and self._is_due(fault, number, path):
                return fault
        return Fault(op=op)

    def _is_due(self, fault: Fault, number: int, path: str) -> bool:
        if fault.young:
            if fault.op == "poll":
                charge = self.account.find(path.rpartition("/")[2])
                return charge is not None and self._now() < charge.at + fault.young
            return self._now() < self._done_at.get(path.split("/")[2], 0.0) + fault.young
        if not fault.nth <= number < fault.nth + fault.times:
            return False
        return not fault.lasts or self._now() < self._began.setdefault(fault, self._now()) + fault.lasts

    def _is_sick(self, asked: Asked) -> bool:
        return self._trial.sick is not None and self.account.song_of(asked.body) == self._trial.sick

    def _note(self, op: Op, asked: float, fault: Fault, usual: Answer) -> None:
        """Note an answer, and tell the watchdog what it brings."""
        status = fault.status or usual.status
        now = asyncio.get_running_loop().time()
        self.answered.append(Answered(op, asked, now, fault.at_least if fault.retry_after else 0.0, status))
        if fault.cut is None and status == 200 and op == "poll" and usual.value is not None:
            data = usual.value["data"]
            self._watchdog.note_progress(("status", data["id"], data["status"]))
            if data["status"] == "succeeded":
                self._done_at.setdefault(data["id"], self._now())

    def _is_endless(self, path: str) -> bool:
        trial = self._trial
        first = path.endswith(f"/{trial.songs[0].number}/{trial.stems[0]}.mp3")
        return first and not self._healthy and self._counts["endless"] < trial.endless

    async def _send_without_end(self, reply: bytes, writer: asyncio.StreamWriter) -> None:
        self._counts["endless"] += 1
        head = reply.partition(b"\r\n\r\n")[0].split(b"\r\n")
        head = [line for line in head if not line.lower().startswith((b"content-length", b"transfer-encoding"))]
        head += [b"Content-Length: 1000000000000000"] if self._trial.announced else [b"Connection: close"]
        writer.write(b"\r\n".join(head) + b"\r\n\r\n")
        sent = 0
        while sent < MOST_OF_A_STEM:
            writer.write(_BLOCK)
            await writer.drain()
            sent += len(_BLOCK)
            self.endless = max(self.endless, sent)
        raise HungUpError

    def _do(self, op: Op, asked: Asked) -> Answer:
        if op == "reserve":
            return self._reserve()
        if op == "upload":
            return self._upload(asked)
        if op == "create":
            return self._create(asked)
        return self._poll(asked) if op == "poll" else self._download(asked)

    def _reserve(self) -> Answer:
        lifetime = self._trial.reservations.lifetime
        upload = self.account.reserve(until=self._now() + lifetime)
        value = {
            "uploadId": upload,
            "uploadUrl": f"{self.base}/worker/{upload}",
            "uploadHeaders": {"X-Upload-Token": TOKEN},
            "expiresAt": self._time(lifetime),
        }
        return success(value)

    def _upload(self, asked: Asked) -> Answer:
        if asked.headers.get("x-upload-token") != TOKEN:
            return Answer(403, {"success": False, "error": "FORBIDDEN", "message": "no token"})
        upload = asked.path.rpartition("/")[2]
        if self._trial.reservations.refused == "worker" and self._is_over(upload):
            status = self._trial.reservations.status
            return Answer(status, {"success": False, "error": "EXPIRED", "message": "the reservation has expired"})
        if not self.account.store(upload, asked.body):
            self.account.problems.append(f"{len(asked.body)} bytes without a song were uploaded: {asked.body[:16]!r}")
            return Answer(422, {"success": False, "error": "NO_AUDIO", "message": "there is no song in it"})
        self._watchdog.note_progress(("uploaded", self.account.song_of_upload(upload)))
        return success({"url": f"{self.base}/sources/{upload}", "key": f"sources/{upload}"})

    def _create(self, asked: Asked) -> Answer:
        upload = self.account.upload_of(asked.body)
        if upload and self._trial.reservations.refused == "create" and self._is_over(upload):
            return failure(422, "VALIDATION_ERROR", "the upload has expired")
        charge = self.account.create(asked.headers.get("idempotency-key", ""), asked.body, now=self._now())
        if charge is None:
            return failure(422, "VALIDATION_ERROR", "what upload?")
        self._watchdog.note_progress(("charge", charge.key))
        return success(
            {
                "id": charge.split_id,
                "status": "queued",
                "creditsUsed": charge.credits,
                "createdAt": self._time(),
            }
        )

    def _poll(self, asked: Asked) -> Answer:
        split_id = asked.path.rpartition("/")[2]
        charge = self.account.find(split_id)
        if charge is None:
            return failure(404, "NOT_FOUND", "no such split")
        done = self.account.is_done(split_id, self._trial.polls)
        return success(self._describe(charge, "succeeded" if done else "processing"))

    def _describe(self, charge: Charge, status: str) -> dict[str, Any]:
        urls = {stem: f"{self.base}/cdn/{charge.split_id}/{charge.song}/{stem}.mp3" for stem in self._trial.stems}
        return {
            "id": charge.split_id,
            "status": status,
            "stemModel": "4s",
            "filename": f"song{charge.song}.wav",
            "durationSeconds": charge.credits,
            "creditsUsed": charge.credits,
            "createdAt": self._time(),
            "updatedAt": self._time(),
            "stems": urls if status == "succeeded" else None,
            "error": None,
        }

    def _download(self, asked: Asked) -> Answer:
        split_id, song, file = asked.path.split("/")[-3:]
        body = build_stem(split_id, int(song), file.removesuffix(".mp3"))
        tag = f'"{len(body)}-{split_id}"'
        self._watchdog.note_progress(("bytes", asked.path, asked.headers.get("range", "")))
        usual = (("Content-Type", "audio/mpeg"), ("ETag", tag))
        if self._trial.framing == "chunked":
            return Answer(200, body=body, headers=(*usual, ("Transfer-Encoding", "chunked")))
        wanted = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
        if wanted is None or asked.headers.get("if-range", tag) != tag:
            return Answer(200, body=body, headers=usual)
        start = int(wanted[1])
        if start >= len(body):
            return Answer(416, headers=(("Content-Range", f"bytes */{len(body)}"),))
        part = ("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        return Answer(206, body=body[start:], headers=(*usual, part))

    def _is_over(self, upload: str) -> bool:
        return not self._healthy and self._now() >= self.account.expires_at(upload)

    def _time(self, later: float = 0.0) -> str:
        return datetime.fromtimestamp(self._now() + later, UTC).isoformat().replace("+00:00", "Z")


async def _let_pass(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def _op_of(method: str, path: str) -> Op:
    if path.startswith("/worker/"):
        return "upload"
    if path.startswith("/cdn/"):
        return "download"
    if method == "POST":
        return "reserve" if path == "/v1/audio/uploads" else "create"
    return "poll"


def _hang_up(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    raise HungUpError
