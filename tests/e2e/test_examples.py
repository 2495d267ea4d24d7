"""The examples, each started as a user would start it, against a sandbox and a fake Telegram."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import web

from aistemsplitter_async.sandbox import Sandbox, Timed, faults

EXAMPLES = Path(__file__).parents[2] / "examples"
MakeWav = Callable[..., bytes]
Run = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    slow = Timed(base=1.6, per_second=0.0, workers=9)  # long enough to be seen at work
    async with Sandbox(separation="silent", requests_per_minute=None, progression=slow) as running:
        yield running


@pytest.fixture
async def run(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Run]:
    """Start an example; at the end it is stopped with Ctrl-C, and must not have logged anything."""
    running: list[asyncio.subprocess.Process] = []

    async def start(name: str, **variables: str) -> asyncio.subprocess.Process:
        environment = os.environ | {
            "AISTEMSPLITTER_API_KEY": sandbox.api_key,
            "AISTEMSPLITTER_BASE_URL": sandbox.base_url,
            "AISTEMSPLITTER_WEBHOOK_SECRET": sandbox.webhook_secret,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(EXAMPLES / f"{name}.py"), cwd=tmp_path, env=environment | variables,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            _, err = await process.communicate()
        assert "Traceback" not in err.decode(), err.decode()
        assert sandbox.api_key not in err.decode()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def until(check: Callable[[], Awaitable[Any]]) -> Any:
    """Return what `check` returns once that is true."""
    async with asyncio.timeout(90):  # importing a framework takes a busy machine a while
        while True:
            with suppress(aiohttp.ClientConnectionError):
                if found := await check():
                    return found
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", ["aiohttp_app", "fastapi_app"])
async def test_a_service_accepts_songs_is_notified_by_webhooks_and_serves_stems(
    run: Run, sandbox: Sandbox, http: aiohttp.ClientSession, make_wav: MakeWav, name: str
) -> None:
    port = free_port()
    await run(name, PORT=str(port))
    url = f"http://127.0.0.1:{port}/songs"

    async def is_up() -> bool:
        async with http.get(f"{url}/unknown") as answer:
            return answer.status == 404

    await until(is_up)
    sandbox.faults.add("create", faults.FailedSplit("BAD_AUDIO", "nothing but noise"), calls=3)
    ids = []
    for n in range(3):  # users call their songs what they like
        async with http.post(url, params={"name": "song.wav"}, data=make_wav(1.0 + n)) as answer:
            assert answer.status == 202
            ids.append((await answer.json())["id"])

    async def shown(split_id: str) -> Any:
        async with http.get(f"{url}/{split_id}") as answer:
            answered = await answer.json()
            return answered if answered["status"] != "processing" else None

    for split_id in ids[:2]:
        assert await until(partial(shown, split_id)) == {
            "status": "done",
            "stems": ["bass", "drums", "other", "vocals"],
        }
        async with http.get(f"{url}/{split_id}/vocals") as answer:
            assert (answer.status, bool(await answer.read())) == (200, True)
        async with http.get(f"{url}/{split_id}/kazoo") as answer:
            assert answer.status == 404
    failed = await until(partial(shown, ids[2]))
    assert (failed["status"], "nothing but noise" in failed["error"]) == ("failed", True)
    assert [record.status for record in sandbox.ledger.deliveries] == [200] * 3
    assert {split.polls for split in sandbox.ledger.splits} == {1}
    async with http.post(url, params={"name": "song.wav"}, data=b"") as answer:  # nothing to upload
        assert answer.status == 502
    async with http.post(url, data=make_wav(1.0)) as answer:
        assert answer.status in (400, 422)
    forged = {"AIStemSplitter-Signature": f"t=1,v1={'0' * 64}"}
    for path in ("webhooks", "webhooks/"):
        async with http.post(f"http://127.0.0.1:{port}/{path}", data=b"{}", headers=forged) as answer:
            assert answer.status in (400, 404)


async def test_structlog_has_what_was_bound_in_the_clients_lines_and_prometheus_counts_its_events(
    run: Run, sandbox: Sandbox, http: aiohttp.ClientSession, make_wav: MakeWav
) -> None:
    port = free_port()
    process = await run("structlog_prometheus", PORT=str(port))
    url = f"http://127.0.0.1:{port}"

    async def scrape() -> dict[str, float]:
        async with http.get(f"{url}/metrics") as answer:
            lines = [line.rpartition(" ") for line in (await answer.text()).splitlines() if not line.startswith("#")]
            return {name: float(value) for name, _, value in lines}

    await until(scrape)
    sandbox.faults.add("create", faults.Status(503), times=1)

    async def split(name: str, data: bytes) -> int:
        async with http.post(f"{url}/songs", params={"name": f"{name}.wav"}, data=data) as answer:
            return answer.status

    songs = split("one", make_wav(2.0)), split("two", make_wav(3.0)), split("empty", b"")
    assert sorted(await asyncio.gather(*songs)) == [200, 200, 502]
    numbers = await scrape()
    assert numbers['stems_requests_total{operation="create_split",status="200"}'] == 2
    assert numbers['stems_requests_total{operation="create_split",status="503"}'] == 1
    assert numbers['stems_requests_total{operation="download_stem",status="200"}'] == 8
    assert numbers['stems_stage_seconds_count{error="",stage="wait"}'] == 2
    assert numbers['stems_stage_seconds_count{error="SourceUnreadableError",stage="prepare"}'] == 1
    assert (numbers["stems_throttled_total"], numbers["stems_credits_total"]) == (0, 5)
    assert numbers["stems_gate_used"] > 0
    assert not any(split.split_id in name for split in sandbox.ledger.splits for name in numbers)

    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    lines = [json.loads(line) for line in err.decode().splitlines()]
    of_client = [line for line in lines if line["logger"].startswith("aistemsplitter_async.") and line.get("operation")]
    by_song = {
        song: {line["request"] for line in of_client if line["song"] == f"{song}.wav"} for song in ("one", "two")
    }
    assert [len(requests) for requests in by_song.values()] == [1, 1]
    assert by_song["one"] != by_song["two"]
    assert {line["operation"] for line in of_client if line["song"] == "two.wav"} == {
        *("create_upload", "upload", "create_split", "get_split", "download_stem")
    }
    (retry,) = [line for line in of_client if line["event_type"] == "RetryPlanned"]
    assert (retry["level"], retry["status"], "trying again" in retry["event"]) == ("warning", 503, True)


@attrs.define
class Telegram:
    """As much of a Bot API server as one chat needs: one user's messages go in, what the bot does comes out."""

    url: str
    files: dict[str, bytes]
    updates: asyncio.Queue[dict[str, Any]]
    texts: dict[int, list[str]]
    audios: list[tuple[str, bytes]]
    refused: list[str] = attrs.field(factory=list[str])
    refusing: str | None = None

    def send(self, **content: Any) -> None:
        """Let the user send a message."""
        number = self.updates.qsize() + len(self.texts) + 100
        message = self.build_message(number, **content)
        self.updates.put_nowait({"update_id": number, "message": message})

    def build_message(self, number: int, **content: Any) -> dict[str, Any]:
        return {"message_id": number, "date": 1_800_000_000, "chat": {"id": 7, "type": "private"}} | content

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one call of the bot."""
        if request.path.startswith("/file/"):
            return web.Response(body=self.files[request.path.rpartition("/")[2]])
        method = request.path.rpartition("/")[2]
        form = dict(await request.post())
        if method == "editMessageText" and self.is_refused(form):
            error = {"ok": False, "error_code": 400, "description": "Bad Request: message is not modified"}
            return web.json_response(error, status=400)
        return web.json_response({"ok": True, "result": await self.call(method, form)})

    def is_refused(self, form: dict[str, Any]) -> bool:
        """Whether an edit fails: one that changes nothing, and whatever the test names."""
        text = form["text"]
        refused = text in (self.texts[int(form["message_id"])][-1], self.refusing)
        if refused:
            self.refused.append(text)
        return refused

    async def call(self, method: str, form: dict[str, Any]) -> Any:
        match method:
            case "getMe":
                return {"id": 1, "is_bot": True, "first_name": "Stems", "username": "stems_bot"}
            case "getUpdates":
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        return [await self.updates.get()]
                return []
            case "getFile":
                size = len(self.files[form["file_id"]])
                return {
                    "file_id": form["file_id"],
                    "file_unique_id": "u",
                    "file_size": size,
                    "file_path": form["file_id"],
                }
            case "sendMessage":
                number = len(self.texts) + 1
                self.texts[number] = [form["text"]]
                return self.build_message(number, text=form["text"])
            case "editMessageText":
                number = int(form["message_id"])
                self.texts[number].append(form["text"])
                return self.build_message(number, text=form["text"])
            case "sendAudio":
                upload = next(value for value in form.values() if isinstance(value, web.FileField))
                self.audios.append((form["title"], upload.file.read()))
                return self.build_message(999, text="audio")
            case _:
                return True


@pytest.fixture
async def telegram() -> AsyncIterator[Telegram]:
    app = web.Application()
    runner = web.AppRunner(app, shutdown_timeout=1)
    server = Telegram("", {}, asyncio.Queue(), {}, [])
    app.router.add_route("*", "/{path:.*}", server.handle)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


async def test_a_bot_is_sent_a_song_shows_its_progress_and_answers_with_stems(
    run: Run, sandbox: Sandbox, telegram: Telegram, make_wav: MakeWav
) -> None:
    song = make_wav(3.0)
    telegram.files["song"] = song
    audio = {"file_id": "song", "file_unique_id": "u", "duration": 3, "file_name": "song.wav", "file_size": len(song)}
    await run("aiogram_bot", BOT_TOKEN="123456:abcdefghijklmnopqrstuvwxyz", TELEGRAM_API_URL=telegram.url)
    telegram.send(audio=audio)

    async def answered() -> bool:
        return len(telegram.audios) == 4

    await until(answered)
    assert sorted(title for title, _ in telegram.audios) == [
        f"{stem} of song.wav" for stem in ("bass", "drums", "other", "vocals")
    ]
    assert all(stem for _, stem in telegram.audios)
    said = telegram.texts[1]
    assert (said[0], said[-1]) == ("song.wav: uploading", "song.wav: succeeded")
    assert "song.wav: processing" in said
    assert [upload.size_bytes for upload in sandbox.ledger.uploads] == [len(song)]

    sandbox.faults.add("create", faults.FailedSplit("BAD_AUDIO", "nothing but noise"))
    telegram.send(audio=audio)
    telegram.send(text="hello")

    async def failure_was_reported() -> bool:
        return len(telegram.texts) == 3 and any("nothing but noise" in texts[-1] for texts in telegram.texts.values())

    await until(failure_was_reported)
    assert ["Send me a song as audio, and I will send you its stems."] in telegram.texts.values()


@pytest.fixture
async def restless(sandbox: Sandbox, http: aiohttp.ClientSession) -> AsyncIterator[str]:
    """The sandbox's API, where a running split changes with every poll, though its status does not."""

    async def forward(request: web.Request) -> web.Response:
        wanted = ("authorization", "content-type", "idempotency-key")
        headers = {name: value for name, value in request.headers.items() if name.lower() in wanted}
        url = sandbox.base_url.removesuffix("/v1") + request.path_qs
        async with http.request(request.method, url, data=await request.read(), headers=headers) as answer:
            reply = await answer.json()
        if reply.get("data", {}).get("status") == "processing":
            reply["data"]["updatedAt"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        return web.json_response(reply, status=answer.status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


async def test_a_bot_edits_only_what_changes_and_an_edit_that_fails_takes_no_stems_away(
    run: Run, sandbox: Sandbox, restless: str, telegram: Telegram, make_wav: MakeWav
) -> None:
    telegram.files["song"] = song = make_wav(3.0)
    variables = {"BOT_TOKEN": "123456:abcdefghijklmnopqrstuvwxyz", "AISTEMSPLITTER_BASE_URL": restless}
    await run("aiogram_bot", TELEGRAM_API_URL=telegram.url, **variables)
    audio = {"file_id": "song", "file_unique_id": "u", "duration": 3, "file_name": "song.wav", "file_size": len(song)}

    for songs, refusing in enumerate((None, "song.wav: processing"), start=1):

        async def answered(expected: int = 4 * songs) -> bool:
            return len(telegram.audios) == expected

        telegram.refusing = refusing
        telegram.send(audio=audio)
        await until(answered)
        assert telegram.refused == ([refusing] if refusing else [])
    assert sandbox.ledger.splits[0].polls > 2  # so that there was something to say twice


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    names = [path.stem for path in EXAMPLES.glob("*.py")]
    assert names
    assert [name for name in names if f'"{name}"' not in source] == []
