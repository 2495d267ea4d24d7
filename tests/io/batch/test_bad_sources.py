"""One bad source, of every kind and at every point, is one failed track: the others finish, and nothing waits for it.

The same kinds are given to single calls, which raise what the track fails with.
"""

from __future__ import annotations

import array
import asyncio
import os
from collections import UserDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from aistemsplitter_async import (
    AIStemSplitterError,
    AsyncAIStemSplitter,
    BatchItem,
    ConfigurationError,
    Done,
    Failed,
    RateLimit,
    SourceChangedError,
    SourceUnreadableError,
    UploadError,
    stream_source,
)
from aistemsplitter_async._transfer.audio import build_source
from aistemsplitter_async._transfer.foreign import ForeignSource
from tests.io.fakes import World

pytestmark = pytest.mark.usefixtures("inline_threads")

AUDIO = b"sound of some length"
SIZE = len(AUDIO)
GOOD = ["https://example.com/a.mp3", "https://example.com/b.mp3"]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here


class TheirError(Exception):
    """What other people's code raises."""


class ToTheEndError(BaseException):
    """What is raised to end a program."""


async def good() -> AsyncIterator[bytes]:
    yield AUDIO


class Theirs:
    """An `AudioSource` of somebody's own, good unless a subclass says otherwise."""

    filename: Any = "theirs.wav"
    content_type: Any = "audio/wav"
    content_length: Any = SIZE

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Any]:
        yield self.read

    def read(self) -> Any:
        return good()


def broken(**members: Any) -> Any:
    return type("Broken", (Theirs,), members)()


def raising(error: Callable[[], BaseException] = TheirError) -> Any:
    def fail(*_: object) -> Any:
        raise error()

    return fail


def raising_property(error: Callable[[], BaseException] = TheirError) -> Any:
    return property(raising(error))


class Context:
    """A context manager in which one method fails."""

    def __init__(self, **methods: Any) -> None:
        self._methods = methods

    async def __aenter__(self) -> Any:
        return await self._methods["enter"]() if "enter" in self._methods else good

    async def __aexit__(self, *_: object) -> None:
        if "leave" in self._methods:
            await self._methods["leave"]()


async def fail() -> None:
    raise TheirError


async def fail_cancelled() -> None:
    raise asyncio.CancelledError


async def hang() -> None:
    await asyncio.Event().wait()


def stream(*chunks: Any, then: Callable[[], Awaitable[object]] | None = None, length: Any = SIZE) -> Any:
    async def read() -> AsyncIterator[Any]:
        for chunk in chunks:
            yield chunk
        if then is not None:
            await then()

    return stream_source(read, content_length=length, filename="theirs.wav")


def source_of(factory: Any) -> Any:
    return stream_source(factory, content_length=len(AUDIO), filename="theirs.wav")


async def cancel_yourself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def empty_for_ever() -> AsyncIterator[bytes]:
    while True:
        yield b""


async def bytes_for_ever() -> AsyncIterator[bytes]:
    while True:
        yield b"x"


class BadIterator:
    """An iterator in which one method is wrong."""

    def __init__(self, result: Any = None) -> None:
        self._result = result

    def __aiter__(self) -> Any:
        return self

    def __anext__(self) -> Any:
        return self._result


class BadPath:
    def __init__(self, result: Any) -> None:
        self._result = result

    def __fspath__(self) -> Any:
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result


def closed_generator() -> AsyncGenerator[bytes, None]:
    generator: Any = good()
    with suppress(StopIteration):
        generator.aclose().send(None)
    return generator  # type: ignore[no-any-return]


def released() -> memoryview:
    view = memoryview(AUDIO)
    view.release()
    return view


class Lazy(UserDict[str, Any]):
    """A mapping that is not there when it is wanted."""

    def __getitem__(self, key: str) -> Any:
        raise ConnectionError(key)

    def __iter__(self) -> Any:
        raise ConnectionError


