"""The service, written by hand on bare sockets: API, upload worker, CDN and a proxy that refuses, all on one port."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import attrs

from benchmarks.trials.account import Account
from benchmarks.trials.api import API, Asked
from benchmarks.trials.replies import Answer, write_reply
from benchmarks.trials.scenario import Fault, Op, Trial
from benchmarks.trials.watchdog import Watchdog

API_KEY, NEW_KEY = "ast_torture_4f1d8c", "ast_torture_9e02b7"  # of one account
_MOST_OF_A_STEM = 96 * 1024 * 1024  # bytes of one without end that nobody should take: such songs have three seconds
_UNDER_WAY = 2  # turns of the loop after which a request that comes was not sent before
_BLOCK = bytes(512 * 1024)


class HungUpError(Exception):
    """The connection is over."""


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
        swallowed: requests that were sent on a dead connection.
        turns: tells how many turns the loop has made.

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
        self._api = API(account, self.base, trial, healthy, now, watchdog)
        self._watchdog = watchdog
        self.on_sleep: Callable[[], None] = lambda: None
        self.answered: list[Answered] = []
        self.swallowed = 0
        self.turns: Callable[[], int] = lambda: 0
        self._asleep_at = 0
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
            self.swallowed += self.turns() > self._asleep_at + _UNDER_WAY
            await asyncio.Event().wait()
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if method == "CONNECT":
            await self._refuse_to_connect(writer)
        path = target.removeprefix(self.base)
        op = _op_of(method, path)
        self._watchdog.note_request(op)
        number, asked_at = self._counts.total(), asyncio.get_running_loop().time()
        fault = self._take_fault(op, path)
        length = int(headers.get("content-length", "0"))
        if fault.cut is not None and fault.cut.of == "request":
            await reader.readexactly(min(length, max(0, fault.cut.byte - len(head))))
            _hang_up(writer, reset=fault.cut.reset)
        asked = Asked(method, path, headers, await reader.readexactly(length))
        if ("authorization" in headers) != path.startswith("/v1/"):
            self.account.problems.append(f"the API key went to {path}, or was missing there")
        if op == "create" and not self._healthy and self._api.is_sick(asked):
            fault = Fault(op=op, effect=self._trial.sick_effect, status=500)
        usual = await self._act(op, asked, fault)
        dated = attrs.evolve(fault, date=fault.date or self._trial.dated)
        reply = write_reply(usual, dated, self._now())
        self._note(op, asked_at, fault, usual)
        if op == "download" and self._is_endless(path):
            await self._send_without_end(reply, writer)
        await self._send(reply, fault, writer)
        self._fall_asleep(number)

    async def _refuse_to_connect(self, writer: asyncio.StreamWriter) -> None:
        more = "" if self._proxy_status == 200 else "Content-Length: 0\r\n"
        writer.write(f"HTTP/1.1 {self._proxy_status} Said\r\n{more}\r\n".encode()[: self._trial.proxy_bytes])
        await writer.drain()
        raise HungUpError

    async def _act(self, op: Op, asked: Asked, fault: Fault) -> Answer:
        """Do what is asked for, unless the fault is that it is not done."""
        trial, troubled = self._trial, not self._healthy
        if op == "create" and troubled:
            self.on_create(self._counts[op] - 1)
            await _let_pass(trial.pauses[0])
        if op == "upload" and troubled:
            await asyncio.sleep(trial.reservations.upload)
        usual = self._api.do(op, asked) if fault.effect else Answer(500)
        if op == "create" and troubled:
            await _let_pass(trial.pauses[1])
            await asyncio.sleep(trial.slow)
        return usual

    async def _send(self, reply: bytes, fault: Fault, writer: asyncio.StreamWriter) -> None:
        if writer in self._dead:
            await asyncio.Event().wait()
        writer.write(reply if fault.cut is None else reply[: fault.cut.byte])
        await writer.drain()
        if fault.cut is not None:
            _hang_up(writer, reset=fault.cut.reset)
        self._watchdog.note_sign()

    def _fall_asleep(self, number: int) -> None:
        sleep = self._trial.sleep
        if sleep is not None and sleep.request == number and not self._healthy:
            self._dead |= self._open
            self._asleep_at = self.turns()
            self.on_sleep()
            self.account.finish_all()

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

    def _note(self, op: Op, asked: float, fault: Fault, usual: Answer) -> None:
        """Note an answer, and tell the watchdog what it brings."""
        status = fault.status or usual.status
        now = asyncio.get_running_loop().time()
        self.answered.append(Answered(op, asked, now, fault.at_least if fault.retry_after else 0.0, status))
        if fault.cut is None and status == 200 and op == "poll" and "id" in (usual.value or {}).get("data", {}):
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
        chunked = not self._trial.announced and self._trial.framing == "chunked"
        if self._trial.announced:
            head.append(b"Content-Length: 1000000000000000")
        else:
            head.append(b"Transfer-Encoding: chunked" if chunked else b"Connection: close")
        writer.write(b"\r\n".join(head) + b"\r\n\r\n")
        sent = 0
        while sent < _MOST_OF_A_STEM:
            writer.write(b"%x\r\n%b\r\n" % (len(_BLOCK), _BLOCK) if chunked else _BLOCK)
            await writer.drain()
            sent += len(_BLOCK)
        self._watchdog.bark(f"{sent >> 20} MiB of a stem of {self._trial.songs[0].seconds} s were taken")
        raise HungUpError


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
