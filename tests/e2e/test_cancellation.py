"""Programs that are cancelled while a create is on the wire: one charge, and its id is known."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from aistemsplitter_async import AsyncAIStemSplitter, CreateAbandoned, SplitCreated
from aistemsplitter_async._send import pipeline
from aistemsplitter_async._tasks import OwnedTasks
from tests.e2e.harness import LedgerAPI

SONG = "https://example.com/a.mp3"


@pytest.fixture
async def api() -> AsyncIterator[LedgerAPI]:
    async with LedgerAPI.serve() as running:
        yield running


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[int]:
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Wait until `task` is asked to end, and has had many turns to do so."""
    async with asyncio.timeout(10):
        while not task.cancelling() and not task.done():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0)
    await many_turns()


async def many_turns() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def leave(api: LedgerAPI, client: AsyncAIStemSplitter) -> None:
    """Ask a streaming app for a split, and close the browser while the create is on the wire."""
    app, streaming = FastAPI(), list[asyncio.Task[Any]]()

    async def work() -> AsyncIterator[bytes]:
        streaming.append(asyncio.current_task())  # type: ignore[arg-type]
        yield b"creating\n"
        job = await client.submit(SONG)
        yield job.id.encode()

    @app.get("/")
    async def show() -> StreamingResponse:
        return StreamingResponse(work())

    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n")
        await reader.readuntil(b"creating\n")
        await api.arrived.wait()
        writer.close()
        await cancelled(streaming[0])
        api.answering.set()
        await asyncio.wait(streaming)


async def test_a_browser_that_leaves_a_streaming_response_loses_no_split(api: LedgerAPI) -> None:
    events: list[Any] = []
    async with AsyncAIStemSplitter("ast_test", base_url=api.url, on_event=events.append) as client:
        await leave(api, client)
        known = {event.idempotency_key: event.split_id for event in events if isinstance(event, SplitCreated)}
    assert known == api.charges
    assert [len(bodies) for bodies in api.bodies.values()] == [1]