UNREADABLE: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "a number": lambda: 7,
    "a fraction": lambda: 7.5,
    "a truth": lambda: True,
    "an object": object,
    "a class": lambda: Theirs,
    "a list": lambda: [AUDIO],
    "a dict": lambda: {"opened": 1},
    "a mapping that raises": Lazy,
    "an exception": TheirError,
    "a coroutine function": lambda: fail,
    "an array": lambda: array.array("h", [1, 2]),
    "a bare stream": closed_generator,
    "a released view": released,
    "empty bytes": lambda: b"",
    "an empty path": lambda: "",
    "a path with NUL": lambda: "song\0.wav",
    "a path with a surrogate": lambda: "song\ud800.wav",
    "a path with an odd byte": lambda: os.fsdecode(b"song\xff.wav"),
    "a path that is too long": lambda: "x" * 100_000,
    "a folder": lambda: "/",
    "a web page in memory": lambda: b"<!DOCTYPE html><title>404</title>",
    "an address of FTP": lambda: "ftp://user:password@example.com/a.wav",
    "a device": lambda: "/dev/null",
    "half a URL": lambda: "http://[::1",
    "a URL with a lookalike": lambda: "https://exa\u2100mple.com/a.wav",
    "a URL with a bad port": lambda: "https://example.com:99999999/a.wav",
    "a URL with a surrogate": lambda: "https://example.com/\udcff.wav",
    "a path that raises": lambda: BadPath(TheirError()),
    "a path of bytes": lambda: BadPath(b"song.wav"),
    "a path of a number": lambda: BadPath(7),
    "a name that raises": lambda: broken(filename=raising_property()),
    "a type that raises": lambda: broken(content_type=raising_property()),
    "a length that raises": lambda: broken(content_length=raising_property()),
    "a property that stops": lambda: broken(content_length=raising_property(StopIteration)),
    "an opener that raises": lambda: broken(opened=raising_property()),
    "a name of bytes": lambda: broken(filename=b"a.wav"),
    "no name": lambda: broken(filename=""),
    "a numeric name": lambda: broken(filename=7),
    "a type with a line end": lambda: broken(content_type="audio/wav\r\nX-Evil: 1"),
    "a numeric type": lambda: broken(content_type=7),
    "a foreign type": lambda: broken(content_type="\u00e4udio"),
    "a length of text": lambda: broken(content_length="20"),
    "a length that is a fraction": lambda: broken(content_length=20.0),
    "a length that is a truth": lambda: broken(content_length=True),
    "no length": lambda: broken(content_length=None),
    "a negative length": lambda: broken(content_length=-1),
    "a stream with a length of text": lambda: stream(AUDIO, length="20"),
    "a stream with a fraction": lambda: stream(AUDIO, length=20.0),
    "opened raises": lambda: broken(opened=raising()),
    "opened stops": lambda: broken(opened=raising(StopIteration)),
    "opened stops asynchronously": lambda: broken(opened=raising(StopAsyncIteration)),
    "opened is cancelled": lambda: broken(opened=raising(asyncio.CancelledError)),
    "opened gives nothing": lambda: broken(opened=lambda _: None),
    "opened is a coroutine": lambda: broken(opened=lambda _: asyncio.sleep(0)),
    "entering raises": lambda: broken(opened=lambda _: Context(enter=fail)),
    "entering is cancelled": lambda: broken(opened=lambda _: Context(enter=fail_cancelled)),
    "entering hangs": lambda: broken(opened=lambda _: Context(enter=hang)),
    "entering gives nothing": lambda: broken(opened=lambda _: Context(enter=lambda: asyncio.sleep(0))),
    "leaving raises": lambda: broken(opened=lambda _: Context(leave=fail)),
    "leaving is cancelled": lambda: broken(opened=lambda _: Context(leave=fail_cancelled)),
    "leaving hangs": lambda: broken(opened=lambda _: Context(leave=hang)),
    "reading raises": lambda: broken(read=raising()),
    "reading is cancelled": lambda: broken(read=raising(asyncio.CancelledError)),
    "reading gives nothing": lambda: broken(read=lambda _: None),
    "reading gives a list": lambda: broken(read=lambda _: [AUDIO]),
    "reading gives a coroutine": lambda: broken(read=lambda _: hang_quietly()),
    "an iterator without a next": lambda: broken(read=lambda _: BadIterator()),
    "an iterator of numbers": lambda: broken(read=lambda _: BadIterator(7)),
    "a factory that raises": lambda: source_of(raising()),
    "a factory that gives nothing": lambda: source_of(lambda: None),
    "text": lambda: stream("sound of some length"),
    "text after bytes": lambda: stream(AUDIO[:5], "sound of some l"),
    "numbers": lambda: stream(*range(20)),
    "nothings": lambda: stream(None),
    "lists": lambda: stream([1, 2, 3]),
    "a released view in a stream": lambda: stream(released()),
    "a stream that raises at once": lambda: stream(then=fail),
    "a stream that raises amid": lambda: stream(AUDIO[:5], then=fail),
    "a stream that raises at its end": lambda: stream(AUDIO, then=fail),
    "a stream that is cancelled at once": lambda: stream(then=fail_cancelled),
    "a stream that is cancelled amid": lambda: stream(AUDIO[:5], then=fail_cancelled),
    "a stream that cancels its task": lambda: stream(AUDIO[:5], then=cancel_yourself),
    "a stream that cancels its task at once": lambda: stream(then=cancel_yourself),
    "a stream that times out": lambda: stream(then=raising(TimeoutError)),
    "a stream that exits its generator": lambda: stream(then=raising(RuntimeError)),
    "a stream that never begins": lambda: stream(then=hang),
    "a stream that never ends": lambda: stream(AUDIO[:5], then=hang),
    "a stream that never ends after its last byte": lambda: stream(AUDIO, then=hang),
    "empty chunks for ever": lambda: source_of(empty_for_ever),
}


