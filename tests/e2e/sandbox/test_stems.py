"""The CDN origin over sockets: signed addresses, parts of files, and how splits get there."""

from __future__ import annotations

import asyncio

import pytest

from aistemsplitter_async.sandbox import Lifetimes, Manual, Timed
from aistemsplitter_async.sandbox.separation.silence import build_silence
from aistemsplitter_async.testing import FakeClock
from tests.e2e.harness import BareAPI, Connect, MakeWav

SONG = "https://example.com/a.mp3?seconds=10"


@pytest.mark.parametrize(("output_format", "content_type"), [("wav", "audio/wav"), ("mp3", "audio/mpeg")])
async def test_a_stem_comes_whole_with_type_length_and_strong_etag(
    api: BareAPI, output_format: str, content_type: str
) -> None:
    split = await api.finish(SONG, outputFormat=output_format)
    url = split["stems"]["vocals"]
    whole = await api.send("GET", url)
    assert whole.raw == build_silence(output_format)
    assert whole.headers["Content-Type"] == content_type
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert int(whole.headers["Content-Length"]) == len(whole.raw)
    etag = whole.headers["ETag"]
    assert etag.startswith('"')
    head = await api.send("HEAD", url)
    assert (head.status, head.raw, head.headers["ETag"]) == (200, b"", etag)
    assert head.headers["Content-Length"] == whole.headers["Content-Length"]


async def test_a_stem_comes_in_parts(api: BareAPI) -> None:
    split = await api.finish(SONG)
    url, silence = split["stems"]["vocals"], build_silence("mp3")
    etag = (await api.send("HEAD", url)).headers["ETag"]
    part = await api.send("GET", url, headers={"Range": "bytes=100-199", "If-Range": etag})
    assert (part.status, part.raw) == (206, silence[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(silence)}"
    rest = await api.send("GET", url, headers={"Range": f"bytes={len(silence) - 7}-"})
    assert (rest.status, rest.raw) == (206, silence[-7:])
    changed = await api.send("GET", url, headers={"Range": "bytes=100-199", "If-Range": '"other"'})
    assert (changed.status, changed.raw) == (200, silence)
    beyond = await api.send("GET", url, headers={"Range": f"bytes={len(silence)}-"})
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(silence)}")
    known = await api.send("GET", url, headers={"If-None-Match": etag})
    assert (known.status, known.raw) == (304, b"")


async def test_addresses_expire_and_every_poll_has_new_ones(api: BareAPI) -> None:
    split = await api.finish(SONG)
    old = split["stems"]["vocals"]
    api.sandbox.advance(3601)
    answer = await api.send("GET", old)
    assert (answer.status, answer.json["error"]) == (403, "URL_EXPIRED")
    new = (await api.get(split["id"]))["stems"]["vocals"]
    assert new != old
    assert (await api.send("GET", new)).status == 200


async def test_addresses_cannot_be_guessed_or_changed(api: BareAPI) -> None:
    split = await api.finish(SONG)
    url = split["stems"]["vocals"]
    for wrong in (
        url.partition("?")[0],
        url.replace("/vocals.", "/drums."),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.replace("expires=", "expires=9"),
    ):
        answer = await api.send("GET", wrong)
        assert (answer.status, answer.json["error"]) == (403, "FORBIDDEN")
    assert (await api.send("POST", url)).status == 405


async def test_stems_are_deleted_when_their_time_is_over(connect: Connect) -> None:
    async with connect(lifetimes=Lifetimes(stems=100.0)) as api:
        split = await api.finish(SONG)
        api.sandbox.advance(101)
        await api.create(SONG)
        assert (await api.call("GET", f"/audio/splits/{split['id']}")).status == 404
        assert (await api.send("GET", split["stems"]["vocals"])).status == 404


async def test_real_files_are_served_in_parts_too(connect: Connect, make_wav: MakeWav) -> None:
    pytest.importorskip("soundfile")
    async with connect(separation="real") as api:
        created = await api.create(await api.upload(make_wav(4.0, rate=44_100)), outputFormat="wav")
        async with asyncio.timeout(30):
            while not (split := await api.get(created.json["data"]["id"])).get("stems"):  # noqa: ASYNC110  a child process is at work
                await asyncio.sleep(0.02)
        url = split["stems"]["bass"]
        whole = await api.send("GET", url)
        assert len(whole.raw) > 4 * 44_100
        half = len(whole.raw) // 2
        rest = await api.send("GET", url, headers={"Range": f"bytes={half}-"})
        assert (rest.status, rest.raw) == (206, whole.raw[half:])
        assert (await api.send("HEAD", url)).headers["Content-Length"] == str(len(whole.raw))


async def test_undecodable_audio_is_422_at_creation_and_costs_nothing(connect: Connect) -> None:
    pytest.importorskip("soundfile")
    async with connect(separation="real") as api:
        source = await api.upload(b"just some text", filename="fake.mp3", content_type="audio/mpeg")
        answer = await api.create(source)
        assert (answer.status, answer.json["error"]["code"]) == (422, "VALIDATION_ERROR")
        assert "fake.mp3" in answer.json["error"]["message"]
        assert api.sandbox.credits == 36_000


async def test_a_test_can_step_a_split_by_hand(connect: Connect) -> None:
    async with connect(progression=Manual()) as api:
        split_id = (await api.create(SONG)).json["data"]["id"]
        assert (await api.get(split_id))["status"] == "queued"
        for status in ("processing", "succeeded"):
            assert await api.sandbox.step(split_id) == status
            assert (await api.get(split_id))["status"] == status
        with pytest.raises(KeyError):
            await api.sandbox.step(split_id)


async def test_a_timed_split_takes_the_time_it_should_on_the_sandboxs_clock(
    connect: Connect,
) -> None:
    timed = Timed(base=5.0, per_second=1.0, workers=1)
    async with connect(progression=timed) as api:
        first, second = [(await api.create(SONG)).json["data"]["id"] for _ in range(2)]
        seen = []
        for _ in range(4):
            seen.append(tuple([(await api.get(split_id))["status"] for split_id in (first, second)]))
            api.sandbox.advance(8.0)
        assert seen == [
            ("processing", "queued"),
            ("processing", "queued"),
            ("succeeded", "processing"),
            ("succeeded", "processing"),
        ]
        views = api.sandbox.ledger.splits
        assert views[0].finished_at is not None
        assert views[1].finished_at is not None
        # One worker, 15 s for each: the second ends exactly 15 s after the first, whenever it is polled.
        assert views[1].finished_at - views[0].finished_at == pytest.approx(15.0, abs=0.01)


async def test_stems_stay_on_disk_only_as_long_as_the_sandbox(api: BareAPI) -> None:
    root = api.sandbox._running.service._root
    assert root.exists()
    await api.sandbox.aclose()
    assert not root.exists()


async def test_an_injected_clock_moves_the_sandbox_without_any_request(connect: Connect) -> None:
    clock = FakeClock()
    async with connect(progression=Timed(base=60.0, per_second=0.0), clock=clock) as api:
        split_id = (await api.create(SONG)).json["data"]["id"]
        await clock.advance(59.0)
        assert api.sandbox.ledger.splits[0].status == "processing"
        await clock.advance(1.0)
        assert api.sandbox.ledger.splits[0].status == "succeeded"
        api.sandbox.advance(5.0)
        split = await api.get(split_id)
        assert split["createdAt"] == "2027-01-15T08:00:00.000Z"
        assert split["updatedAt"] == "2027-01-15T08:01:00.000Z"
        assert api.sandbox.ledger.splits[0].lag == 5.0
