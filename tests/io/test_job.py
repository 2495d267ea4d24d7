"""A job: its attributes, and waiting for it once more after a break."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aistemsplitter_async.config import PollPolicy
from aistemsplitter_async.errors import SplitFailedError
from tests.io.fakes import World

URL = "https://example.com/song.wav"


async def test_a_job_waits_from_the_moment_of_its_create(world: World) -> None:
    async with world.client(poll=PollPolicy(first=30)) as client:
        job = await client.submit(URL)
        await world.clock.sleep(20)
        assert (await job.wait()).status == "succeeded"
    assert world.api.times("get") == [30]


async def test_a_job_taken_up_again_makes_no_request_until_it_is_asked(world: World) -> None:
    async with world.client() as client:
        job = client.job("split_9")
        assert (job.id, job.idempotency_key, job.created, repr(job)) == ("split_9", None, None, "Job('split_9')")
        assert world.api.asked == []
        assert (await job.wait()).id == "split_9"


async def test_updates_of_a_job_can_be_left_and_iterated_again(world: World) -> None:
    world.api.statuses["split_1"] = ["queued", "processing", "succeeded"]
    async with world.client() as client:
        job = await client.submit(URL)
        async for split in job.updates():
            assert split.status == "queued"
            break
        assert [split.status async for split in job.updates()][-2:] == ["processing", "succeeded"]
        assert [split.status async for split in job.updates()] == ["succeeded"]


async def test_updates_yield_a_failed_split_instead_of_raising(world: World) -> None:
    world.api.statuses["split_1"] = ["failed"]
    async with world.client() as client:
        job = client.job("split_1")
        assert [split.status async for split in job.updates()] == ["failed"]
        assert (await job.wait(raise_on_failed=False)).status == "failed"
        with pytest.raises(SplitFailedError):
            await job.wait()


@pytest.mark.usefixtures("inline_threads", "no_open_files")
async def test_a_job_downloads_after_waiting_and_does_not_wait_twice(world: World, tmp_path: Path) -> None:
    world.api.statuses["split_1"] = ["processing", "succeeded"]
    async with world.client() as client:
        job = client.job("split_1")
        found = await job.download(tmp_path)
        assert found["vocals"].parent == tmp_path / "song"
        await job.download(tmp_path, name="again")
    assert world.api.count("get") == 2


@pytest.mark.usefixtures("inline_threads")
async def test_a_failed_job_has_nothing_to_download_and_says_why(world: World, tmp_path: Path) -> None:
    world.api.statuses["split_1"] = ["failed"]
    async with world.client() as client:
        job = client.job("split_1")
        await job.wait(raise_on_failed=False)
        with pytest.raises(SplitFailedError):
            await job.download(tmp_path)
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # of names