async def hang_quietly() -> None:
    return None


CHANGED: dict[str, Callable[[], Any]] = {
    "a stream without bytes": stream,
    "a stream that is short": lambda: stream(AUDIO[:5]),
    "a stream that is long": lambda: stream(AUDIO, b"!"),
    "bytes for ever": lambda: source_of(bytes_for_ever),
    "a closed generator": lambda: source_of(closed_generator),
}
BAD = {**{name: (build, SourceUnreadableError) for name, build in UNREADABLE.items()}} | {
    name: (build, SourceChangedError) for name, build in CHANGED.items()
}
each_bad = pytest.mark.parametrize(("build", "kind"), BAD.values(), ids=BAD.keys())

CALLS: dict[str, Callable[[AsyncAIStemSplitter, Any, Path], Awaitable[object]]] = {
    "upload_audio": lambda client, source, _: client.upload_audio(source),
    "submit": lambda client, source, _: client.submit(source),
    "split": lambda client, source, into: client.split(source, into=into),
}


@each_bad
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
async def test_a_bad_source_is_one_failed_track_and_the_others_finish(
    world: World, tmp_path: Path, build: Callable[[], Any], kind: type[UploadError]
) -> None:
    source = build()
    async with (
        world.client(rate_limit=RateLimit(1000)) as client,
        client.split_many([GOOD[0], source, BatchItem(source=source, anew=True), GOOD[1]], into=tmp_path) as batch,
    ):
        outcomes = {outcome.position: outcome async for outcome in batch}
        report = await batch.report()
    assert (report.done, report.failed, report.skipped) == (2, 2, 0)
    assert isinstance(outcomes[0], Done)
    assert isinstance(outcomes[3], Done)
    for position in (1, 2):
        failed = outcomes[position]
        assert isinstance(failed, Failed)
        assert failed.source is source
        assert type(failed.error) is kind
        assert failed.stage in ("prepare", "upload")
    assert world.api.count("create") == 2


@each_bad
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
async def test_a_bad_source_in_a_single_call_raises_and_nothing_is_bought(
    world: World, tmp_path: Path, build: Callable[[], Any], kind: type[UploadError], call: Any
) -> None:
    async with world.client(rate_limit=RateLimit(1000)) as client:
        with pytest.raises(kind) as caught:
            await call(client, build(), tmp_path)
    assert type(caught.value) is kind
    assert world.api.count("create") == 0


FINE: dict[str, Callable[[], Any]] = {
    "theirs": Theirs,
    "no type": lambda: broken(content_type=None),
    "a counted length": lambda: broken(content_length=Count()),
    "a bytearray": lambda: bytearray(AUDIO),
    "a view": lambda: memoryview(AUDIO),
    "chunks of every kind": lambda: stream(AUDIO[:1], bytearray(AUDIO[1:5]), memoryview(AUDIO)[5:9], AUDIO[9:]),
    "an array": lambda: stream(array.array("H", AUDIO)),
    "every other byte": lambda: stream(memoryview(b"".join(bytes([byte, 0]) for byte in AUDIO))[::2]),
    "a few empty chunks": lambda: stream(*[b""] * 500, AUDIO, *[b""] * 500),
    "one buffer again and again": lambda: source_of(reuse_buffer),
    "one that drops what is raised inside": lambda: broken(opened=lambda _: Dropping()),
}


