"""The inboxes that connect processes, each on the real thing: what holds for one holds for all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

from aistemsplitter_async import ConfigurationError
from aistemsplitter_async._databases import postgres, redis
from aistemsplitter_async._wire.signature import SIGNATURE_HEADER, sign
from aistemsplitter_async.webhooks import PostgresInbox, RedisInbox, SQLiteInbox, WebhookEvent, WebhookReceiver
from aistemsplitter_async.webhooks.postgres_inbox import _PUT, _PostgresLine
from tests.e2e.stores.conftest import StartServer
from tests.e2e.stores.servers import stopped

SECRET = "whsec_test"
Inbox = SQLiteInbox | PostgresInbox | RedisInbox
Open = Callable[..., Inbox]

RECEIVER = """
import asyncio, sys
from aiohttp import web
from aistemsplitter_async.webhooks import PostgresInbox, RedisInbox, SQLiteInbox, WebhookReceiver


async def main():
    app = web.Application()
    kinds = {"sqlite": SQLiteInbox, "postgres": PostgresInbox, "redis": RedisInbox}
    for kind, place in zip(kinds, sys.argv[1:]):
        receiver = WebhookReceiver("whsec_test", url="http://localhost/", inbox=kinds[kind](place))
        app.router.add_post(f"/{kind}", receiver.aiohttp_handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
"""

# What runs at the commit sees what is in effect there.
NOTE_SETTING: Any = """
CREATE TABLE {schema}.seen (setting text);
CREATE FUNCTION {schema}.note() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO {schema}.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER note AFTER INSERT ON {schema}.webhook_events DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION {schema}.note();
"""


def event(number: int, **changes: Any) -> WebhookEvent:
    return WebhookEvent(
        **{"event": "audio.split.completed", "split_id": f"split_{number}", "status": "succeeded"} | changes
    )


def signed(split_id: str) -> dict[str, Any]:
    """The arguments of a request with an event."""
    body = json.dumps({"event": "audio.split.completed", "data": {"id": split_id, "status": "succeeded"}}).encode()
    return {"data": body, "headers": {SIGNATURE_HEADER: sign(body, SECRET, int(time.time()))}}


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def open_inbox(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Open an inbox; all that a test opens are on one place."""
    if request.param == "sqlite":
        return lambda **options: SQLiteInbox(tmp_path / "inbox", **options)
    if request.param == "postgres":
        dsn = request.getfixturevalue("postgres_dsn")
        return lambda **options: PostgresInbox(dsn, **options)
    url = request.getfixturevalue("valkey_url")
    return lambda **options: RedisInbox(url, **options)


class Follower:
    """A task that follows an inbox, and what it heard."""

    def __init__(self, inbox: Inbox) -> None:
        self.heard: list[str] = []
        self.news = asyncio.Condition()
        self.task = asyncio.create_task(self.follow(inbox))

    async def follow(self, inbox: Inbox) -> None:
        async for one in inbox.follow():
            async with self.news:
                self.heard.append(one.split_id)
                self.news.notify_all()

    async def hears(self, *numbers: int) -> None:
        """Wait until it has heard so many, and check which."""
        async with asyncio.timeout(20), self.news:
            await self.news.wait_for(lambda: len(self.heard) >= len(numbers))
        assert self.heard == [f"split_{number}" for number in numbers]

    async def end(self) -> None:
        self.task.cancel()
        async with asyncio.timeout(8):  # psycopg alone would take ten
            await asyncio.wait([self.task])
        assert self.task.cancelled()


async def test_events_are_kept_once_in_order_as_long_and_as_many_as_they_should(open_inbox: Open) -> None:
    hostile = [event(3), event(3, event="audio.split.\0'\\%s"), event(3, split_id="𝄞" * 255, status='"{}')]
    async with open_inbox(capacity=4) as inbox, open_inbox(keep=1e-3) as impatient:
        assert not await inbox.has(event(1))
        for one in (event(1), event(2), event(1), *hostile, event(2)):
            await inbox.put(one)
        assert [await inbox.has(one) for one in (event(1), event(2), *hostile)] == [False, True, True, True, True]
        events = inbox.follow()
        assert [await anext(events) for _ in range(4)] == [event(2), *hostile]
        assert not await impatient.has(hostile[2])
        await impatient.put(hostile[2])  # as new: what was before is too old
        assert await anext(events) == hostile[2]
        await events.aclose()


async def test_everybody_hears_of_every_event_that_any_process_acknowledged(
    tmp_path: Path, postgres_dsn: str, valkey_url: str
) -> None:
    places = [str(tmp_path / "inbox"), postgres_dsn, valkey_url]
    inboxes = {
        kind.__name__.removesuffix("Inbox").lower(): [kind(place), kind(place)]
        for kind, place in zip((SQLiteInbox, PostgresInbox, RedisInbox), places, strict=True)
    }
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", RECEIVER, *places, stdout=asyncio.subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        ports = [int(await process.stdout.readline()) for process in processes if process.stdout]
        followers = [Follower(inbox) for pair in inboxes.values() for inbox in pair]
        sent = [f"split_{n}" for n in range(60)]

        async def post(session: aiohttp.ClientSession, port: int, kind: str, split_id: str) -> int:
            async with session.post(f"http://127.0.0.1:{port}/{kind}", **signed(split_id)) as answer:
                return answer.status

        async with aiohttp.ClientSession() as session:  # every event comes to both, at once
            posts = [post(session, port, kind, one) for one in sent for kind in inboxes for port in ports]
            assert set(await asyncio.gather(*posts)) == {200}
        for follower in followers:
            async with asyncio.timeout(20), follower.news:
                await follower.news.wait_for(lambda heard=follower.heard: len(heard) >= len(sent))  # type: ignore[misc]
        for follower in followers:
            await follower.end()
            assert sorted(follower.heard) == sorted(sent)  # each once
    finally:
        for process in processes:
            process.kill()
            await process.communicate()
        for pair in inboxes.values():
            for inbox in pair:
                await inbox.aclose()


class Held:
    """A transaction that has kept an event and is not committed yet, as another receiver's may be at any moment."""

    def __init__(self, dsn: str) -> None:
        self.url = postgres.parse_dsn(dsn)

    async def __aenter__(self) -> Self:
        self.connection = await postgres.connect_async(self.url, timeout=5.0)
        self.line = _PostgresLine(self.connection, self.url, capacity=100, keep=60.0)
        return self

    async def put(self, one: WebhookEvent, statement: str) -> None:
        values = {"keys": [one.split_id], "events": [json.dumps([one.event, one.split_id, one.status])], "signed": [0]}
        await self.line._run(statement.replace("COMMIT;", ""), **values)

    async def commit(self) -> None:
        await self.connection.execute("COMMIT")

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()


async def test_an_event_whose_place_was_given_first_and_is_committed_last_is_not_missed(postgres_dsn: str) -> None:
    async with PostgresInbox(postgres_dsn) as inbox, Held(postgres_dsn) as other:
        follower = Follower(inbox)
        await other.put(event(1), _PUT)
        putting = asyncio.create_task(inbox.put(event(2)))
        while not await other.line._run("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert follower.heard == []
        await other.commit()
        await putting
        await follower.hears(1, 2)
        await follower.end()


async def test_the_test_above_would_notice_places_that_are_not_given_in_the_order_of_commits(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: without the lock, the follower is past the place when its event appears."""
    unlocked = "\n".join(line for line in _PUT.splitlines() if "advisory" not in line and "CASE" not in line)
    monkeypatch.setattr("aistemsplitter_async.webhooks.postgres_inbox._PUT", unlocked)
    async with PostgresInbox(postgres_dsn) as inbox, Held(postgres_dsn) as other:
        follower = Follower(inbox)
        await other.put(event(1), unlocked.replace("SELECT pg_notify('{channel}', '')", "SELECT 1"))
        await inbox.put(event(2))
        await follower.hears(2)
        await other.commit()
        await inbox.put(event(3))
        async with asyncio.timeout(20), follower.news:
            await follower.news.wait_for(lambda: "split_3" in follower.heard)
        assert follower.heard == ["split_2", "split_3"]
        assert await inbox.has(event(2))
        await follower.end()


async def test_a_commit_is_synchronous_whatever_the_database_says(postgres_dsn: str) -> None:
    from psycopg import AsyncClientCursor, sql

    url = postgres.parse_dsn(postgres_dsn)
    async with PostgresInbox(postgres_dsn) as inbox, await postgres.connect_async(url, timeout=5.0) as connection:
        cursor = AsyncClientCursor(connection)  # sends several statements
        await cursor.execute(NOTE_SETTING.format(schema=url.schema))
        for setting in ("off", "remote_apply"):
            await cursor.execute("ALTER ROLE postgres SET synchronous_commit = %s", [setting])
            await inbox.aclose()
            await inbox.put(event(len(setting)))
        await cursor.execute("ALTER ROLE postgres RESET synchronous_commit")
        await cursor.execute(sql.SQL("SELECT setting FROM {}.seen").format(sql.Identifier(url.schema)))
        assert await cursor.fetchall() == [("on",), ("remote_apply",)]


def processes(server: dict[str, Any]) -> list[int]:
    """The server's processes; of PostgreSQL, there is one for each connection."""
    pid = server["pid"]
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


@pytest.fixture(params=["postgres", "valkey"])
async def own_server(request: pytest.FixtureRequest, start_server: StartServer) -> AsyncIterator[tuple[Inbox, Any]]:
    """An inbox on a server of the test's own, and what starts that (again)."""
    kind = PostgresInbox if request.param == "postgres" else RedisInbox

    name = uuid.uuid4().hex[:6]

    def start() -> dict[str, Any]:
        return start_server(request.param, own=name)

    async with kind(start()["url"]) as inbox:
        yield inbox, start
    with contextlib.suppress(ProcessLookupError):
        os.kill(start()["pid"], signal.SIGKILL)


async def test_a_server_that_is_stopped_or_killed_means_503_and_then_all_goes_on(
    own_server: tuple[Inbox, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, start = own_server
    receiver = WebhookReceiver(SECRET, url="https://example.com/", inbox=inbox)

    async def send(split_id: str) -> int:
        request = signed(split_id)
        return await receiver.handle(request["data"], request["headers"])

    assert await send("split_1") == 200
    follower = Follower(inbox)
    await follower.hears(1)
    server = start()
    monkeypatch.setattr("aistemsplitter_async.webhooks.server_inbox.INBOX_PATIENCE", 0.1)
    with contextlib.ExitStack() as pause:
        for pid in processes(server):
            pause.enter_context(stopped(pid))
        assert await send("split_2") == 503
    for pid in processes(server):
        os.kill(pid, signal.SIGKILL)
    assert await send("split_3") == 503
    monkeypatch.undo()
    while start()["pid"] == server["pid"]:  # noqa: ASYNC110  # its end is not noticed yet
        await asyncio.sleep(0.001)
    for number in (2, 3, 4):
        assert await send(f"split_{number}") == 200
    async with asyncio.timeout(20), follower.news:
        await follower.news.wait_for(lambda: "split_4" in follower.heard)
    assert sorted(follower.heard) == [f"split_{n}" for n in (1, 2, 3, 4)]
    await follower.end()


async def test_ending_is_prompt_while_the_server_hangs(own_server: tuple[Inbox, Any]) -> None:
    inbox, start = own_server
    await inbox.put(event(1))
    follower = Follower(inbox)
    await follower.hears(1)
    with contextlib.ExitStack() as all_of_it:
        for pid in processes(start()):
            all_of_it.enter_context(stopped(pid))
        asking = asyncio.create_task(inbox.has(event(2)))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait([asking])
        await follower.end()
    await inbox.aclose()
    gc.collect()  # a connection left open would warn


async def test_what_is_wrong_names_the_server_and_the_way_out_but_no_secret(
    start_server: StartServer, valkey_url: str, tmp_path: Path
) -> None:
    folder = start_server("postgres")["folder"]
    wrong: list[tuple[Inbox, type[Exception], str]] = [
        (PostgresInbox(f"postgresql://guarded:hunter2@/postgres?host={folder}"), ConfigurationError, "guarded"),
        (RedisInbox(f"unix://:hunter2@{tmp_path}/none"), ConnectionError, "Redis at"),
        (RedisInbox(valkey_url.replace("unix://", "unix://guarded:hunter2@")), ConfigurationError, "username-password"),
    ]
    for inbox, kind, words in wrong:
        assert "hunter2" not in repr(inbox)
        with pytest.raises(kind, match=words) as caught:
            await inbox.__aenter__()
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None
        await inbox.aclose()
    with pytest.raises(ConfigurationError, match="schema"):
        PostgresInbox("postgresql://db/app?schema=Robert';--")


def test_requests_in_event_loops_of_their_own_share_an_inbox_and_leave_nothing_open(
    postgres_dsn: str, valkey_url: str
) -> None:
    """As Flask and Lambda run them."""
    for inbox in (PostgresInbox(postgres_dsn), RedisInbox(valkey_url)):
        for _ in range(3):
            asyncio.run(inbox.put(event(1)))
        assert asyncio.run(inbox.has(event(1)))
        assert inbox._desks == {}
    gc.collect()


async def test_a_follower_that_was_away_while_a_stream_was_trimmed_goes_on_with_what_is_there(valkey_url: str) -> None:
    url = redis.parse_redis_url(valkey_url)
    async with RedisInbox(valkey_url) as inbox, redis.connect_redis(url, timeout=5.0) as client:
        await inbox.put(event(1))
        events = inbox.follow()
        assert await anext(events) == event(1)
        async with RedisInbox(valkey_url, capacity=2) as small:  # nobody reads meanwhile
            for number in (2, 3, 4):
                await small.put(event(number))
        assert [await anext(events), await anext(events)] == [event(3), event(4)]
        stream = f"{url.prefix}{{webhooks}}:events"
        await client.delete(stream, stream.replace("events", "known"))
        assert not await inbox.has(event(4))
        await inbox.put(event(5))
        assert await anext(events) == event(5)
        await events.aclose()
