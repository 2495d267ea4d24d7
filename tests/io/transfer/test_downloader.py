"""Downloads: a file under its final name is complete, no matter what the server, the disk and the caller do."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async._send.transport import Transport
from aistemsplitter_async._transfer import ranges as ranges_core, stem_urls, writer
from aistemsplitter_async._transfer.meter import Progress
from aistemsplitter_async._transfer.partfile import PartFile
from aistemsplitter_async.config import PollPolicy
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    DownloadError,
    IncompleteDownloadError,
    RateLimitedError,
    ServerError,
    StemsExpiredError,
    UnsafeNameError,
    UnsafeURLError,
)
from aistemsplitter_async.events import RetryPlanned
from aistemsplitter_async.models import Split
from aistemsplitter_async.testing import Exchange, error_reply
from tests.io.fakes import Flow, World

pytestmark = pytest.mark.usefixtures("inline_threads", "no_open_files")
VOCALS = bytes(range(256)) * 40
CDN = "https://cdn.test"

Answers = Callable[..., Any]


def status(code: int, **headers: str) -> Any:
    return error_reply(code, "CODE", headers={name.replace("_", "-"): text for name, text in headers.items()})


def broken() -> APIConnectionError:
    return APIConnectionError("reset")


async def hang(_: object = None) -> None:
    await asyncio.Event().wait()


async def poll(world: World, *stems: str) -> Split:
    """A succeeded split; of its stems only vocals unless said otherwise."""
    world.api.stem_names = stems or ("vocals",)
    world.api.files.setdefault("/split_1/vocals.mp3", VOCALS)
    async with world.client() as client:
        split = await client.get_split("split_1")
    world.api.asked.clear()
    return split


async def download(world: World, split: Split, into: Path, **options: Any) -> dict[str, Path]:
    transport: Transport = options.pop("transport", world.api)
    async with world.client(transport=transport) as client:
        return await client.download_stems(split, into, **options)


def files(folder: Path) -> dict[str, bytes]:
    """Everything under final names."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def ranges(world: World) -> list[str | None]:
    return [asked.headers.get("Range") for asked in world.api.of("download")]


async def test_stems_land_under_the_sources_name_with_nothing_else_left(world: World, tmp_path: Path) -> None:
    split = await poll(world, "vocals", "drums", "bass", "other")
    found = await download(world, split, tmp_path)
    assert found == {stem: tmp_path / "song" / f"{stem}.mp3" for stem in ("vocals", "drums", "bass", "other")}
    assert found["vocals"].read_bytes() == VOCALS
    assert sorted(path.name for path in (tmp_path / "song").iterdir() if path.suffix != ".mp3") == [".stems.json"]
    assert all(asked.exchange.request.origin == "cdn" for asked in world.api.asked)


FAULTS: list[tuple[Any, int, type[AIStemSplitterError]]] = [
    (broken, 4, APIConnectionError),
    (lambda: APIConnectionError("certificate", permanent=True), 1, APIConnectionError),
    (lambda: hang, 4, APITimeoutError),
    (lambda: status(408), 4, APIStatusError),
    (lambda: status(409), 4, APIStatusError),
    (lambda: status(500), 4, ServerError),
    (lambda: status(503), 4, ServerError),
    (lambda: status(429), 7, RateLimitedError),
    (lambda: status(429, Retry_After="300"), 1, RateLimitedError),
    (lambda: status(302), 1, APIStatusError),
]


@pytest.mark.parametrize(("fault", "attempts", "error"), FAULTS)
async def test_a_fault_that_stays_is_tried_as_often_as_the_table_says_and_leaves_no_final_name(
    world: World, tmp_path: Path, fault: Any, attempts: int, error: type[AIStemSplitterError]
) -> None:
    split = await poll(world)
    world.api.always("download", lambda _: fault())
    with pytest.raises(AIStemSplitterError) as caught:
        await download(world, split, tmp_path)
    assert type(caught.value) is error
    assert caught.value.split_id == "split_1"
    assert world.api.count("download") == attempts
    assert world.api.count("get") == 0
    assert files(tmp_path) == {}