class Count:
    def __index__(self) -> int:
        return len(AUDIO)


class Dropping(Context):
    async def __aexit__(self, *_: object) -> Any:
        return True


async def reuse_buffer() -> AsyncIterator[bytearray]:
    buffer = bytearray(1)
    for byte in AUDIO:
        buffer[0] = byte
        yield buffer


@pytest.mark.parametrize("build", FINE.values(), ids=FINE.keys())
async def test_what_is_unusual_but_right_is_uploaded_byte_for_byte(
    world: World, tmp_path: Path, build: Callable[[], Any]
) -> None:
    async with world.client(rate_limit=RateLimit(1000)) as client:
        await client.split(build(), into=tmp_path / "one", name="one")
        async with client.split_many([build()], into=tmp_path / "many") as batch:
            assert [type(outcome) async for outcome in batch] == [Done]
    assert set(world.api.uploads.values()) == {AUDIO}


async def test_a_source_that_drops_what_is_raised_inside_does_not_hide_a_failed_upload(world: World) -> None:
    world.api.always("upload", AIStemSplitterError("no"))
    async with world.client() as client:
        with pytest.raises(AIStemSplitterError, match="no"):
            await client.submit(broken(opened=lambda _: Dropping()))


async def test_a_stream_of_somebody_elses_source_must_yield_the_same_bytes_again(world: World, tmp_path: Path) -> None:
    """What was hashed is what is uploaded, whoever yields it."""
    versions = iter([AUDIO, AUDIO[::-1]])

    async def read() -> AsyncIterator[bytes]:
        yield next(versions)

    async with world.client() as client, client.split_many([broken(read=lambda _: read())], into=tmp_path) as batch:
        (outcome,) = [outcome async for outcome in batch]
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, SourceChangedError)
    assert world.api.count("create") == 0


async def test_no_attempt_reads_while_another_one_does_and_none_when_the_source_is_closed() -> None:
    running, most, closed_at = 0, 0, []

    async def read() -> AsyncIterator[bytes]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            for _ in range(10_000):
                yield b"x"
        finally:
            running -= 1

    class Counting(Context):
        async def __aexit__(self, *_: object) -> None:
            closed_at.append(running)

    source = await build_source(broken(opened=lambda _: Counting(enter=giving(read)), content_length=10_000))
    assert isinstance(source, ForeignSource)
    async with source.opened() as body:
        given_up = [body() for _ in range(3)]
        for attempt in given_up:
            await anext(aiter(attempt))
    assert (most, closed_at) == (1, [0])


def giving(value: Any) -> Callable[[], Awaitable[Any]]:
    async def give() -> Any:
        return value

    return give


@pytest.mark.parametrize("moment", ["opened", "read", "amid"])
async def test_what_is_raised_to_end_the_program_ends_the_batch_and_is_raised(
    world: World, tmp_path: Path, moment: str
) -> None:
    source = {
        "opened": broken(opened=raising(ToTheEndError)),
        "read": broken(read=raising(ToTheEndError)),
        "amid": stream(AUDIO[:5], then=raising(ToTheEndError)),
    }[moment]
    async with world.client() as client, client.split_many([source], into=tmp_path) as batch:
        with pytest.raises(ToTheEndError):
            await anext(batch)
    async with world.client() as client:
        with pytest.raises(ToTheEndError):
            await client.submit(source)


def test_ctrl_c_in_a_source_passes(tmp_path: Path) -> None:
    async def interrupted() -> None:
        async with (
            AsyncAIStemSplitter("ast_x", base_url="http://127.0.0.1:9/v1") as client,
            client.split_many([stream(AUDIO[:5], then=raising(KeyboardInterrupt))], into=tmp_path) as batch,
        ):
            await anext(batch)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(interrupted())


