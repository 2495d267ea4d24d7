"""The upload worker over sockets: exactly the promised bytes, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from aistemsplitter_async.sandbox import Lifetimes, Limits, Manual

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.e2e.harness import BareAPI, Connect, MakeWav


def stored(folder: Path, pattern: str = "*") -> list[str]:
    return [path.name for path in folder.glob(f"sources/{pattern}")]


async def until(condition: Callable[[], object]) -> None:
    """Let the server run until something outside the event loop's sight (a file) is as it should be."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  files send no events
            await asyncio.sleep(0)


async def test_an_upload_is_kept_and_entered_with_its_hash(api: BareAPI, make_wav: MakeWav) -> None:
    data = make_wav(2.0)
    source = await api.upload(data)
    (record,) = api.sandbox.ledger.uploads
    assert (record.size_bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert record.upload_id == source["uploadId"]
    split = await api.finish(source)
    assert (split["creditsUsed"], split["durationSeconds"]) == (2, 2.0)


async def test_a_large_upload_is_hashed_whole(api: BareAPI) -> None:
    data = bytes(range(256)) * 40_000  # 10 MB: many batches
    reserved = await api.reserve(data)
    assert (await api.put(reserved, data)).status == 200
    assert api.sandbox.ledger.uploads[0].sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"X-Upload-Token": "wrong"}, 403, "FORBIDDEN"),
        ({"X-Upload-Token": None}, 403, "FORBIDDEN"),
        ({"Content-Type": "audio/mpeg"}, 400, "CONTENT_TYPE_MISMATCH"),
        ({"Authorization": "Bearer {key}"}, 400, "UNEXPECTED_AUTHORIZATION"),
        ({"X-Debug": "{key}"}, 400, "UNEXPECTED_AUTHORIZATION"),
    ],
)
async def test_wrong_headers_are_refused_flat_and_keep_nothing(
    api: BareAPI, change: dict[str, str | None], status: int, code: str
) -> None:
    reserved = await api.reserve(b"12345")
    headers: dict[str, Any] = dict(reserved["uploadHeaders"]) | {"Content-Type": "audio/wav"} | change
    headers = {n: v.format(key=api.sandbox.api_key) for n, v in headers.items() if v is not None}
    answer = await api.send("POST", reserved["uploadUrl"], data=b"12345", headers=headers)
    assert answer.status == status
    assert answer.json["success"] is False
    assert answer.json["error"] == code
    assert isinstance(answer.json["message"], str)
    assert not api.sandbox.ledger.uploads


async def test_a_key_that_reaches_the_worker_or_the_cdn_is_entered_without_its_value(api: BareAPI) -> None:
    reserved = await api.reserve(b"12345")
    split = await api.finish("https://example.com/a.mp3")
    bearer = {"Authorization": f"Bearer {api.sandbox.api_key}"}
    assert not api.sandbox.ledger.leaked_keys
    await api.send("POST", reserved["uploadUrl"], data=b"12345", headers=bearer)
    answer = await api.send("GET", split["stems"]["vocals"], headers=bearer)
    assert answer.status == 400
    assert [(leak.origin, leak.where) for leak in api.sandbox.ledger.leaked_keys] == [
        ("worker", "Authorization"),
        ("cdn", "Authorization"),
    ]
    assert api.sandbox.api_key not in repr(api.sandbox.ledger.as_dict())


async def test_a_length_other_than_the_announced_one_is_refused(api: BareAPI) -> None:
    reserved = await api.reserve(b"12345")
    assert (await api.put(reserved, b"123456")).status == 413
    assert (await api.put(reserved, b"1234")).status == 400

    async def chunked() -> AsyncIterator[bytes]:
        yield b"12345"

    headers = dict(reserved["uploadHeaders"]) | {"Content-Type": "audio/wav"}
    answer = await api.send("POST", reserved["uploadUrl"], data=chunked(), headers=headers)
    assert (answer.status, answer.json["error"]) == (411, "LENGTH_REQUIRED")
    assert (await api.put(reserved, b"12345")).status == 200


async def test_only_post_takes_a_file_and_only_for_a_reservation(api: BareAPI) -> None:
    reserved = await api.reserve(b"12345")
    answer = await api.send("PUT", reserved["uploadUrl"], data=b"12345", headers=reserved["uploadHeaders"])
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    answer = await api.send("POST", f"{api.sandbox.worker_url}/upload/upl_none", data=b"12345")
    assert (answer.status, answer.json["error"]) == (404, "NOT_FOUND")