LATE: dict[str, tuple[Any, type[AIStemSplitterError]]] = {
    "400": (lambda: status(400), StemsExpiredError),
    "401": (lambda: status(401), StemsExpiredError),
    "403": (lambda: status(403), StemsExpiredError),
    "404": (lambda: status(404), StemsExpiredError),
    "410": (lambda: status(410), StemsExpiredError),
    "416": (lambda: status(416), IncompleteDownloadError),
    "no length": (lambda: Flow([VOCALS], {}), IncompleteDownloadError),
}


@pytest.mark.parametrize(("fault", "error"), LATE.values(), ids=LATE.keys())
async def test_a_cdn_that_does_not_have_the_stems_is_waited_for_two_minutes(
    world: World, tmp_path: Path, fault: Any, error: type[AIStemSplitterError]
) -> None:
    split = await poll(world)
    world.api.always("download", lambda _: fault())
    with pytest.raises(AIStemSplitterError) as caught:
        await download(world, split, tmp_path)
    assert type(caught.value) is error
    assert caught.value.split_id == "split_1"
    assert 120 <= world.elapsed() < 150
    assert world.api.count("download") <= (15 if error is StemsExpiredError else 44)
    assert world.api.count("get") <= 5, "URLs that are fresh are not renewed again"
    assert files(tmp_path) == {}
    pauses = [event.delay for event in world.of(RetryPlanned) if event.stage == "download" and event.delay >= 0.75]
    assert len(pauses) >= 8, "no wait is silent"


@pytest.mark.parametrize("seconds", [0, 1, 10, 60, 110])
@pytest.mark.parametrize("code", [403, 404])
async def test_stems_that_come_late_are_downloaded_by_the_same_call(
    world: World, tmp_path: Path, code: int, seconds: float
) -> None:
    split = await poll(world, "vocals", "drums", "bass", "other")
    there_at = world.clock.monotonic() + seconds

    def late(exchange: Exchange) -> Any:
        return status(code) if world.clock.monotonic() < there_at else world.api.do_download(exchange)

    world.api.always("download", late)
    await download(world, split, tmp_path)
    assert len(files(tmp_path)) == 4
    assert world.elapsed() <= seconds + 31
    assert world.api.count("get") <= 5


async def test_while_stems_are_waited_for_others_are_downloaded(world: World, tmp_path: Path) -> None:
    """Twenty splits whose CDN is late take none of the eight places while they pause."""
    split = await poll(world)
    there_at = world.clock.monotonic() + 60

    def late(exchange: Exchange) -> Any:
        is_late = "late" in exchange.request.url and world.clock.monotonic() < there_at
        return status(404) if is_late else world.api.do_download(exchange)

    world.api.always("download", late)
    world.api.always("get", lambda exchange: world.api.split(exchange.request.url.rpartition("/")[2], "succeeded"))
    async with world.client() as client:
        waits = []
        for number in range(20):
            stems = {"vocals": f"{CDN}/late_{number}/vocals.mp3"}
            one = attrs.evolve(split, id=f"late_{number}", stems=stems, filename=f"late {number}.wav")
            waits.append(asyncio.create_task(client.download_stems(one, tmp_path)))
        await world.clock.sleep(5)
        began = world.elapsed()
        await client.download_stems(split, tmp_path)
        assert world.elapsed() == began
        await asyncio.gather(*waits)
    assert len(files(tmp_path)) == 21