async def test_a_slow_stream_keeps_no_file_waiting(world: World, tmp_path: Path) -> None:
    gates = [asyncio.Event() for _ in range(5)]
    files = [tmp_path / f"{n}.wav" for n in range(3)]
    for n, file in enumerate(files):
        file.write_bytes(b"file %d" % n)

    def waiting(gate: asyncio.Event) -> Any:
        async def read() -> AsyncIterator[bytes]:
            while not gate.is_set():
                await world.clock.sleep(1.0)
                yield b""
            yield AUDIO

        return source_of(read)

    async with (
        world.client(rate_limit=RateLimit(1000)) as client,
        client.split_many([*map(waiting, gates), *files], dedupe=False, into=tmp_path) as batch,
    ):
        first = [await anext(batch) for _ in files]
        for gate in gates:
            gate.set()
        rest = [outcome async for outcome in batch]
    assert {outcome.source for outcome in first} == set(files)
    assert len(rest) == 5


# --- the iterable of sources


async def feed(world: World, sources: Any, tmp_path: Path) -> tuple[int, BaseException | None]:
    """How many sources were done, and what the batch raised in the end."""
    done = 0
    async with (
        world.client(rate_limit=RateLimit(1000)) as client,
        client.split_many(sources, into=tmp_path) as batch,
    ):
        try:
            async for outcome in batch:
                done += isinstance(outcome, Done)
        except (TheirError, ConfigurationError, ToTheEndError) as error:
            return done, error
    return done, None


def feeder(then: Callable[[], Any]) -> Any:
    async def sources() -> AsyncIterator[str]:
        for url in GOOD:
            yield url
        await then()

    return sources()


@pytest.mark.parametrize(
    ("then", "kind"),
    [
        (fail, TheirError),
        (fail_cancelled, ConfigurationError),
        (cancel_yourself, ConfigurationError),
        (raising(ToTheEndError), ToTheEndError),
    ],
)
async def test_a_broken_iterable_is_reported_and_what_came_before_is_finished(
    world: World, tmp_path: Path, then: Any, kind: type[BaseException]
) -> None:
    done, error = await feed(world, feeder(then), tmp_path)
    assert (done, type(error)) == (2, kind)


@pytest.mark.parametrize("sources", [None, 7, object(), AUDIO, "song.wav", memoryview(AUDIO), Path("song.wav")])
async def test_what_is_not_an_iterable_of_sources_is_refused_at_once(world: World, sources: Any) -> None:
    async with world.client() as client:
        with pytest.raises(ConfigurationError, match=r"sources (is a single|must be an iterable)"):
            client.split_many(sources)


class Feed:
    """The usual shape of an iterable that is no generator itself."""

    def __init__(self, *chunks: Any) -> None:
        self._chunks = chunks
        self.closed_by: list[asyncio.Task[Any] | None] = []
        self.read_by: asyncio.Task[Any] | None = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        self.read_by = asyncio.current_task()
        try:
            for chunk in self._chunks:
                yield chunk
        finally:
            await asyncio.sleep(0)
            self.closed_by.append(asyncio.current_task())


async def test_an_iterable_is_closed_by_the_task_that_read_it_before_the_batch_is_left(
    world: World, tmp_path: Path
) -> None:
    """Or else a lock that it holds stays taken, and a scope that it opened cannot be left."""
    sources = Feed(*[f"https://example.com/{n}.mp3" for n in range(100)])
    async with world.client() as client, client.split_many(sources, into=tmp_path) as batch:
        assert isinstance(await anext(batch), Done)
    assert sources.closed_by == [sources.read_by]
    feed = Feed(AUDIO, AUDIO, *[b"x"] * 100)  # more than was said
    async with world.client() as client:
        with pytest.raises(SourceChangedError):
            await client.upload_audio(source_of(lambda: feed))
    assert feed.closed_by == [feed.read_by]


async def stubborn(given_up: asyncio.Event) -> AsyncIterator[str]:
    """It does not let itself be closed."""
    try:
        yield GOOD[0]
        await asyncio.Event().wait()
    finally:
        while not given_up.is_set():
            try:
                await given_up.wait()
            except asyncio.CancelledError:
                continue


@pytest.fixture
async def given_up() -> AsyncIterator[asyncio.Event]:
    event = asyncio.Event()
    yield event
    event.set()


