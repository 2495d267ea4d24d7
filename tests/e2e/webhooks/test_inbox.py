"""The inbox in a file: an acknowledged event is there, even if the process that acknowledged it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aistemsplitter_async import AsyncAIStemSplitter, ConfigurationError
from aistemsplitter_async._databases.sqlite import enable_wal
from aistemsplitter_async._wire.signature import SIGNATURE_HEADER, sign
from aistemsplitter_async.sandbox import Sandbox
from aistemsplitter_async.testing import FakeClock
from aistemsplitter_async.webhooks import SQLiteInbox, WebhookEvent, WebhookReceiver

SECRET = "whsec_test"

# A receiver in a separate process. `die` says at which moment it kills itself, once the file `armed` is there.
RECEIVER = """
import asyncio, os, signal, sys
from pathlib import Path
from aiohttp import web
from aistemsplitter_async.webhooks import SQLiteInbox, WebhookReceiver

path, port, die = sys.argv[1], int(sys.argv[2]), sys.argv[3]
armed = Path(path).with_name("armed")


def kill(moment):
    if moment == die and armed.exists():
        armed.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


class Inbox(SQLiteInbox):
    async def put(self, event):
        kill("before the commit")
        await super().put(event)
        kill("between commit and answer")


async def answer_first(request):  # how it must not be done
    response = web.Response()
    await response.prepare(request)
    await response.write_eof()
    kill("after the answer")
    return response


async def main():
    receiver = WebhookReceiver("whsec_test", url="http://localhost/", inbox=Inbox(path))
    app = web.Application()
    app.router.add_post("/", answer_first if die == "after the answer" else receiver.aiohttp_handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
"""


def event(split_id: str, status: str = "succeeded") -> WebhookEvent:
    return WebhookEvent("audio.split.completed", split_id, status)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a receiver on the test's inbox; whatever still runs at the end is killed."""
    running: list[asyncio.subprocess.Process] = []

    async def run(port: int, die: str = "") -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", RECEIVER, str(tmp_path / "inbox"), str(port), die, stdout=asyncio.subprocess.PIPE
        )
        running.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"ready\n"
        return process

    yield run
    for process in running:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def post(port: int, split_id: str) -> int:
    """Send an event; return the status of the answer, 0 for none."""
    body = json.dumps({"event": "audio.split.completed", "data": {"id": split_id, "status": "succeeded"}}).encode()
    headers = {SIGNATURE_HEADER: sign(body, SECRET, int(time.time()))}
    async with aiohttp.ClientSession() as session:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.post(f"http://127.0.0.1:{port}/", data=body, headers=headers) as response:
                return response.status
    return 0


async def kept(path: Path) -> set[str]:
    """The splits in an inbox, read as a client in another process reads it."""
    async with SQLiteInbox(path) as inbox:
        return {found.split_id for found in await read(inbox, quiet=0.1)}


async def read(inbox: SQLiteInbox, *, quiet: float) -> list[WebhookEvent]:
    """The events that a follower gets until none comes for a while."""
    found: list[WebhookEvent] = []
    events = inbox.follow()
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(quiet):
                found.append(await anext(events))
    await events.aclose()
    return found


@pytest.mark.parametrize("die", ["before the commit", "between commit and answer"])
async def test_a_receiver_killed_at_any_moment_loses_no_event_that_it_acknowledged(
    start: Start, tmp_path: Path, die: str
) -> None:
    port = free_port()
    process = await start(port, die)
    acknowledged = {name for name in ("split_1", "split_2") if await post(port, name) == 200}
    (tmp_path / "armed").touch()
    assert await post(port, "split_3") == 0  # the sender gets no answer, and will try again
    assert await process.wait() == -signal.SIGKILL
    after_the_kill = await kept(tmp_path / "inbox")
    assert acknowledged == {"split_1", "split_2"}
    assert after_the_kill == acknowledged | ({"split_3"} if die == "between commit and answer" else set())
    await start(port)
    assert await post(port, "split_3") == 200
    assert await kept(tmp_path / "inbox") == {"split_1", "split_2", "split_3"}


