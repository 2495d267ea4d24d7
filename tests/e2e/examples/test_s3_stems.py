"""The recipe that sends stems to S3, against moto's server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async import IncompleteDownloadError
from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.examples.conftest import Load
from tests.e2e.harness import MakeWav


@pytest.fixture
def server() -> Iterator[str]:
    """The address of an S3 in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def session() -> Any:
    """A session of aiobotocore, which reads descriptions of all services for its first client."""
    from aiobotocore.session import get_session

    return get_session()


@pytest.fixture
async def s3(monkeypatch: pytest.MonkeyPatch, server: str, session: Any) -> AsyncIterator[Any]:
    """A client of an S3 with an empty bucket, in which parts may be small."""
    from moto.s3 import models

    monkeypatch.setattr(models, "S3_UPLOAD_PART_MIN_SIZE", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    async with session.create_client("s3") as client:
        await client.create_bucket(Bucket="songs")
        yield client
    models.s3_backends.reset()


@pytest.fixture
def example(load: Load, session: Any) -> Any:
    recipe = load("s3_stems")
    recipe.PART = 1000  # bytes
    recipe.get_session = lambda: session
    return recipe


@attrs.define
class Broken:
    """A stem of which one part comes, and then what `then` does."""

    then: Callable[[], Awaitable[bytes]]
    content_type: str = "audio/mpeg"
    began: bool = False

    async def read(self, size: int) -> bytes:
        if self.began:
            return await self.then()
        self.began = True
        return bytes(size)


async def test_stems_go_up_in_parts_again_at_no_cost_and_of_one_that_breaks_off_nothing_stays(
    s3: Any, sandbox: Sandbox, example: Any, make_wav: MakeWav, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("song.wav").write_bytes(make_wav(1.0))
    await example.main("song.wav", "s3://songs/first")
    split_id, *_ = capsys.readouterr().out.split()
    await example.main(split_id, "s3://songs")

    stems = [f"{stem}.mp3" for stem in ("bass", "drums", "other", "vocals")]
    listed = (await s3.list_objects_v2(Bucket="songs"))["Contents"]
    assert [found["Key"] for found in listed] == sorted([*stems, *(f"first/{stem}" for stem in stems)])
    assert all(found["Size"] > 1000 and found["ETag"].endswith('-2"') for found in listed)
    assert (await s3.head_object(Bucket="songs", Key="vocals.mp3"))["ContentType"] == "audio/mpeg"
    assert len(sandbox.ledger.charges) == 1

    async def break_off() -> bytes:
        uploads = (await s3.list_multipart_uploads(Bucket="songs"))["Uploads"]
        parts = await s3.list_parts(Bucket="songs", Key="broken.mp3", UploadId=uploads[0]["UploadId"])
        assert [part["Size"] for part in parts["Parts"]] == [1000]
        raise IncompleteDownloadError("it kept ending early")

    with pytest.raises(IncompleteDownloadError):
        await example.send(s3, "songs", "broken.mp3", Broken(break_off))

    async def wait() -> bytes:
        sending.cancel()
        return await asyncio.Future[bytes]()

    sending = asyncio.create_task(example.send(s3, "songs", "broken.mp3", Broken(wait)))
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert "Uploads" not in await s3.list_multipart_uploads(Bucket="songs")
    assert (await s3.list_objects_v2(Bucket="songs"))["Contents"] == listed