async def test_a_client_that_expects_100_continue_gets_it(api: BareAPI, make_wav: MakeWav) -> None:
    data = make_wav()
    reserved = await api.reserve(data)
    headers = dict(reserved["uploadHeaders"]) | {"Content-Type": "audio/wav"}
    answer = await api.send("POST", reserved["uploadUrl"], data=data, headers=headers, expect100=True)
    assert answer.status == 200


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path, connect: Connect) -> None:
    async with connect(data=tmp_path) as api:
        reserved = await api.reserve(bytes(4_000_000))
        host, _, port = api.sandbox.worker_url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        path = reserved["uploadUrl"].removeprefix(api.sandbox.worker_url)
        token = reserved["uploadHeaders"]["X-Upload-Token"]
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Upload-Token: {token}\r\nContent-Type: audio/wav\r\n"
            "Content-Length: 4000000\r\n\r\n".encode()
        )
        writer.write(bytes(2_500_000))
        await writer.drain()
        await until(lambda: stored(tmp_path, "*.part"))
        writer.close()
        await until(lambda: not stored(tmp_path))
        assert (await api.put(reserved, bytes(4_000_000))).status == 200
        assert stored(tmp_path) == [reserved["uploadId"]]


async def test_a_reservation_expires(api: BareAPI) -> None:
    reserved = await api.reserve(b"12345")
    api.sandbox.advance(899)
    assert (await api.put(reserved, b"12345")).status == 200
    reserved = await api.reserve(b"12345")
    api.sandbox.advance(901)
    answer = await api.put(reserved, b"12345")
    assert (answer.status, answer.json["error"]) == (410, "RESERVATION_EXPIRED")


async def test_an_upload_may_be_repeated_until_a_split_uses_it(api: BareAPI, make_wav: MakeWav) -> None:
    one, two = make_wav(1.0), make_wav(1.0)[:-4] + b"abcd"
    reserved = await api.reserve(one)
    stored = [(await api.put(reserved, data)).json["data"] for data in (one, two)]
    assert stored[0] == stored[1]
    source = {
        "type": "uploaded_file",
        "uploadId": reserved["uploadId"],
        "fileUrl": stored[0]["url"],
        "storageKey": stored[0]["key"],
    }
    api.sandbox.set_credits(0)
    assert (await api.create(source)).status == 402
    assert (await api.put(reserved, two)).status == 200
    api.sandbox.set_credits(100)
    assert (await api.create(source)).status == 200
    assert (await api.put(reserved, one)).status == 409
    assert (await api.create(source, stemModel="6s")).status == 200


@pytest.mark.parametrize("field", ["uploadId", "fileUrl", "storageKey"])
async def test_what_the_worker_answered_must_belong_together(api: BareAPI, make_wav: MakeWav, field: str) -> None:
    source, other = await api.upload(make_wav()), await api.upload(make_wav())
    for wrong in (other[field], "made up"):
        answer = await api.create(source | {field: wrong})
        assert answer.status == 422
        assert answer.json["error"]["message"].startswith("input.")
    assert (await api.create(source)).status == 200


async def test_a_reservation_without_a_file_cannot_be_split(api: BareAPI) -> None:
    reserved = await api.reserve(b"12345")
    source = {"type": "uploaded_file", "uploadId": reserved["uploadId"], "fileUrl": "x", "storageKey": "y"}
    answer = await api.create(source)
    assert answer.status == 422
    assert "holds no file" in answer.json["error"]["message"]


async def test_files_are_deleted_when_their_time_is_over_but_never_under_a_running_split(
    tmp_path: Path, connect: Connect, make_wav: MakeWav
) -> None:
    lifetimes = Lifetimes(upload=100.0)
    options: dict[str, Any] = {"data": tmp_path, "lifetimes": lifetimes}
    async with connect(progression=Manual(), **options) as api:
        created = (await api.create(await api.upload(make_wav()))).json["data"]
        api.sandbox.advance(101)
        await api.reserve(b"1")
        assert len(stored(tmp_path)) == 1
        for _ in range(2):
            await api.sandbox.step(created["id"])
        await api.reserve(b"1")
        assert not stored(tmp_path)


async def test_a_full_storage_refuses_with_507(connect: Connect) -> None:
    async with connect(limits=Limits(max_disk_bytes=10)) as api:
        assert (await api.put(await api.reserve(b"123456"), b"123456")).status == 200
        answer = await api.put(await api.reserve(b"12345"), b"12345")
        assert (answer.status, answer.json["error"]) == (507, "STORAGE_FULL")