async def test_the_test_above_would_notice_an_answer_before_the_commit(start: Start, tmp_path: Path) -> None:
    """The negative control: a receiver that acknowledges first loses what it acknowledged."""
    port = free_port()
    process = await start(port, "after the answer")
    (tmp_path / "armed").touch()
    assert await post(port, "split_1") == 200
    assert await process.wait() == -signal.SIGKILL
    assert await kept(tmp_path / "inbox") == set()


async def test_a_client_gets_the_events_of_a_receiver_in_another_process(start: Start, tmp_path: Path) -> None:
    port = free_port()
    await start(port)
    receiver = WebhookReceiver([], url=f"http://127.0.0.1:{port}/", inbox=SQLiteInbox(tmp_path / "inbox"))
    async with (
        Sandbox(separation="silent", webhook_secret=SECRET) as sandbox,
        AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url, webhooks=receiver) as client,
    ):
        jobs = [await client.submit(f"https://example.com/{n}.mp3") for n in range(5)]
        async with asyncio.timeout(20):
            splits = await asyncio.gather(*(job.wait() for job in jobs))
        assert {split.status for split in splits} == {"succeeded"}
        assert sandbox.ledger.count("get") == 5
        assert {record.status for record in sandbox.ledger.deliveries} == {200}
    assert isinstance(receiver.inbox, SQLiteInbox)
    await receiver.inbox.aclose()


async def elsewhere(path: Path, code: str) -> str:
    """Let another process use the inbox, and leave it as it should be left; return what it prints."""
    script = f"""
import asyncio, sys
from aistemsplitter_async.webhooks import SQLiteInbox, WebhookEvent

async def main():
    async with SQLiteInbox(sys.argv[1]) as inbox:
        {code}

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(path), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


HAS = 'print(await inbox.has(WebhookEvent("audio.split.completed", "split_2", "succeeded")))'


async def test_another_process_that_closes_the_file_takes_nothing_from_two_that_share_it_here(tmp_path: Path) -> None:
    path = tmp_path / "inbox"
    async with SQLiteInbox(path) as receivers, SQLiteInbox(path):
        await receivers.put(event("split_1"))
        await elsewhere(path, "pass")
        await receivers.put(event("split_2"))
        assert await elsewhere(path, HAS) == "True\n"


async def test_the_test_above_would_notice_a_connection_that_takes_away_anothers_locks(tmp_path: Path) -> None:
    """The negative control: POSIX locks end when the process closes the file, however it had opened it."""
    path = tmp_path / "inbox"
    async with SQLiteInbox(path) as receivers:
        await receivers.put(event("split_1"))
        os.close(os.open(path, os.O_RDWR))
        await elsewhere(path, "pass")
        await receivers.put(event("split_2"))
        assert await elsewhere(path, HAS) == "False\n"


@pytest.mark.parametrize("meanwhile", ["saw nothing", "found it empty"])
async def test_a_file_that_is_removed_is_created_again_and_followed_from_its_beginning(
    tmp_path: Path, meanwhile: str
) -> None:
    path = tmp_path / "inbox"
    async with SQLiteInbox(path) as receivers, SQLiteInbox(path) as clients:
        events = clients.follow()
        for n in range(3):
            await receivers.put(event(f"split_{n}"))
        assert [(await anext(events)).split_id for _ in range(3)] == ["split_0", "split_1", "split_2"]
        reading = asyncio.create_task(anext(events))
        for file in tmp_path.iterdir():
            file.unlink()
        if meanwhile == "found it empty":
            reads, read = asyncio.Event(), clients._read_news

            def note(*arguments: Any, **options: Any) -> Any:
                found = read(*arguments, **options)
                loop.call_soon_threadsafe(reads.set)
                return found

            loop = asyncio.get_running_loop()
            clients._read_news = note  # type: ignore[method-assign]
            await reads.wait()
        for n in (8, 9):
            await receivers.put(event(f"split_{n}"))
        async with asyncio.timeout(10):
            assert [(await reading).split_id, (await anext(events)).split_id] == ["split_8", "split_9"]
        await events.aclose()
        assert await kept(path) == {"split_8", "split_9"}


async def test_a_client_reads_the_file_when_it_has_changed_and_hardly_ever_otherwise(tmp_path: Path) -> None:
    path, seen, reads = tmp_path / "inbox", list[str](), 0
    async with SQLiteInbox(path) as receivers, SQLiteInbox(path) as clients:
        read = clients._read_news

        def count(*arguments: Any, **options: Any) -> Any:
            nonlocal reads
            reads += 1
            return read(*arguments, **options)

        async def follow() -> None:
            async for found in clients.follow():
                seen.append(found.split_id)

        clients._read_news = count  # type: ignore[method-assign]
        following = asyncio.create_task(follow())
        await asyncio.sleep(0.9)  # 45 checks
        assert reads < 8
        for n in range(50):
            await receivers.put(event(f"split_{n}"))
            await asyncio.sleep(0.001 * (n % 5))
        async with asyncio.timeout(60):
            while len(seen) < 50:  # noqa: ASYNC110  # another connection's file
                await asyncio.sleep(0.01)
        assert seen == [f"split_{n}" for n in range(50)]
        following.cancel()
        await asyncio.wait({following})


async def test_any_number_of_workers_may_create_the_file_at_once(tmp_path: Path) -> None:
    for attempt in range(10):
        inboxes = [SQLiteInbox(tmp_path / f"inbox{attempt}") for _ in range(4)]
        await asyncio.gather(*(inbox.put(event(f"split_{n}")) for n, inbox in enumerate(inboxes)))
        for inbox in inboxes:
            await inbox.aclose()


class Busy:
    """A connection that is refused a few times: rare, and hard to cause."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.refusals = 3

    def execute(self, _: str) -> None:
        if self.refusals:
            self.refusals -= 1
            error = sqlite3.OperationalError("refused")
            error.sqlite_errorcode = self.code
            raise error


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY])
def test_a_file_that_another_connection_is_creating_is_waited_for(code: int) -> None:
    busy = Busy(code)
    enable_wal(busy, 5.0)  # type: ignore[arg-type]
    assert busy.refusals == 0


