"""The drivers of the end-to-end tests: bare requests, the command line, a browser."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import signal
import sys
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import attrs
from aiohttp import web

from aistemsplitter_async import WebhookReceiver
from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.nursery import Nursery

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--mute-audio",
]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # what the WebDriver standard calls a reference to an element
SECRET = "whsec_test"
MakeWav = Callable[..., bytes]


def build_wav(seconds: float = 1.0, *, rate: int = 8000, channels: int = 2) -> bytes:
    """A valid 16-bit wav file with a quiet saw in it, so that no two lengths have the same bytes."""
    frames = int(seconds * rate)
    tooth = b"".join(((n * 40) % 4000 - 2000).to_bytes(2, "little", signed=True) * channels for n in range(100))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((tooth * (frames // 100 + 1))[: frames * 2 * channels])
    return buffer.getvalue()


@attrs.frozen
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: Any
    raw: bytes
    json: Any


@attrs.frozen
class BareAPI:
    """Requests to a sandbox, spelled out by hand."""

    sandbox: Sandbox
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, *, key: str | None = None, **options: Any) -> Answer:
        """Send one request to the API with the sandbox's (or another) key."""
        headers = {"Authorization": f"Bearer {key or self.sandbox.api_key}"} | options.pop("headers", {})
        return await self.send(method, self.sandbox.base_url + path, headers=headers, **options)

    async def send(self, method: str, url: str, **options: Any) -> Answer:
        """Send one request anywhere, with nothing added."""
        async with self.http.request(method, url, allow_redirects=False, **options) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json"
            return Answer(response.status, response.headers, raw, await response.json() if is_json and raw else None)

    async def reserve(self, data: bytes, *, filename: str = "song.wav", content_type: str = "audio/wav") -> Any:
        """Reserve an upload and return its `data`."""
        body = {"filename": filename, "contentType": content_type, "contentLength": len(data)}
        answer = await self.call("POST", "/audio/uploads", json=body)
        assert answer.status == 200, answer
        return answer.json["data"]

    async def put(self, reservation: Any, data: bytes, *, content_type: str = "audio/wav") -> Answer:
        """Send a file to the upload worker as the clients do."""
        headers = dict(reservation["uploadHeaders"]) | {"Content-Type": content_type}
        return await self.send("POST", reservation["uploadUrl"], data=io.BytesIO(data), headers=headers)

    async def upload(self, data: bytes, **reservation: Any) -> dict[str, str]:
        """Upload a file and return the `input` that names it."""
        reserved = await self.reserve(data, **reservation)
        answer = await self.put(reserved, data, content_type=reservation.get("content_type", "audio/wav"))
        assert answer.status == 200, answer
        stored = answer.json["data"]
        return {
            "type": "uploaded_file",
            "uploadId": reserved["uploadId"],
            "fileUrl": stored["url"],
            "storageKey": stored["key"],
        }

    async def create(self, source: dict[str, str] | str, *, key: str | None = None, **fields: Any) -> Answer:
        """Create a split of an uploaded input or a URL, with an idempotency key where given."""
        if isinstance(source, str):
            source = {"type": "direct_url", "url": source}
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.call("POST", "/audio/splits", json={"input": source} | fields, headers=headers)

    async def get(self, split_id: str) -> Any:
        """Return `data` of a split."""
        answer = await self.call("GET", f"/audio/splits/{split_id}")
        assert answer.status == 200, answer
        return answer.json["data"]

    async def finish(self, source: dict[str, str] | str, **fields: Any) -> Any:
        """Create a split and return it once it is finished."""
        created = await self.create(source, **fields)
        assert created.status == 200, created
        while True:
            split = await self.get(created.json["data"]["id"])
            if split["status"] in ("succeeded", "failed"):
                return split


Connect = Callable[..., AbstractAsyncContextManager[BareAPI]]


