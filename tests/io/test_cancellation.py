"""Cancelled at any of its awaits, nothing of a call stays behind: no task, descriptor, reply, slot or half a file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from anyio import CancelScope

from aistemsplitter_async import AsyncAIStemSplitter
from aistemsplitter_async._gate import slot
from aistemsplitter_async._tasks import OwnedTasks
from aistemsplitter_async._transfer import downloader, writer
from aistemsplitter_async._transfer.audio import stream_source
from aistemsplitter_async._transfer.partfile import PartFile
from aistemsplitter_async.config import RateLimit
from aistemsplitter_async.errors import APIConnectionError
from aistemsplitter_async.events import SplitCreated
from aistemsplitter_async.testing import error_reply
from tests.io.fakes import Flow, World

pytestmark = pytest.mark.usefixtures("inline_threads")
SONG = bytes(range(256)) * 600
STEM = bytes(range(256)) * 40

Call = Callable[[AsyncAIStemSplitter, Path], Awaitable[object]]
How = Literal["once", "twice", "again and again", "by an anyio scope"]
HOWS: tuple[How, ...] = get_args(How)


async def chunks() -> AsyncIterator[bytes]:
    for start in range(0, len(SONG), 50_000):
        await asyncio.sleep(0)
        yield SONG[start : start + 50_000]


async def submit_file(client: AsyncAIStemSplitter, folder: Path) -> object:
    return await client.submit(folder / "in.wav")


async def submit_stream(client: AsyncAIStemSplitter, _: Path) -> object:
    return await client.submit(stream_source(chunks, content_length=len(SONG), filename="in.wav"))


async def wait(client: AsyncAIStemSplitter, _: Path) -> object:
    return await client.wait_for_split("split_9")


async def download(client: AsyncAIStemSplitter, folder: Path) -> object:
    split = await client.wait_for_split("split_9")
    return await client.download_stems(split, folder / "stems")


async def everything(client: AsyncAIStemSplitter, folder: Path) -> object:
    return await client.split(folder / "in.wav", into=folder / "stems")


CALLS: list[Call] = [submit_file, submit_stream, wait, download, everything]


def set_up(still: World, folder: Path) -> None:
    """A server on which every step takes a while and fails once."""
    (folder / "in.wav").write_bytes(SONG)
    api = still.api
    api.stem_names = ("vocals", "drums")
    for split_id in ("split_9", "split_1"):
        api.files |= {f"/{split_id}/{stem}.mp3": STEM for stem in api.stem_names}
    api.statuses |= {"split_9": ["processing", "succeeded"], "split_1": ["processing", "succeeded"]}

    async def slowly(_: object) -> None:
        await still.clock.sleep(0.5)

    async def pause() -> None:
        await still.clock.sleep(0.1)

    head = {"content-length": str(len(STEM)), "etag": f'"{len(STEM)}"'}
    for what in ("reserve", "upload", "create", "get"):
        api.script(what, error_reply(503, "BUSY"))
        api.always(what, slowly)
    api.script("download", Flow([STEM[:1000], pause, STEM[1000:3000], pause, APIConnectionError("reset")], head))


async def turn(still: World) -> None:
    """Let the loop turn once. If no task had anything to do, time moves on to the next timer."""
    await asyncio.sleep(0)
    timer = still.clock._next()
    if timer is not None and not asyncio.get_running_loop()._ready:  # type: ignore[attr-defined]
        still.clock._jump(timer)


async def cancel_after(still: World, call: Call, folder: Path, steps: int, *, how: How = "once") -> bool:
    """Run `call`, cancel it after so many turns of the loop, and check what it left. Return whether it had finished."""
    client = still.client(rate_limit=RateLimit(4, per=1.0))
    others = asyncio.all_tasks()
    scope = CancelScope()

    async def scoped() -> None:
        with scope:
            await call(client, folder)

    task = asyncio.ensure_future(scoped())
    for _ in range(steps):
        if task.done():
            break
        await turn(still)
    finished = task.done()
    if finished:
        await task  # it worked
    if how == "by an anyio scope":
        scope.cancel()
        await end(still, task)
        assert task.exception() is None  # the scope took its own cancellation, and there was no other
        assert task.cancelling() == 0
    else:
        task.cancel()
        await turn(still)
        if how == "twice":
            task.cancel()
        await end(still, task, cancel=how == "again and again")
        assert finished or task.cancelled() or task.exception() is None
    await client.aclose()
    await still.clock.advance(3)  # a window, and the grace of a create is over anyway
    left = asyncio.all_tasks() - others
    assert left == set(), f"after {steps} steps: {left}"
    assert client.gate.snapshot().used == 0, f"after {steps} steps a slot is lost"
    assert client.gate.snapshot().waiting == {"interactive": 0, "bulk": 0}
    assert still.api.open_replies == 0
    check_files(folder)
    return finished


async def end(still: World, task: asyncio.Task[None], *, cancel: bool = False) -> None:
    """Let `task` end, cancelled further if `cancel` is set."""
    for number in range(5000):
        if task.done():
            return
        if cancel and number % 5 == 0:
            task.cancel()
        await turn(still)
    raise AssertionError("it does not end")


def check_files(folder: Path) -> None:
    """No part stands under a final name, and nothing in the folder is open."""
    for path in folder.glob("stems/**/*.mp3"):
        assert path.read_bytes() == STEM, "a part under a final name"
    for link in Path("/proc/self/fd").iterdir():
        target = str(link.readlink()) if os.path.lexists(link) else ""
        assert not target.startswith(str(folder)), f"{target} is open"


async def sweep(still: World, call: Call, tmp_path: Path, *, how: How = "once") -> int:
    """Cancel `call` after 0, 1, 2, .. turns until it finishes first; return how many turns that takes.

    Turns in which time stood still and every task waited teach nothing new, so strides grow with the distance.
    """
    steps = 0
    while steps < 5000:
        folder = tmp_path / str(steps)
        folder.mkdir()
        still.api._scripts.clear()
        still.api.created.clear()
        set_up(still, folder)
        if await cancel_after(still, call, folder, steps, how=how):
            still.api._scripts.clear()
            return steps
        steps += 1 if steps < 120 else 3
    raise AssertionError("it never finished")


@pytest.fixture
def small_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_WRITE_BYTES", 500)


@pytest.mark.usefixtures("small_writes")
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
async def test_cancelled_at_any_await_however_often_a_call_leaves_nothing_behind(
    still: World, tmp_path: Path, call: Call, how: How
) -> None:
    assert await sweep(still, call, tmp_path, how=how) > 5


async def test_the_sweep_would_notice_a_slot_that_is_not_given_back(
    still: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a pipeline that forgets the slot of a cancelled attempt."""
    monkeypatch.setattr(slot.Slot, "settle", lambda _: None)
    with pytest.raises(AssertionError, match="slot is lost"):
        await sweep(still, wait, tmp_path)
    still.api._scripts.clear()


