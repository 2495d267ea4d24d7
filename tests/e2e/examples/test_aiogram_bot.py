"""The Telegram bot, started as a user would start it, against a sandbox and a fake Telegram."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import web

from aistemsplitter_async.sandbox import Sandbox, faults
from tests.e2e.examples.conftest import EXAMPLES, Run, until
from tests.e2e.harness import MakeWav


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


@pytest.fixture
async def restless(sandbox: Sandbox, http: aiohttp.ClientSession) -> AsyncIterator[str]:
    """The sandbox's API, where a split is processing for three polls, and a little different in each."""
    polls = Counter[str]()

    async def forward(request: web.Request) -> web.Response:
        wanted = ("authorization", "content-type", "idempotency-key")
        headers = {name: value for name, value in request.headers.items() if name.lower() in wanted}
        url = sandbox.base_url.removesuffix("/v1") + request.path_qs
        async with http.request(request.method, url, data=await request.read(), headers=headers) as answer:
            reply = await answer.json()
        polls[request.path] += request.method == "GET"
        if 1 <= polls[request.path] <= 3 and "stems" in reply.get("data", {}):
            now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            reply["data"] |= {"status": "processing", "updatedAt": now, "stems": None, "error": None}
        return web.json_response(reply, status=answer.status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


async def test_a_bot_shows_progress_answers_with_stems_and_an_edit_that_fails_takes_none_away(
    run: Run, sandbox: Sandbox, restless: str, telegram: Telegram, make_wav: MakeWav
) -> None:
    telegram.files["song"] = song = make_wav(3.0)
    audio = {"file_id": "song", "file_unique_id": "u", "duration": 3, "file_name": "song.wav", "file_size": len(song)}
    variables = {"BOT_TOKEN": "123456:abcdefghijklmnopqrstuvwxyz", "AISTEMSPLITTER_BASE_URL": restless}
    await run(EXAMPLES / "aiogram_bot.py", TELEGRAM_API_URL=telegram.url, **variables)

    for songs, refusing in enumerate((None, "song.wav: processing"), start=1):

        async def answered(expected: int = 4 * songs) -> bool:
            return len(telegram.audios) == expected

        telegram.refusing = refusing
        telegram.send(audio=audio)
        await until(answered)
        assert telegram.refused == ([refusing] if refusing else []), "only what changes is edited"
    assert sorted(title for title, _ in telegram.audios[:4]) == [
        f"{stem} of song.wav" for stem in ("bass", "drums", "other", "vocals")
    ]
    assert all(stem for _, stem in telegram.audios)
    said = telegram.texts[1]
    assert (said[0], said[-1]) == ("song.wav: uploading", "song.wav: succeeded")
    assert "song.wav: processing" in said
    assert [upload.size_bytes for upload in sandbox.ledger.uploads] == [len(song)] * 2

    telegram.refusing = None
    sandbox.faults.add("create", faults.FailedSplit("BAD_AUDIO", "nothing but noise"))
    telegram.send(audio=audio)
    telegram.send(text="hello")

    async def failure_was_reported() -> bool:
        return len(telegram.texts) == 4 and any("nothing but noise" in texts[-1] for texts in telegram.texts.values())

    await until(failure_was_reported)
    assert ["Send me a song as audio, and I will send you its stems."] in telegram.texts.values()