@attrs.frozen
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def problem(self) -> str:
        """The one line that says what went wrong."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line.removeprefix("error: ")


@attrs.frozen
class CLI:
    """Starts the command line in a folder of its own."""

    folder: Path
    environment: dict[str, str]
    nursery: Nursery | None = None

    def using(self, sandbox: Sandbox, *, key: str | None = None) -> CLI:
        return self.with_(AISTEMSPLITTER_BASE_URL=sandbox.base_url, AISTEMSPLITTER_API_KEY=key or sandbox.api_key)

    def with_(self, **variables: str) -> CLI:
        return attrs.evolve(self, environment=self.environment | variables)

    async def start(self, *arguments: object, **options: Any) -> asyncio.subprocess.Process:
        pipes = {"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.PIPE} | options
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "aistemsplitter_async",
            *map(str, arguments),
            cwd=self.folder,
            env=self.environment,
            stderr=asyncio.subprocess.PIPE,
            **pipes,
        )

    async def run(self, *arguments: object, stdin: bytes | None = None) -> Ended:
        if stdin is None and self.nursery is not None and self.nursery.suits(self.environment):
            async with asyncio.timeout(60):
                return self.check(*await self.nursery.run(map(str, arguments), self.folder, self.environment))
        options = {"stdin": asyncio.subprocess.PIPE} if stdin is not None else {}
        return await self.end(await self.start(*arguments, **options), stdin=stdin)

    async def end(self, process: asyncio.subprocess.Process, *, seen: str = "", stdin: bytes | None = None) -> Ended:
        async with asyncio.timeout(60):
            out, err = await process.communicate(stdin)
        return self.check(process.returncode or 0, out or b"", seen.encode() + err)

    def check(self, code: int, out: bytes, err: bytes) -> Ended:
        """Check what holds for every command: no traceback and no key anywhere."""
        ended = Ended(code, out.decode(), err.decode())
        for stream in (ended.out, ended.err):
            assert "Traceback" not in stream
            assert self.environment.get("AISTEMSPLITTER_API_KEY", "no key is set") not in stream
        return ended

    async def interrupt(self, *arguments: object, at: str, by: int = signal.SIGINT) -> Ended:
        """Send a signal once stderr says `at`."""
        process = await self.start(*arguments)
        seen = await self.read_until(process, at)
        process.send_signal(by)
        return await self.end(process, seen=seen)

    @staticmethod
    async def read_until(process: asyncio.subprocess.Process, words: str) -> str:
        assert process.stderr is not None
        seen = ""
        async with asyncio.timeout(30):
            while words not in seen:
                line = (await process.stderr.readline()).decode()
                assert line, f"{words!r} never came; stderr was: {seen}"
                seen += line
        return seen


@attrs.frozen
class Browser:
    """One window, driven over chromedriver's own HTTP protocol.

    What it does goes through the event loop, because the sandbox answers from the same one.
    """

    session: str
    http: aiohttp.ClientSession

    async def send(self, path: str, **body: Any) -> Any:
        """Send one WebDriver command and return its value."""
        async with self.http.post(f"{self.session}/{path}", json=body) as response:
            value = (await response.json())["value"]
            assert response.status == 200, value
            return value

    async def cdp(self, command: str, **params: Any) -> Any:
        """Send a command of the browser's own protocol, for what WebDriver has no word for."""
        return await self.send("goog/cdp/execute", cmd=command, params=params)

    async def open(self, url: str) -> None:
        await self.send("url", url=url)

    async def run(self, script: str, *args: Any) -> Any:
        """Run a function body in the page and return what it returns."""
        return await self.send("execute/sync", script=script, args=list(args))

    async def wait(self, expression: str, timeout: float = 15.0) -> Any:
        """Return the expression's value as soon as it is true."""
        async with asyncio.timeout(timeout):
            while not (value := await self.run(f"return {expression};")):  # noqa: ASYNC110  another process
                await asyncio.sleep(0.03)
            return value

    async def texts(self, selector: str) -> list[str]:
        """Return the texts of the visible elements a selector finds."""
        script = (
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map(e => e.innerText)"
        )
        found: list[str] = await self.run(script, selector)
        return found

    async def type(self, selector: str, text: str) -> None:
        """Type into the element a selector finds."""
        found = await self.run("return document.querySelector(arguments[0])", selector)
        await self.send(f"element/{found[ELEMENT]}/value", text=text)

    async def press(self, *keys: str) -> None:
        """Press keys on whatever has the focus."""
        for key in keys:
            focused = await self.run("return document.activeElement;")
            await self.send(f"element/{focused[ELEMENT]}/value", text=key)

    async def emulate(self, *, scheme: str = "light", width: int = 1280, height: int = 900) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.cdp("Emulation.setEmulatedMedia", features=features)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.cdp("Emulation.setDeviceMetricsOverride", **size)

    async def complaints(self) -> list[str]:
        """Return what the console holds, and forget it."""
        return [entry["message"] for entry in await self.send("se/log", type="browser")]


@asynccontextmanager
async def serve_receiver(**options: Any) -> AsyncIterator[WebhookReceiver]:
    """Serve a webhook receiver with `SECRET` on this machine."""
    app = web.Application()
    runner = web.AppRunner(app)
    receiver: list[WebhookReceiver] = []

    async def handle(request: web.Request) -> web.Response:
        return await receiver[0].aiohttp_handler(request)

    app.router.add_post("/hooks", handle)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.append(WebhookReceiver(SECRET, url=f"http://127.0.0.1:{runner.addresses[0][1]}/hooks", **options))
    try:
        yield receiver[0]
    finally:
        await runner.cleanup()


@attrs.define(eq=False)
class LedgerAPI:
    """The create of the API on a bare socket, written against its documentation and not with our sandbox.

    A create is charged when its last byte has arrived, once for each key, and answered when `answering` is set.

    Attributes:
        url: to give to a client.
        bodies: those that came with each key.
        charges: the id of the split charged for each key.
        arrived: set once a create was charged.
        answering: whether creates are answered now.
    """

    url: str = ""
    bodies: dict[str, list[bytes]] = attrs.field(factory=dict[str, list[bytes]])
    charges: dict[str, str] = attrs.field(factory=dict[str, str])
    arrived: asyncio.Event = attrs.field(factory=asyncio.Event)
    answering: asyncio.Event = attrs.field(factory=asyncio.Event)

    @classmethod
    @asynccontextmanager
    async def serve(cls) -> AsyncIterator[LedgerAPI]:
        api = cls()
        server = await asyncio.start_server(api._connected, "127.0.0.1", 0)
        api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with server:
            yield api
            api.answering.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode().split("\r\n")
                headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                await self._answer(writer, request, headers.get("idempotency-key", ""), body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client closed the connection
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, request: str, key: str, body: bytes) -> None:
        if not request.startswith("POST /v1/audio/splits "):
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        self.bodies.setdefault(key, []).append(body)
        split_id = self.charges.setdefault(key, f"split_{len(self.charges) + 1}")
        self.arrived.set()
        await self.answering.wait()
        data = {"id": split_id, "status": "queued", "creditsUsed": 60, "createdAt": "2026-01-01T00:00:00Z"}
        reply = json.dumps({"success": True, "data": data}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(reply)}\r\n\r\n"
        writer.write(head.encode() + reply)
        await writer.drain()