async def test_the_sweep_would_notice_a_descriptor_that_is_left_open(
    still: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: opening in a thread without undoing it for a caller that is gone."""
    leaked: list[Any] = []

    async def careless(
        function: Callable[..., Any], *arguments: Any, undo: object = None, pool: Executor | None = None
    ) -> Any:
        assert undo is None or callable(undo)
        return await asyncio.get_running_loop().run_in_executor(
            pool,
            lambda: leaked.append(function(*arguments)) or leaked[-1],  # type: ignore[func-returns-value]
        )

    monkeypatch.setattr(downloader, "run_in_thread", careless)
    with pytest.raises(AssertionError, match="is open"):
        await sweep(still, download, tmp_path)
    still.api._scripts.clear()
    for thing in leaked:
        if isinstance(thing, PartFile):
            try:
                thing.close()
            except OSError:  # it was not this one
                continue


@pytest.mark.parametrize("how", HOWS)
async def test_every_split_that_was_charged_is_known_by_its_event_wherever_the_submit_was_cancelled(
    still: World, tmp_path: Path, how: How
) -> None:
    steps = 0
    while True:
        folder = tmp_path / str(steps)
        folder.mkdir()
        still.api._scripts.clear()
        still.api.created.clear()
        still.events.clear()
        set_up(still, folder)
        finished = await cancel_after(still, submit_stream, folder, steps, how=how)
        reported = {event.split_id for event in still.of(SplitCreated)}
        assert reported == set(still.api.created.values()), f"after {steps} steps"
        if finished:
            break
        steps += 1
    still.api._scripts.clear()


async def test_the_check_above_would_notice_a_create_that_is_not_owned(
    still: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: cancelled with its caller, a POST that took effect is lost."""

    async def with_its_caller(_: OwnedTasks, work: Awaitable[Any]) -> Any:
        return await work

    monkeypatch.setattr(OwnedTasks, "run", with_its_caller)
    sent = asyncio.Event()

    async def slow_answer(exchange: Any) -> Any:
        answer = still.api.do_create(exchange)
        sent.set()
        await asyncio.Event().wait()
        return answer

    still.api.script("create", slow_answer)
    client = still.client()
    task = asyncio.ensure_future(submit_stream(client, tmp_path))
    await sent.wait()
    task.cancel()
    await asyncio.wait([task])
    await client.aclose()
    assert still.api.created
    assert still.of(SplitCreated) == []