async def test_the_check_above_would_notice_a_create_that_minds_the_first_cancellation_only(
    api: LedgerAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: shielded once, and anyio cancels again."""

    async def run_once_shielded(_: OwnedTasks, work: Any) -> Any:
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                task.cancel()
            raise

    monkeypatch.setattr(OwnedTasks, "run", run_once_shielded)
    events: list[Any] = []
    async with AsyncAIStemSplitter("ast_test", base_url=api.url, on_event=events.append) as client:
        await leave(api, client)
    assert len(api.charges) == 1
    assert [event for event in events if isinstance(event, SplitCreated)] == []


@pytest.mark.parametrize("kind", ["asyncio", "anyio", "timeout", "task group"])
async def test_cancelled_in_any_way_the_split_is_known(api: LedgerAPI, kind: str) -> None:
    events: list[Any] = []

    async def work(client: AsyncAIStemSplitter) -> None:
        if kind == "anyio":
            with anyio.move_on_after(0.05):
                await client.submit(SONG)
        elif kind == "timeout":
            async with asyncio.timeout(0.05):
                await client.submit(SONG)
        elif kind == "task group":
            async with asyncio.TaskGroup() as group:
                group.create_task(client.submit(SONG))
                await api.arrived.wait()
                raise ValueError("the sibling")
        else:
            await client.submit(SONG)

    async with AsyncAIStemSplitter("ast_test", base_url=api.url, on_event=events.append) as client:
        task = asyncio.create_task(work(client))
        await api.arrived.wait()
        if kind == "asyncio":
            task.cancel()
        await (cancelled(task) if kind != "task group" else many_turns())  # of a group, the child is cancelled
        if kind == "asyncio":
            task.cancel()
        assert not task.done()
        api.answering.set()
        await asyncio.gather(task, return_exceptions=True)
    assert {event.idempotency_key: event.split_id for event in events if isinstance(event, SplitCreated)} == api.charges
    assert len(api.charges) == 1


async def test_what_is_abandoned_after_the_grace_can_be_resubmitted(
    api: LedgerAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "COMMIT_GRACE", 0.01)
    events: list[Any] = []
    async with AsyncAIStemSplitter("ast_test", base_url=api.url, on_event=events.append) as client:
        task = asyncio.create_task(client.submit(SONG))
        await api.arrived.wait()
        task.cancel()
        await asyncio.wait([task])
        (submission,) = [event.submission for event in events if isinstance(event, CreateAbandoned)]
        api.answering.set()
        job = await client.resubmit(submission)
    assert api.charges == {submission.idempotency_key: job.id}
    (bodies,) = api.bodies.values()
    assert bodies == [submission.body] * 2


def test_the_example_in_the_docs_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    doc = (Path(__file__).parents[2] / "docs" / "cancellation.md").read_text(encoding="utf-8")
    code = doc.split("```python\n")[1].partition("```")[0]
    exec(compile(code, "docs/cancellation.md", "exec"), {"__name__": "__main__"})  # noqa: S102  # our own docs
    assert capsys.readouterr().out == "True\n"


# --- whole programs


async def start(api: LedgerAPI, program: str, folder: Path, **options: Any) -> asyncio.subprocess.Process:
    script = folder / "program.py"
    script.write_text(textwrap.dedent(program))
    environment = os.environ | {"AISTEMSPLITTER_BASE_URL": api.url, "AISTEMSPLITTER_API_KEY": "ast_test"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return await asyncio.create_subprocess_exec(sys.executable, str(script), env=environment, **pipes)


PREAMBLE = """
    import asyncio, os, sys
    from aistemsplitter_async import AsyncAIStemSplitter, SplitCreated

    def note(event):
        if isinstance(event, SplitCreated):
            os.write(1, f"known {event.split_id}\\n".encode())
"""
BOT = (
    PREAMBLE
    + """
    async def handle(client):
        await client.submit("https://example.com/a.mp3")

    async def main():
        async with AsyncAIStemSplitter(on_event=note) as client:
            handling = asyncio.create_task(handle(client))
            await asyncio.to_thread(sys.stdin.readline)

    asyncio.run(main())
"""
)
CARELESS_BOT = BOT.replace("async with AsyncAIStemSplitter(on_event=note) as client:", "if client := CLIENT:").replace(
    "    async def main", "    CLIENT = AsyncAIStemSplitter(on_event=note)\n\n    async def main"
)
INTERRUPTED = (
    PREAMBLE
    + """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what started the tests may ignore it

    async def main():
        async with AsyncAIStemSplitter(on_event=note) as client:
            await client.submit("https://example.com/a.mp3")

    asyncio.run(main())
"""
)


@pytest.mark.parametrize("program", [BOT, CARELESS_BOT], ids=["leaves the client first", "leaves it open"])
async def test_a_bot_that_ends_while_a_handler_creates_a_split_learns_its_id(
    api: LedgerAPI, tmp_path: Path, program: str
) -> None:
    process = await start(api, program, tmp_path, stdin=subprocess.PIPE)
    await api.arrived.wait()
    assert process.stdin is not None
    process.stdin.write(b"end\n")
    await process.stdin.drain()
    await asyncio.sleep(0.3)  # it is on its way out; too short a time only lets a mistake pass
    api.answering.set()
    out, _ = await process.communicate()
    assert out.decode().split() == ["known", *api.charges.values()]
    assert [len(bodies) for bodies in api.bodies.values()] == [1]


async def test_a_program_ended_with_ctrl_c_learns_the_id(api: LedgerAPI, tmp_path: Path) -> None:
    process = await start(api, INTERRUPTED, tmp_path)
    await api.arrived.wait()
    process.send_signal(signal.SIGINT)
    await asyncio.sleep(0.3)  # as above
    api.answering.set()
    out, err = await process.communicate()
    assert out.decode().split() == ["known", *api.charges.values()]
    assert b"KeyboardInterrupt" in err


async def test_events_printed_into_a_closed_pipe_lose_no_split(api: LedgerAPI, tmp_path: Path) -> None:
    """As under `| head -1`."""
    program = """
        import asyncio, os, sys
        from aistemsplitter_async import AsyncAIStemSplitter

        async def main():
            async with AsyncAIStemSplitter(on_event=lambda event: print(event, flush=True)) as client:
                job = await client.submit("https://example.com/a.mp3")
            os.write(2, job.id.encode())
            os._exit(0)

        asyncio.run(main())
    """
    api.answering.set()
    reading, writing = os.pipe()
    os.close(reading)
    process = await start(api, program, tmp_path, stdout=writing)
    os.close(writing)
    _, err = await process.communicate()
    assert [err.decode()] == list(api.charges.values())
    assert process.returncode == 0
