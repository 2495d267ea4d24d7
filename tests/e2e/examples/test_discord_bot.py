"""The Discord bot: discord.py as it is, over sockets, with as much of a Discord as one chat needs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import attrs
import pytest
from aiohttp import WSMsgType, web
from yarl import URL

from aistemsplitter_async.sandbox import Sandbox, faults
from tests.e2e.examples.conftest import Load, until

pytestmark = pytest.mark.filterwarnings("ignore:'audioop' is deprecated:DeprecationWarning")  # of discord.py

USER = {"id": "1", "username": "stems", "discriminator": "0", "avatar": None, "global_name": None}
CHANNEL = {"id": "7", "type": 1, "recipients": [USER], "last_message_id": None}
APPLICATION = {
    "id": "5", "name": "Stems", "icon": None, "description": "", "bot_public": True, "bot_require_code_grant": False,
    "owner": USER, "verify_key": "", "summary": "", "team": None, "flags": 0, "rpc_origins": None,
}  # fmt: skip


@attrs.define(eq=False)
class Discord:
    """The gateway, through which a user's commands go in, and the HTTP API, through which the bot answers.

    Attributes:
        commands: those that the bot registered, by name.
        said: the texts of the answer of each interaction, by its token.
        files: what was sent, by its text; `None` without a file.
        refusing: a text that the answer is not changed to.
        too_large: the text of a file that is refused, as it is where the limit is lower than was said.
    """

    commands: dict[str, Any] = attrs.field(factory=dict[str, Any])
    said: dict[str, list[str]] = attrs.field(factory=dict[str, list[str]])
    files: dict[str, tuple[str, bytes] | None] = attrs.field(factory=dict[str, "tuple[str, bytes] | None"])
    refusing: str | None = None
    too_large: str | None = None
    socket: web.WebSocketResponse | None = None
    sent: int = 0

    async def use(self, command: str, *, limit: int = 10 * 1024 * 1024, **options: Any) -> str:
        """Let the user give a command; return the token of the interaction."""
        from discord.utils import time_snowflake, utcnow

        assert self.socket is not None
        self.sent += 1
        kinds = {option["name"]: option["type"] for option in self.commands[command]["options"]}
        given = [{"name": name, "type": kinds[name], "value": value} for name, value in options.items()]
        attachment = {
            "id": "3", "size": 1_000_000, "filename": "song.mp3", "content_type": "audio/mpeg", "proxy_url": "",
            "url": "https://example.com/song.mp3?seconds=60&ex=1&hm=2",
        }  # fmt: skip
        data = {"id": "9", "name": command, "type": 1, "options": given, "resolved": {"attachments": {"3": attachment}}}
        interaction = {
            "id": str(time_snowflake(utcnow()) + self.sent), "type": 2, "version": 1,
            "application_id": "5", "token": f"token{self.sent}", "data": data, "channel": CHANNEL, "user": USER,
            "attachment_size_limit": limit, "entitlements": [], "authorizing_integration_owners": {}, "context": 1,
        }  # fmt: skip
        await self.socket.send_json({"op": 0, "t": "INTERACTION_CREATE", "s": self.sent + 1, "d": interaction})
        return f"token{self.sent}"

    async def gateway(self, request: web.Request) -> web.WebSocketResponse:
        self.socket = web.WebSocketResponse()
        await self.socket.prepare(request)
        await self.socket.send_json({"op": 10, "d": {"heartbeat_interval": 40_000}, "s": None, "t": None})
        async for message in self.socket:
            operation = message.json()["op"] if message.type is WSMsgType.TEXT else None
            if operation == 1:  # a heartbeat
                await self.socket.send_json({"op": 11, "d": None, "s": None, "t": None})
            elif operation == 2:
                ready = {"v": 10, "user": USER, "guilds": [], "session_id": "s", "resume_gateway_url": "ws://127.0.0.1"}
                await self.socket.send_json({"op": 0, "t": "READY", "s": 1, "d": ready})
        return self.socket

    async def answer(self, request: web.Request) -> web.Response:
        match request.method, request.path.strip("/").split("/"):
            case "GET", ["users", "@me"]:
                return reply(USER)
            case "GET", ["oauth2", "applications", "@me"]:
                return reply(APPLICATION)
            case "PUT", ["applications", "5", "commands"]:
                self.commands = {command["name"]: command for command in await request.json()}
                return reply([])
            case "POST", ["interactions", number, token, "callback"]:
                assert (await request.json())["type"] == 5  # an answer that comes later
                self.said[token] = []
                return reply({"interaction": {"id": number, "type": 2, "response_message_id": "8"}})
            case "PATCH", ["webhooks", "5", token, "messages", "@original"]:
                text = (await request.json())["content"]
                assert len(text) <= 2000
                if self.refusing is not None and self.refusing in text:
                    return reply({"code": 10_008, "message": "Unknown Message"}, status=404)
                self.said[token].append(text)
                return reply(build_message(text))
            case "POST", ["webhooks", "5", _]:
                return await self.receive(request)
            case unknown:
                raise AssertionError(unknown)

    async def receive(self, request: web.Request) -> web.Response:
        """Receive a further message, perhaps with a file."""
        if request.content_type == "application/json":
            message, file = await request.json(), None
        else:
            form = await request.post()
            field = form["files[0]"]
            assert isinstance(field, web.FileField)
            message, file = json.loads(str(form["payload_json"])), (field.filename, field.file.read())
        assert message["allowed_mentions"] == {"parse": []}
        if message["content"] == self.too_large:
            return reply({"code": 40_005, "message": "Request entity too large"}, status=413)
        self.files[message["content"]] = file
        return reply(build_message(message["content"]))


def reply(value: Any, *, status: int = 200) -> web.Response:
    """Reply as Discord does, without a charset, by which discord.py knows JSON."""
    return web.Response(body=json.dumps(value).encode(), status=status, content_type="application/json")


def build_message(text: str) -> dict[str, Any]:
    return {
        "id": "8", "channel_id": "7", "author": USER, "content": text, "timestamp": "2026-01-01T00:00:00+00:00",
        "edited_timestamp": None, "tts": False, "mention_everyone": False, "mentions": [], "mention_roles": [],
        "attachments": [], "embeds": [], "pinned": False, "type": 0,
    }  # fmt: skip


@pytest.fixture
async def chat(load: Load, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Discord]:
    """A chat in which the bot is."""
    from discord.gateway import DiscordWebSocket
    from discord.http import Route

    server, app = Discord(), web.Application()
    app.router.add_get("/gateway/", server.gateway)
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setattr(Route, "BASE", f"http://{address}")
    monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", URL(f"ws://{address}/gateway/"))
    monkeypatch.setenv("DISCORD_TOKEN", "token")
    bot = asyncio.create_task(load("discord_bot").main())
    try:
        await until(lambda: server.socket is not None and server.commands)
        yield server
    finally:
        bot.cancel()
        with suppress(asyncio.CancelledError):
            await bot
        await runner.cleanup()


async def test_commands_are_answered_with_stems_with_links_to_large_ones_and_with_what_failed(
    chat: Discord, sandbox: Sandbox
) -> None:
    chat.refusing = "song.mp3: succeeded"  # an edit that fails takes no stems away
    sandbox.faults.add("create", faults.FailedSplit("BAD_AUDIO", f"nothing but noise{'!' * 3000}"), calls=2)
    sandbox.faults.add("create", faults.Status(402), calls=3)
    done = await chat.use("stems", song="3")
    await until(lambda: len(sandbox.ledger.charges) == 1)  # so that each meets its fault
    failed = await chat.use("stems", song="3")
    await until(lambda: len(sandbox.ledger.charges) == 2)
    refused = await chat.use("stems", song="3")
    await until(lambda: "song.mp3: done" in chat.said.get(done, ()))
    assert set(chat.files) == {f"{stem} of song.mp3" for stem in ("bass", "drums", "other", "vocals")}
    name, audio = chat.files["vocals of song.mp3"] or ("", b"")
    assert (name, len(audio) > 1000) == ("vocals.mp3", True)
    await until(lambda: chat.said[failed] and "nothing but noise!" in chat.said[failed][-1])
    assert "/collect" not in chat.said[failed][-1]
    await until(lambda: chat.said[refused] and "INSUFFICIENT_CREDITS" in chat.said[refused][-1])

    chat.files.clear()
    collected = await chat.use("collect", split=sandbox.ledger.charges[0].split_id, limit=1000)
    await until(lambda: "Your song: done" in chat.said.get(collected, ()))
    assert list(chat.files.values()) == [None] * 4
    assert all("too large for this chat: <http" in text for text in chat.files)
    chat.too_large = "bass of Your song"
    refused = await chat.use("collect", split=sandbox.ledger.charges[0].split_id)
    await until(lambda: "40005" in chat.said.get(refused, ["", ""])[-1])
    assert f"/collect split:{sandbox.ledger.charges[0].split_id}" in chat.said[refused][-1]
    assert len(sandbox.ledger.charges) == 2
