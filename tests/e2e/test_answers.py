"""Answers to a create as proxies, frameworks and languages write them: what names a split is a create that happened.

Bytes on a socket, written by hand; what the server made is counted by its own ledger.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aistemsplitter_async import (
    APIStatusError,
    AsyncAIStemSplitter,
    AuthenticationError,
    DirectURL,
    Done,
    InsufficientCreditsError,
    RateLimitedError,
    ServerError,
    Skipped,
    SubmissionUncertainError,
    ValidationError,
)
from aistemsplitter_async._send import transport as transport_module
from aistemsplitter_async.config import PollPolicy, RetryPolicy
from aistemsplitter_async.events import Event, GateClosed
from tests.e2e.harness import CLI
from tests.e2e.raw import CREATED, KEY, Got, RawAPI, Speak, answer, envelope, head, raw_api

QUICK = RetryPolicy(create_attempts=2, throttle_waits=1).scaled(0.001)
SONG = DirectURL("https://example.com/a.wav")


def body(split_id: str = "split_1", **fields: object) -> bytes:
    return json.dumps(envelope(CREATED | {"id": split_id} | fields)).encode()


def says(build: Callable[[bytes], bytes]) -> Speak:
    """Answer with what `build` makes of the usual body."""
    return lambda _, split_id: build(body(split_id))


def chunked(raw: bytes, *lines: str, end: bytes = b"0\r\n\r\n") -> bytes:
    chunks = (raw[start : start + 30] for start in range(0, len(raw), 30))
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head("200 OK", "Transfer-Encoding: chunked", *lines) + coded + end


def raw_deflate(raw: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(raw) + packer.flush()


MANY = [f"X-Trace-{n}: {n}" for n in range(500)]
READABLE: dict[str, Callable[[bytes], bytes]] = {
    "plain": answer,
    "gzip": lambda raw: answer(gzip.compress(raw), "Content-Encoding: gzip"),
    "x-gzip in chunks": lambda raw: chunked(gzip.compress(raw), "Content-Encoding: x-gzip"),
    "gzip unlabelled": lambda raw: answer(gzip.compress(raw)),
    "gzip labelled, but plain": lambda raw: answer(raw, "Content-Encoding: gzip"),
    "deflate": lambda raw: answer(zlib.compress(raw), "Content-Encoding: deflate"),
    "deflate raw": lambda raw: answer(raw_deflate(raw), "Content-Encoding: deflate"),
    "deflate in gzip": lambda raw: answer(gzip.compress(zlib.compress(raw)), "Content-Encoding: deflate, gzip"),
    "encoded in two lines": lambda raw: answer(
        gzip.compress(zlib.compress(raw)), "Content-Encoding: deflate", "Content-Encoding: gzip"
    ),
    "encoded in a charset": lambda raw: answer(raw, "Content-Encoding: utf-8"),
    "BOM": lambda raw: answer(b"\xef\xbb\xbf" + raw),
    "UTF-16": lambda raw: answer(raw.decode().encode("utf-16")),
    "padded": lambda raw: answer(b"\r\n " + raw + b"\n\x00\x00"),
    "no type": answer,
    "odd type": lambda raw: answer(raw, "Content-Type: text/html; charset=rot13; ;="),
    "201": lambda raw: answer(raw, status="201 Created"),
    "202": lambda raw: answer(raw, status="202 Accepted"),
    "207": lambda raw: answer(raw, status="207 Multi-Status"),
    "1xx before": lambda raw: head("100 Continue") + head("103 Early Hints", "Link: </a>; rel=preload") + answer(raw),
    "a large header": lambda raw: answer(raw, "Content-Security-Policy: " + "x" * 60_000),
    "many headers": lambda raw: answer(raw, *MANY),
    "a large reason": lambda raw: answer(raw, status="200 " + "OK" * 8000),
    "a length too short for the connection": lambda raw: head("200 OK", "Connection: close") + raw,
}
CUT: dict[str, Callable[[bytes], bytes]] = {
    "a length too long": lambda raw: head("200 OK", f"Content-Length: {len(raw) + 10}") + raw,
    "no last chunk": lambda raw: chunked(raw, end=b""),
    "half a last chunk": lambda raw: chunked(raw, end=b"0\r\n"),
    "gzip, a length too long": lambda raw: (
        head("200 OK", "Content-Encoding: gzip", "Content-Length: 9999") + gzip.compress(raw)
    ),
}
FIELDS: dict[str, dict[str, object]] = {
    "epoch": {"createdAt": 1777888800},
    "epoch as text": {"createdAt": "1777888800000"},
    "no colon": {"createdAt": "2026-05-04T12:00:00+0200"},
    "a space": {"createdAt": "2026-05-04 10:00:00"},
    "nanoseconds": {"createdAt": "2026-05-04T10:00:00.123456789Z"},
    "no date": {"createdAt": None},
    "no use as a date": {"createdAt": {"$date": 5}},
    "price as text": {"creditsUsed": "214.00"},
    "no price": {"creditsUsed": None},
    "a negative price": {"creditsUsed": -214},
    "NaN": {"creditsUsed": float("nan")},
    "infinity": {"creditsUsed": float("inf")},
    "a huge number": {"creditsUsed": 10**4000},
    "a lone surrogate": {"note": "\ud800"},
    "no status": {"status": None},
}


def client_of(api: RawAPI, session: aiohttp.ClientSession | None = None, **options: Any) -> AsyncAIStemSplitter:
    settings: dict[str, Any] = {"retry": QUICK, "poll": PollPolicy().scaled(0.001)} | options
    return AsyncAIStemSplitter(KEY, base_url=api.url, session=session, **settings)


@pytest.mark.parametrize("build", READABLE.values(), ids=READABLE.keys())
@pytest.mark.parametrize("injected", [False, True], ids=["own session", "injected session"])
async def test_an_answer_in_any_form_is_a_create_that_happened(build: Callable[[bytes], bytes], injected: bool) -> None:
    async with raw_api(says(build)) as api, aiohttp.ClientSession() as session:
        api.closes = build is READABLE["a length too short for the connection"]
        async with client_of(api, session if injected else None) as client:
            created = await client.create_split(SONG)
    assert (created.id, created.credits_used) == ("split_1", 214)
    assert len(api.creates) == 1


@pytest.mark.parametrize("build", CUT.values(), ids=CUT.keys())
@pytest.mark.parametrize("closes", [True, False], ids=["closes", "stays open"])
async def test_an_answer_without_its_end_is_read_once_its_json_is_whole(
    build: Callable[[bytes], bytes], closes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "REPLY_END", 0.05)
    async with raw_api(says(build)) as api:
        api.closes = closes
        async with client_of(api) as client:
            assert (await client.create_split(SONG)).id == "split_1"
    assert len(api.creates) == 1


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS.keys())
async def test_a_create_is_believed_whatever_else_its_answer_says(fields: dict[str, object]) -> None:
    async with raw_api(lambda _, split_id: answer(body(split_id, **fields))) as api, client_of(api) as client:
        created = await client.create_split(SONG)
    assert (created.id, created.status) == ("split_1", "queued")
    assert created.credits_used in (214, None)
    assert len(api.creates) == 1


@pytest.mark.parametrize(
    "shape", [{"data": CREATED}, CREATED, {"success": True, **CREATED}], ids=["data", "bare", "flat"]
)
async def test_a_split_without_the_envelope_is_a_split(shape: dict[str, object]) -> None:
    async with raw_api(lambda *_: answer(shape)) as api, client_of(api) as client:
        assert (await client.create_split(SONG)).id == "split_1"


UNREADABLE: dict[str, Callable[[bytes], bytes]] = {
    "broken chunks": lambda raw: chunked(raw, end=b"zz\r\n"),
    "half": lambda raw: answer(raw[:-5]),
    "half, cut": lambda raw: head("200 OK", "Content-Length: 999") + raw[:-5],
    "a shorter length": lambda raw: head("200 OK", f"Content-Length: {len(raw) - 5}") + raw,
    "a gzip bomb": lambda _: answer(gzip.compress(b" " * 50_000_000), "Content-Encoding: gzip"),
    "half a gzip": lambda raw: answer(gzip.compress(raw)[:40], "Content-Encoding: gzip"),
    "zstd": lambda raw: answer(b"\x28\xb5\x2f\xfd" + raw, "Content-Encoding: zstd"),
    "204": lambda _: head("204 No Content"),
    "empty": lambda _: answer(b""),
    "deep": lambda raw: answer(b'{"success": true, "data": ' + b"[" * 50 + raw + b"]" * 50 + b"}"),
    "an id of another type": lambda _: answer(envelope(CREATED | {"id": 5})),
    "a header beyond the limit": lambda raw: answer(raw, "X: " + "x" * 70_000),
    "more headers than the limit": lambda raw: answer(raw, *MANY, *MANY),
}


@pytest.mark.parametrize("build", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_an_answer_that_names_no_split_stays_ambiguous_and_is_replayed(build: Callable[[bytes], bytes]) -> None:
    """The control: leniency about a whole answer is no guess about half of one."""
    async with raw_api(says(build)) as api:
        api.closes = True
        async with client_of(api) as client:
            with pytest.raises(SubmissionUncertainError) as caught:
                await client.create_split(SONG, idempotency_key="key-1")
            assert caught.value.idempotency_key == "key-1"
            assert len(api.creates) >= 2
            assert {(got.key, got.body) for got in api.creates} == {("key-1", api.creates[0].body)}
            api.created = RawAPI().created
            assert (await client.resubmit(caught.value.submission)).id == "split_1"
    assert len(api.splits) == 1


REFUSALS: list[tuple[str, type[APIStatusError]]] = [
    ("UNAUTHORIZED", AuthenticationError),
    ("INSUFFICIENT_CREDITS", InsufficientCreditsError),
    ("VALIDATION_ERROR", ValidationError),
    ("RATE_LIMITED", RateLimitedError),
    ("TUESDAY", APIStatusError),
]


def refuses(code: str, status: str = "200 OK") -> Speak:
    return lambda *_: answer({"success": False, "error": {"code": code, "message": "not today"}}, status=status)


@pytest.mark.parametrize(("code", "kind"), REFUSALS)
async def test_a_refusal_in_a_200_is_a_refusal(code: str, kind: type[APIStatusError]) -> None:
    events: list[Event] = []
    async with raw_api(refuses(code)) as api, client_of(api, on_event=events.append) as client:
        with pytest.raises(kind) as caught:
            await client.create_split(SONG, idempotency_key="key-1")
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.detail, caught.value.idempotency_key) == (code, "not today", "key-1")
    limited = code == "RATE_LIMITED"
    assert len(api.creates) == (2 if limited else 1)
    assert any(isinstance(event, GateClosed) for event in events) is limited, "its 429 is about the whole key"


async def test_on_a_replay_a_refusal_in_a_200_proves_nothing() -> None:
    turns = iter([lambda *_: b"", refuses("INSUFFICIENT_CREDITS")])

    def speak(got: Got, split_id: str) -> bytes:
        return next(turns)(got, split_id)

    async with raw_api(speak) as api:
        api.closes = True
        async with client_of(api) as client:
            with pytest.raises(SubmissionUncertainError) as caught:
                await client.create_split(SONG)
    assert caught.value.code == "INSUFFICIENT_CREDITS"


async def test_a_server_error_in_a_200_may_have_happened() -> None:
    async with raw_api(refuses("SERVER_ERROR")) as api, client_of(api) as client:
        with pytest.raises(SubmissionUncertainError):
            await client.create_split(SONG)
        assert len(api.creates) == 2
        api.polled = lambda *_: answer({"success": False, "error": "SERVER_ERROR", "message": "flat"})
        with pytest.raises(ServerError, match="flat"):
            await client.get_split("split_1")


@pytest.mark.parametrize("status", ["401 No", "429 Slow", "402 Pay"])
async def test_a_refusal_whose_body_is_cut_is_a_refusal(status: str) -> None:
    cut = head(status, "Content-Length: 99", "Retry-After: 9999") + b'{"success": fal'
    async with raw_api(lambda *_: cut) as api:
        api.closes = True
        async with client_of(api) as client:
            with pytest.raises(APIStatusError) as caught:
                await client.create_split(SONG)
    assert caught.value.status_code == int(status[:3])
    assert len(api.creates) == 1


def bare(split_id: str, status: str, **fields: object) -> bytes:
    return answer({"success": True, "data": {"id": split_id, "status": status, **fields}})


async def test_a_batch_finishes_on_answers_that_say_next_to_nothing(tmp_path: Path) -> None:
    songs = [f"https://example.com/{n}.wav" for n in range(3)]
    async with raw_api(lambda _, split_id: answer(envelope({"id": split_id}))) as api:
        api.polled = lambda _, split_id: bare(
            split_id, "succeeded", stems={"vocals": "https://cdn.example/v", "bass": None}
        )
        for run in range(2):
            async with (
                client_of(api) as client,
                client.split_many(songs, journal=tmp_path / "songs.journal") as outcomes,
            ):
                found = [outcome async for outcome in outcomes]
            assert {type(outcome) for outcome in found} == {Skipped if run else Done}
    assert len(api.splits) == 3


async def test_the_command_line_shows_a_split_of_which_only_the_stems_are_known(cli: CLI) -> None:
    async with raw_api(lambda _, split_id: answer(envelope({"id": split_id}))) as api:
        api.polled = lambda _, split_id: bare(split_id, "succeeded", stems={"vocals": "https://cdn.example/v"})
        mine = cli.with_(AISTEMSPLITTER_BASE_URL=api.url, AISTEMSPLITTER_API_KEY=KEY)
        for arguments in (["get", "split_1"], ["wait", "split_1"]):
            shown, parsed = await mine.run(*arguments), await mine.run(*arguments, "--json")
            assert (shown.code, parsed.code) == (0, 0)
            assert (parsed.json[0]["id"], parsed.json[0]["credits_used"]) == ("split_1", None)
            assert "None" not in shown.out
        api.polled = lambda _, split_id: bare(split_id, "failed", error="NO_SOUND")
        assert "NO_SOUND" in (await mine.run("get", "split_1")).out