async def test_waiting_for_stems_keeps_the_deadline(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    world.api.always("download", lambda _: status(404))
    with pytest.raises(APITimeoutError):
        await download(world, split, tmp_path, timeout=20)
    assert world.elapsed() == 20


async def test_an_api_that_is_as_late_as_its_cdn_is_waited_for_too(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    there_at = world.clock.monotonic() + 60

    def late(code: int, usual: Answers) -> Answers:
        return lambda exchange: status(code) if world.clock.monotonic() < there_at else usual(exchange)

    world.api.always("download", late(403, world.api.do_download))
    world.api.always("get", late(404, world.api.do_get))
    await download(world, split, tmp_path)
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


async def test_urls_that_expire_again_and_again_while_bytes_come_are_renewed_as_often(
    world: World, tmp_path: Path
) -> None:
    """Each URL lives for a minute, and a minute is good for a ninth of the file."""
    split = await poll(world)
    data = world.api.files["/split_1/vocals.mp3"] = bytes(range(256)) * 2700
    expires = {"at": 0.0}

    def renewed(exchange: Exchange) -> Any:
        expires["at"] = world.clock.monotonic() + 60
        return world.api.do_get(exchange)

    def some(exchange: Exchange) -> Any:
        if world.clock.monotonic() >= expires["at"]:
            return status(403)
        usual = world.api.do_download(exchange)
        (rest,) = usual.parts
        assert isinstance(rest, bytes)
        if len(rest) <= 80_000:
            return usual
        slow = [lambda: world.clock.sleep(59), lambda: world.clock.sleep(1)]
        return Flow([rest[:80_000], *slow, broken()], usual.headers, usual.status)

    world.api.always("get", renewed)
    world.api.always("download", some)
    await download(world, split, tmp_path)
    assert files(tmp_path) == {"song/vocals.mp3": data}


@pytest.mark.parametrize("fault", [broken, lambda: status(503), lambda: status(429), lambda: status(403), lambda: hang])
async def test_a_fault_that_passes_is_not_seen(world: World, tmp_path: Path, fault: Any) -> None:
    split = await poll(world)
    world.api.script("download", fault(), fault())
    await download(world, split, tmp_path)
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


# --- going on


def head(count: int, then: Any = None, *, data: bytes = VOCALS, **headers: str) -> Flow:
    """The first bytes of a file, and then a break."""
    promised = {"content-length": str(len(data)), "etag": f'"{len(data)}"'} | headers
    return Flow([data[:count], then or broken()], {name: value for name, value in promised.items() if value})


async def test_a_download_goes_on_where_it_broke(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    world.api.script("download", head(1000))
    await download(world, split, tmp_path)
    assert ranges(world) == [None, "bytes=1000-"]
    assert world.api.of("download")[1].headers["If-Range"] == f'"{len(VOCALS)}"'
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


async def test_a_download_goes_on_in_another_process(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    world.api.script("download", head(1000), *(broken() for _ in range(3)))
    with pytest.raises(APIConnectionError):
        await download(world, split, tmp_path)
    assert files(tmp_path) == {}
    world.api.asked.clear()
    await download(world, split, tmp_path)
    assert ranges(world) == ["bytes=1000-"]
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


async def test_a_connection_that_keeps_breaking_is_retried_as_long_as_it_delivers_something(
    world: World, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 4000
    world.api.files["/split_1/vocals.mp3"] = data
    split = await poll(world)
    step = 70_000

    def some(exchange: Exchange) -> Flow:
        usual = world.api.do_download(exchange)
        (rest,) = usual.parts
        assert isinstance(rest, bytes)
        return Flow([rest[:step], *([broken()] if len(rest) > step else [])], usual.headers, usual.status)

    world.api.always("download", some)
    await download(world, split, tmp_path)
    assert world.api.count("download") == -(-len(data) // step)
    assert files(tmp_path) == {"song/vocals.mp3": data}


@pytest.mark.parametrize("etag", ["", 'W/"1"', "unquoted"])
async def test_without_a_strong_validator_nothing_is_resumed(world: World, tmp_path: Path, etag: str) -> None:
    split = await poll(world)
    world.api.script("download", head(1000, etag=etag))
    await download(world, split, tmp_path)
    assert ranges(world) == [None, None]
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


NEW = VOCALS[::-1] + b"new"


def part_of(start: int, **changed: str) -> Flow:
    body = VOCALS[start:]
    headers = {
        "content-range": f"bytes {start}-{len(VOCALS) - 1}/{len(VOCALS)}",
        "content-length": str(len(body)),
        "etag": f'"{len(VOCALS)}"',
    }
    fixed = headers | {name.replace("_", "-"): value for name, value in changed.items()}
    return Flow([body], {name: value for name, value in fixed.items() if value}, 206)


MISFITS: dict[str, Answers] = {
    "200 with a new file": lambda: Flow([NEW], {"content-length": str(len(NEW)), "etag": '"new"'}),
    "416": lambda: status(416),
    "another start": lambda: part_of(999),
    "another total": lambda: part_of(1000, content_range=f"bytes 1000-{len(VOCALS) - 1}/{len(VOCALS) + 1}"),
    "no total": lambda: part_of(1000, content_range=f"bytes 1000-{len(VOCALS) - 1}/*"),
    "only a part": lambda: part_of(1000, content_range=f"bytes 1000-1999/{len(VOCALS)}"),
    "no range": lambda: part_of(1000, content_range=""),
    "garbage": lambda: part_of(1000, content_range="bytes 1000"),
    "another etag": lambda: part_of(1000, etag='"other"'),
    "204": lambda: Flow([b""], {"content-length": "0"}, 204),
}


@pytest.mark.parametrize("answer", MISFITS.values(), ids=MISFITS.keys())
async def test_a_part_that_does_not_fit_what_is_here_starts_the_file_over(
    world: World, tmp_path: Path, answer: Answers
) -> None:
    split = await poll(world)
    world.api.script("download", head(1000), answer())
    world.api.always("download", lambda _: Flow([NEW], {"content-length": str(len(NEW)), "etag": '"new"'}))
    await download(world, split, tmp_path)
    assert files(tmp_path) == {"song/vocals.mp3": NEW}
    assert ranges(world)[2:] in ([], [None])


async def test_the_check_above_would_notice_a_client_that_appends_whatever_comes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: believing any 206 mixes two files."""
    split = await poll(world)
    incoming = ranges_core.Incoming(start=1000, length=len(VOCALS) - 1000, total=len(VOCALS), etag=None)
    believe = ranges_core.read_incoming
    monkeypatch.setattr(
        stem_urls,
        "read_incoming",
        lambda code, headers, held: incoming if code == 206 else believe(code, headers, held),
    )
    changed = Flow([NEW[1000 : len(VOCALS)]], part_of(1000, etag='"other"').headers, 206)
    world.api.script("download", head(1000), changed)
    await download(world, split, tmp_path)
    assert files(tmp_path)["song/vocals.mp3"] not in (VOCALS, NEW)


# --- lengths


@pytest.mark.parametrize("cut", [0, 1, 5000, len(VOCALS) - 1])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_truncated_file_never_gets_its_final_name(world: World, tmp_path: Path, cut: int, framing: str) -> None:
    split = await poll(world)
    headers = {"length": {"content-length": str(len(VOCALS))}, "chunked": {"transfer-encoding": "chunked"}, "close": {}}
    # Chunked framing marks its end, so its truncation is an error of the connection; the others just end.
    end = [broken()] if framing == "chunked" else []
    world.api.always("download", lambda _: Flow([VOCALS[:cut], *end], headers[framing]))
    with pytest.raises((IncompleteDownloadError, APIConnectionError)):
        await download(world, split, tmp_path)
    assert files(tmp_path) == {}


async def test_a_whole_file_that_only_the_close_delimits_is_not_believed_either(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    world.api.always("download", lambda _: Flow([VOCALS], {}))
    with pytest.raises(IncompleteDownloadError):
        await download(world, split, tmp_path)


async def test_a_chunked_file_is_whole_when_its_end_is_marked(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    world.api.script("download", Flow([VOCALS[:99], VOCALS[99:]], {"transfer-encoding": "chunked"}))
    await download(world, split, tmp_path)
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}
    await download(world, split, tmp_path)
    assert world.api.count("download") == 1


async def test_more_bytes_than_promised_are_not_a_file(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    world.api.always("download", lambda _: Flow([VOCALS, b"more"], {"content-length": str(len(VOCALS))}))
    with pytest.raises(IncompleteDownloadError):
        await download(world, split, tmp_path)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("framing", [{"content-length": "0"}, {"transfer-encoding": "chunked"}])
async def test_nothing_is_not_a_stem(world: World, tmp_path: Path, framing: dict[str, str]) -> None:
    split = await poll(world)
    world.api.always("download", lambda _: Flow([], framing))
    with pytest.raises(IncompleteDownloadError, match="nothing"):
        await download(world, split, tmp_path)
    assert files(tmp_path) == {}
    del world.api._always["download"]
    await download(world, split, tmp_path)
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


async def test_a_download_that_stands_still_goes_on_after_the_stall_time(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    world.api.script("download", head(1000, hang))
    await download(world, split, tmp_path)
    assert ranges(world) == [None, "bytes=1000-"]
    assert 60 <= world.elapsed() < 62


async def test_progress_is_reported_per_stem(world: World, tmp_path: Path) -> None:
    split = await poll(world, "vocals", "drums")
    reported: list[Progress] = []
    await download(world, split, tmp_path, on_progress=reported.append)
    vocals = [progress.done_bytes for progress in reported if progress.name == "vocals"]
    assert (vocals[0], vocals[-1]) == (0, len(VOCALS))
    assert {progress.name for progress in reported} == {"vocals", "drums"}


# --- redirects and refreshes


async def test_redirects_are_followed_three_times_and_no_more(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    hops = [status(code, location=f"/hop{code}") for code in (301, 302, 307)]
    world.api.files["/hop307"] = VOCALS
    world.api.script("download", *hops)
    await download(world, split, tmp_path)
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}
    world.api.script("download", *hops, status(308, location="/hop308"))
    with pytest.raises(APIStatusError):
        await download(world, split, tmp_path, name="again")


@pytest.mark.parametrize(
    "location",
    [
        "http://cdn.test/plain",
        "https://10.0.0.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "//localhost/x",
        "https://user:pass@cdn.test/x",
        "file:///etc/passwd",
        "https://[broken/x",
        "https://cdn.test:99999/x",
    ],
)
async def test_a_redirect_that_must_not_be_followed_is_not(world: World, tmp_path: Path, location: str) -> None:
    split = await poll(world)
    world.api.always("download", lambda _: status(302, location=location))
    with pytest.raises(UnsafeURLError):
        await download(world, split, tmp_path)
    assert world.api.count("download") == 2  # the second one was the URL of a fresh poll
    assert files(tmp_path) == {}


async def test_all_stems_share_the_requests_that_renew_their_urls(world: World, tmp_path: Path) -> None:
    split = await poll(world, "vocals", "drums", "bass", "other")

    def expired(exchange: Exchange) -> Any:
        return status(403) if world.api.count("get") < 2 else world.api.do_download(exchange)

    world.api.always("download", expired)
    await download(world, split, tmp_path)
    assert world.api.count("get") == 2
    assert len(files(tmp_path)) == 4


async def test_a_renewed_url_is_vetted_like_the_first(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    world.api.script("download", status(403))
    world.api.always(
        "get", lambda _: world.api.split("split_1", "succeeded", stems={"vocals": "https://10.1.2.3/v.mp3"})
    )
    with pytest.raises(UnsafeURLError):
        await download(world, split, tmp_path)
    assert world.api.count("download") == 1


async def test_a_part_is_resumed_with_a_renewed_url(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    world.api.script("download", head(1000), status(403))
    await download(world, split, tmp_path)
    assert ranges(world) == [None, "bytes=1000-", "bytes=1000-"]
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


# --- hostile names and URLs


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/b", "..", "", "con", "x\0y", "a:b", ".stems", "VOCALS"])
async def test_a_hostile_name_is_refused_while_its_siblings_continue(world: World, tmp_path: Path, name: str) -> None:
    split = await poll(world, "vocals", name, "drums")
    with pytest.raises(UnsafeNameError):
        await download(world, split, tmp_path / "into")
    assert set(files(tmp_path)) == {"into/song/vocals.mp3", "into/song/drums.mp3"}


@pytest.mark.parametrize("url", ["http://cdn.test/x", "https://127.0.0.1/x", "file:///etc/passwd", "nonsense", ""])
async def test_a_hostile_url_is_refused_while_its_siblings_continue(world: World, tmp_path: Path, url: str) -> None:
    await poll(world)
    stems = {"bass": url, "vocals": f"{CDN}/split_1/vocals.mp3", "drums": f"{CDN}/split_1/drums.mp3"}
    world.api.script("get", world.api.split("split_1", "succeeded", stems=stems))
    async with world.client() as client:
        split = await client.get_split("split_1")
        with pytest.raises(UnsafeURLError):
            await client.download_stems(split, tmp_path)
    assert set(files(tmp_path)) == {"song/vocals.mp3", "song/drums.mp3"}


@pytest.mark.parametrize("filename", ["../../up.wav", "/etc/x.wav", "..", "a\\..\\b.wav", None])
async def test_the_folder_of_a_split_is_inside_the_one_that_was_named(
    world: World, tmp_path: Path, filename: str | None
) -> None:
    await poll(world)
    world.api.script("get", world.api.split("split_1", "succeeded", filename=filename))
    async with world.client() as client:
        found = await client.download_stems(await client.get_split("split_1"), tmp_path / "into")
    assert found["vocals"].resolve().parent.parent == tmp_path / "into"


# --- what is here already


async def test_what_is_complete_is_not_fetched_again(world: World, tmp_path: Path) -> None:
    split = await poll(world, "vocals", "drums")
    first = await download(world, split, tmp_path)
    assert await download(world, split, tmp_path) == first
    assert world.api.count("download") == 2
    first["drums"].write_bytes(b"cut")
    with pytest.raises(DownloadError, match="exists already"):
        await download(world, split, tmp_path)
    assert first["drums"].read_bytes() == b"cut"
    first["drums"].unlink()
    await download(world, split, tmp_path)
    assert world.api.count("download") == 3


@pytest.mark.parametrize("kind", ["file", "dangling link"])
async def test_nothing_is_overwritten_unasked(world: World, tmp_path: Path, kind: str) -> None:
    split = await poll(world)
    (tmp_path / "song").mkdir()
    mine = tmp_path / "song" / "vocals.mp3"
    if kind == "file":
        mine.write_bytes(b"mine")
    else:
        mine.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DownloadError) as caught:
        await download(world, split, tmp_path)
    assert caught.value.code == "EXISTS"
    assert world.api.asked == []
    assert not (tmp_path / "nowhere").exists()
    await download(world, split, tmp_path, overwrite=True)
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


async def test_a_file_that_appears_during_the_download_is_not_overwritten(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    mine = tmp_path / "song" / "vocals.mp3"

    async def meanwhile() -> None:
        mine.write_bytes(b"mine")

    world.api.script("download", Flow([VOCALS, meanwhile], {"content-length": str(len(VOCALS))}))
    with pytest.raises(DownloadError) as caught:
        await download(world, split, tmp_path)
    assert caught.value.code == "EXISTS"
    assert mine.read_bytes() == b"mine"


async def test_the_stems_of_another_split_are_not_mixed_with_ours(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    await download(world, split, tmp_path, name="song")
    world.api.script("get", world.api.split("split_2", "succeeded"))
    async with world.client() as client:
        other = await client.get_split("split_2")
    with pytest.raises(DownloadError) as caught:
        await download(world, other, tmp_path)
    assert caught.value.code == "EXISTS"
    await download(world, other, tmp_path, overwrite=True)
    assert files(tmp_path)["song/vocals.mp3"] == world.api.stem(world.api.of("download")[-1].exchange) != VOCALS


async def test_another_format_leaves_nothing_of_the_old_one_beside_it(world: World, tmp_path: Path) -> None:
    split = await poll(world, "vocals", "piano")
    await download(world, split, tmp_path, name="song")
    stems = {"vocals": f"{CDN}/split_2/vocals.wav", "drums": f"{CDN}/split_2/drums.wav"}
    world.api.script("get", world.api.split("split_2", "succeeded", stems=stems))
    async with world.client() as client:
        other = await client.get_split("split_2")
    world.api.always("download", lambda exchange: broken() if "drums" in exchange.request.url else flow_of(NEW))
    with pytest.raises(APIConnectionError):
        await download(world, other, tmp_path, name="song", overwrite=True)
    assert set(files(tmp_path)) == {"song/vocals.mp3", "song/piano.mp3", "song/vocals.wav"}, "not before all are there"
    world.api.always("download", lambda _: flow_of(NEW))
    await download(world, other, tmp_path, name="song")
    assert files(tmp_path) == {"song/vocals.wav": NEW, "song/drums.wav": NEW}


def flow_of(data: bytes) -> Flow:
    return Flow([data], {"content-length": str(len(data))})


async def download_named(world: World, split: Split, folder: Path, pattern: str, **options: Any) -> dict[str, Path]:
    async with world.client() as client:
        collector = client._engine.collector
        return await collector.collect(split, folder, overwrite=False, on_progress=None, pattern=pattern, **options)


async def test_tracks_that_share_a_folder_do_not_lose_each_others_memory(world: World, tmp_path: Path) -> None:
    split = await poll(world, "vocals", "drums")
    other = world.api.split("split_2", "succeeded")
    world.api.script("get", other)
    async with world.client() as client:
        second = await client.get_split("split_2")
    tracks = {"One - {stem}": split, "Two - {stem}": second}

    def half(exchange: Exchange) -> Any:
        return broken() if "Range" in exchange.request.headers else head(100, data=world.api.stem(exchange))

    world.api.always("download", half)
    tasks = [asyncio.create_task(download_named(world, track, tmp_path, pattern)) for pattern, track in tracks.items()]
    assert {type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)} == {APIConnectionError}
    assert files(tmp_path) == {}
    world.api.asked.clear()
    world.api._always.clear()
    for pattern, track in tracks.items():
        await download_named(world, track, tmp_path, pattern)
    assert set(ranges(world)) == {"bytes=100-"}, "every part was gone on with"
    assert set(files(tmp_path)) == {f"{song} - {stem}.mp3" for song in ("One", "Two") for stem in ("vocals", "drums")}
    world.api.asked.clear()
    for pattern, track in tracks.items():
        await download_named(world, track, tmp_path, pattern)
    assert world.api.asked == [], "and nothing that is whole is fetched again"


async def test_a_pattern_that_leads_out_of_the_folder_is_refused(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    with pytest.raises(UnsafeNameError):
        await download_named(world, split, tmp_path / "into", "../{stem}")
    assert list(tmp_path.iterdir()) == []


TAMPERED: dict[str, Any] = {
    "a file elsewhere": {"file": "../../evil.mp3"},
    "an absolute file": {"file": "/tmp/evil.mp3"},  # noqa: S108  # never made
    "no text": {"file": 5},
    "a length in words": {"total": "many"},
    "a negative length": {"total": -1},
    "an etag with a header": {"etag": '"a"\r\nX-Evil: 1'},
    "a field too many": {"evil": 1},
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED.keys())
async def test_a_tampered_memory_costs_at_most_a_download(world: World, tmp_path: Path, change: dict[str, Any]) -> None:
    split = await poll(world)
    world.api.script("download", head(1000), *(broken() for _ in range(3)))
    with pytest.raises(APIConnectionError):
        await download(world, split, tmp_path)
    memory = tmp_path / "song" / ".stems.json"
    saved = json.loads(memory.read_text())
    saved["stems"]["vocals"] |= change
    memory.write_text(json.dumps(saved))
    await download(world, split, tmp_path)
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 2}', "[" * 100_000, "\xff"])
async def test_an_unreadable_memory_costs_at_most_a_download(world: World, tmp_path: Path, text: str) -> None:
    split = await poll(world)
    world.api.script("download", head(1000), *(broken() for _ in range(3)))
    with pytest.raises(APIConnectionError):
        await download(world, split, tmp_path)
    (tmp_path / "song" / ".stems.json").write_text(text, encoding="latin-1")
    await download(world, split, tmp_path)
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


async def test_a_split_without_stems_is_nothing_to_download(world: World, tmp_path: Path) -> None:
    world.api.statuses["split_1"] = ["processing"]
    async with world.client() as client:
        with pytest.raises(DownloadError, match="processing"):
            await client.download_stems(await client.get_split("split_1"), tmp_path)


# --- cancelling


async def test_a_cancelled_download_keeps_its_part_and_goes_on_later(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    here = asyncio.Event()

    async def started() -> None:
        here.set()
        await hang()

    world.api.script("download", head(1000, started))
    task = asyncio.create_task(download(world, split, tmp_path))
    await here.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(tmp_path) == {}
    await download(world, split, tmp_path)
    assert ranges(world) == [None, "bytes=1000-"]
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


async def test_a_deadline_during_a_download_is_a_timeout_and_keeps_the_part(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    world.api.script("download", head(1000, hang))
    with pytest.raises(APITimeoutError) as caught:
        await download(world, split, tmp_path, timeout=9)
    assert (world.elapsed(), caught.value.split_id) == (9, "split_1")
    await download(world, split, tmp_path)
    assert ranges(world) == [None, "bytes=1000-"]


async def test_cancelling_while_the_disk_is_written_keeps_the_order_of_the_bytes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_WRITE_BYTES", 100)
    split = await poll(world)
    pieces = [VOCALS[start : start + 64] for start in range(0, len(VOCALS), 64)]
    for turns in range(5, 45):
        world.api.script("download", Flow(pieces, {"content-length": str(len(VOCALS)), "etag": f'"{len(VOCALS)}"'}))
        task = asyncio.create_task(download(world, split, tmp_path, name=str(turns)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        world.api._scripts.clear()
        part = tmp_path / str(turns) / ".vocals.part"
        assert VOCALS.startswith(part.read_bytes() if part.exists() else b"")
        await download(world, split, tmp_path, name=str(turns))
        assert files(tmp_path / str(turns)) == {"vocals.mp3": VOCALS}


# --- the disk


@pytest.mark.parametrize("room", [0, 1, 5000])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
async def test_a_full_disk_leaves_no_final_name_and_says_so(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, code: int
) -> None:
    split = await poll(world)
    write = os.write
    left = room

    def full(descriptor: int, data: memoryview) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(code, os.strerror(code))
        written = write(descriptor, data[:left])
        left -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DownloadError) as caught:
            await download(world, split, tmp_path)
    assert caught.value.code == "DISK"
    assert world.api.count("download") == 1
    assert files(tmp_path) == {}
    await download(world, split, tmp_path)
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


@pytest.mark.parametrize("call", ["fsync", "link", "open"])
async def test_a_disk_that_refuses_anything_else_leaves_no_final_name(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    split = await poll(world)
    (tmp_path / "song").mkdir()

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        if call == "link":
            patch.setattr(Path, "replace", refuse)
        with pytest.raises(DownloadError):
            await download(world, split, tmp_path)
    assert files(tmp_path) == {}


async def test_a_folder_that_cannot_be_made_is_a_download_error(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    (tmp_path / "song").write_bytes(b"a file")
    with pytest.raises(DownloadError):
        await download(world, split, tmp_path)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
async def test_a_part_that_is_something_else_is_not_followed(world: World, tmp_path: Path, kind: str) -> None:
    split = await poll(world)
    (tmp_path / "song").mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part = tmp_path / "song" / ".vocals.part"
    if kind == "link":
        part.symlink_to(victim)
    elif kind == "folder":
        part.mkdir()
    else:
        os.mkfifo(part)
    with pytest.raises(DownloadError):
        await download(world, split, tmp_path)
    assert victim.read_bytes() == b"precious"


async def test_a_part_that_another_process_writes_is_left_alone(world: World, tmp_path: Path) -> None:
    split = await poll(world)
    (tmp_path / "song").mkdir()
    other = PartFile(tmp_path / "song" / ".vocals.part")
    try:
        with pytest.raises(DownloadError, match="another process"):
            await download(world, split, tmp_path)
    finally:
        other.close()


async def test_a_rename_that_is_slow_is_not_a_stall(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Syncing a large file to a slow disk may take minutes; the network has nothing to do with it."""
    split = await poll(world)
    publish = PartFile.publish

    def slow(part: PartFile, target: Path, *, overwrite: bool) -> None:
        world.clock._time += 600
        publish(part, target, overwrite=overwrite)

    monkeypatch.setattr(PartFile, "publish", slow)
    await download(world, split, tmp_path)
    assert world.api.count("download") == 1
    assert files(tmp_path) == {"song/vocals.mp3": VOCALS}


async def test_a_job_waits_and_downloads_within_one_deadline(world: World, tmp_path: Path) -> None:
    world.api.statuses["split_1"] = ["processing"] * 5 + ["succeeded"]
    world.api.always("download", lambda _: Flow([b"x", hang], {"content-length": "9"}))
    async with world.client(poll=PollPolicy(jitter=0.0, shortest=5)) as client:
        with pytest.raises(APITimeoutError):
            await client.job("split_1").download(tmp_path, timeout=40)
    assert world.elapsed() == 40