def test_a_file_that_cannot_be_used_is_not_waited_for() -> None:
    with pytest.raises(sqlite3.OperationalError):
        enable_wal(Busy(sqlite3.SQLITE_IOERR), 5.0)  # type: ignore[arg-type]


async def test_the_file_is_closed_once_what_is_being_put_is_safe(tmp_path: Path) -> None:
    inbox = SQLiteInbox(tmp_path / "inbox")
    putting = asyncio.create_task(inbox.put(event("split_1")))
    await asyncio.sleep(0)
    await inbox.aclose()
    await putting
    assert not inbox._file.is_open
    assert await kept(tmp_path / "inbox") == {"split_1"}


async def test_events_that_come_together_share_commits_and_none_is_lost(tmp_path: Path) -> None:
    async with SQLiteInbox(tmp_path / "inbox") as inbox:
        commits = 0
        write = inbox._write

        def count(events: list[WebhookEvent]) -> None:
            nonlocal commits
            commits += 1
            write(events)

        inbox._write = count  # type: ignore[method-assign]
        await asyncio.gather(*(inbox.put(event(f"split_{n % 300}")) for n in range(600)))
        assert commits < 10
        assert [found.split_id for found in await read(inbox, quiet=0.1)] == [f"split_{n}" for n in range(300)]