@pytest.mark.parametrize("moment", ["enter", "leave"])
async def test_a_context_that_does_not_let_itself_be_cancelled_is_left_behind(
    world: World, given_up: asyncio.Event, moment: str
) -> None:
    async def stay() -> None:
        while not given_up.is_set():
            with suppress(asyncio.CancelledError):
                await given_up.wait()

    async with world.client() as client:
        with pytest.raises(SourceUnreadableError, match="took longer than 60 s"):
            await client.upload_audio(broken(opened=lambda _: Context(**{moment: stay})))


async def test_a_context_whose_task_group_fails_ends_its_own_upload_and_cancels_nobody(world: World) -> None:
    @asynccontextmanager
    async def opened(_: object) -> AsyncIterator[Any]:
        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            yield good

    async with world.client() as client:
        with pytest.raises(SourceUnreadableError, match="closing it raised"):
            await client.upload_audio(broken(opened=opened))
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_stream_that_is_opened_by_a_coroutine_says_what_to_do() -> None:
    async def read() -> AsyncIterator[bytes]:
        return good()

    source = await build_source(source_of(read))
    assert isinstance(source, ForeignSource)
    async with source.opened() as body:
        with pytest.raises(SourceUnreadableError, match="not an async iterator; let it `yield`"):
            await anext(aiter(body()))


async def test_an_iterable_that_cannot_be_closed_is_left_behind_when_the_batch_is_left(
    world: World, tmp_path: Path, given_up: asyncio.Event
) -> None:
    async with world.client() as client, client.split_many(stubborn(given_up), into=tmp_path) as batch:
        assert isinstance(await anext(batch), Done)
    assert world.clock.monotonic() < 1000.0 + 60.0


async def test_an_iterable_that_cannot_be_closed_is_reported_when_the_batch_is_drained(
    world: World, tmp_path: Path, given_up: asyncio.Event
) -> None:
    async with world.client() as client, client.split_many(stubborn(given_up), into=tmp_path) as batch:
        assert isinstance(await anext(batch), Done)
        batch.drain()
        with pytest.raises(ConfigurationError, match="left behind"):
            await anext(batch)


@pytest.mark.parametrize(
    "fields",
    [
        {"folder": 7},
        {"folder": b"x"},
        {"pattern": 7},
        {"pattern": None},
        {"seconds": "7"},
        {"seconds": True},
        {"seconds": float("nan")},
        {"filename": 7},
        {"filename": ""},
        {"content_type": 7},
        {"content_type": "audio/wav\n"},
        {"idempotency_key": 7},
        {"on_progress": 7},
        {"timeout": "7"},
        {"timeout": float("nan")},
        {"timeout": True},
    ],
)
def test_a_bad_field_of_an_item_is_refused_where_the_item_is_made(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(fields))):
        BatchItem(source=GOOD[0], **fields)


async def test_a_list_without_the_name_of_one_is_not_uploaded_as_a_song(world: World, tmp_path: Path) -> None:
    songs = b"/music/a.wav\n/music/b.wav\n"
    async with world.client(rate_limit=RateLimit(1000)) as client:
        for name in ("songs", "songs.lst", "take.raw"):
            (tmp_path / name).write_bytes(songs)
            with pytest.raises(SourceUnreadableError, match="it is not audio but text"):
                await client.upload_audio(tmp_path / name)
        (tmp_path / "song.mp3").write_bytes(songs)
        await client.upload_audio(tmp_path / "song.mp3")
        await client.upload_audio(songs)  # bytes have no name that could say what they are


@pytest.mark.parametrize("call", CALLS)
async def test_a_web_page_under_the_name_of_a_song_is_refused_before_any_request(
    call: str, world: World, tmp_path: Path
) -> None:
    page, song = tmp_path / "page.mp3", tmp_path / "song.mp3"
    page.write_bytes(b"<html>404</html>")
    song.write_bytes(b"whatever a service makes of it")
    async with world.client(rate_limit=RateLimit(1000)) as client:
        with pytest.raises(SourceUnreadableError, match="is not audio but a web page") as caught:
            await CALLS[call](client, str(page), tmp_path / "stems")
        assert caught.value.code == "NOT_AUDIO"
        assert not world.api.asked
        async with client.split_many([str(page), str(song)], into=tmp_path / "batch") as batch:
            outcomes = [outcome async for outcome in batch]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Done", "Failed"]
    assert list(world.api.uploads.values()) == [song.read_bytes()]