async def test_a_commit_that_fails_fails_for_everyone_who_was_part_of_it(tmp_path: Path) -> None:
    async with SQLiteInbox(tmp_path / "inbox") as inbox:
        write = inbox._write
        broken = True

        def fail(events: list[WebhookEvent]) -> None:
            if broken:
                raise sqlite3.OperationalError("disk I/O error")
            write(events)

        inbox._write = fail  # type: ignore[method-assign]
        outcomes = await asyncio.gather(*(inbox.put(event(f"split_{n}")) for n in range(9)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {sqlite3.OperationalError}
        broken = False
        await inbox.put(event("split_1"))
        assert [found.split_id for found in await read(inbox, quiet=0.1)] == ["split_1"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_process_that_forks_may_have_one_open(tmp_path: Path) -> None:
    """As a server does that loads the application, and then forks its workers."""
    inbox = SQLiteInbox(tmp_path / "inbox")
    asyncio.run(inbox.put(event("split_1")))
    child = os.fork()
    if child == 0:
        signal.alarm(5)  # it would wait for a thread that only the parent has
        try:
            asyncio.run(inbox.put(event("split_2")))
        finally:
            os._exit(1 if sys.exc_info()[0] else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert asyncio.run(kept(tmp_path / "inbox")) == {"split_1", "split_2"}
    assert asyncio.run(inbox.has(event("split_2")))
    asyncio.run(inbox.aclose())


def test_requests_in_event_loops_of_their_own_share_an_inbox(tmp_path: Path) -> None:
    """As Flask and Lambda run them: a loop each, in threads or one after another."""
    handled: list[str] = []
    path = tmp_path / "inbox"
    receiver = WebhookReceiver(
        SECRET,
        url="https://example.com/hooks",
        on_event=lambda one: handled.append(one.split_id),
        inbox=SQLiteInbox(path),
    )

    def handle(number: int) -> int:
        async def one() -> int:
            body = json.dumps(
                {"event": "audio.split.completed", "data": {"id": f"split_{number % 20}", "status": "succeeded"}}
            ).encode()
            async with asyncio.timeout(10):
                return await receiver.handle(body, {SIGNATURE_HEADER: sign(body, SECRET, int(time.time()))})

        return asyncio.run(one())

    assert [handle(0), handle(0)] == [200, 200]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(handle, range(40))) == {200}
    assert set(handled) == {f"split_{number}" for number in range(20)}
    assert asyncio.run(kept(path)) == set(handled)


async def test_duplicates_are_known_across_processes_for_as_long_as_they_are_kept(tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        SQLiteInbox(tmp_path / "inbox", keep=60.0, clock=clock) as one,
        SQLiteInbox(tmp_path / "inbox", keep=60.0, clock=clock) as other,
    ):
        await one.put(event("split_1"))
        assert await other.has(event("split_1"))
        assert not await other.has(event("split_1", "failed"))
        await other.put(event("split_1"))
        await clock.advance(60.0)
        assert not await other.has(event("split_1"))
        await other.put(event("split_1"))  # news again
        assert await one.has(event("split_1"))


async def test_no_more_than_so_many_are_kept(tmp_path: Path) -> None:
    async with SQLiteInbox(tmp_path / "inbox", capacity=3) as inbox:
        for n in range(7):
            await inbox.put(event(f"split_{n}"))
        assert [found.split_id for found in await read(inbox, quiet=0.1)] == ["split_4", "split_5", "split_6"]


async def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    async with SQLiteInbox(tmp_path / "inbox"):
        modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o600}


@pytest.mark.parametrize("kind", ["text", "another database"])
async def test_a_file_that_is_not_an_inbox_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine"
    if kind == "text":
        path.write_text("not a database at all, but long enough to be taken for one" * 30)
    else:
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE songs (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="is not a webhook inbox; choose another file"):
        async with SQLiteInbox(path):
            pass
    assert path.read_bytes() == before


async def test_an_inbox_that_cannot_be_written_is_503_and_the_way_out_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = WebhookReceiver(SECRET, url="http://localhost/", inbox=SQLiteInbox(tmp_path / "missing" / "inbox"))
    body = b'{"event": "audio.split.completed", "data": {"id": "split_1"}}'
    assert await receiver.handle(body, {SIGNATURE_HEADER: sign(body, SECRET, int(time.time()))}) == 503
    assert os.strerror(2) in caplog.text
