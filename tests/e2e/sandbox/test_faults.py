"""Every kind of fault over a socket: what a bare client meets, and that the fault was consumed."""

from __future__ import annotations

import asyncio
import contextlib
import http.client as http_client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aistemsplitter import AIStemSplitter, AIStemSplitterError

from aistemsplitter_async.sandbox import Manual, Sandbox, faults
from aistemsplitter_async.sandbox.separation.silence import build_silence
from tests.e2e.harness import BareAPI, Connect, MakeWav

SONG = "https://example.com/a.mp3?seconds=10"
SILENCE = build_silence("mp3")


async def raw_get(url: str, **headers: str) -> tuple[bytes, bool]:
    """Everything a server sends on one connection, and whether it ended with a reset."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    lines = [f"GET {parts.path}?{parts.query} HTTP/1.1", "Host: x", *(f"{n}: {v}" for n, v in headers.items())]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    received, reset = b"", False
    try:
        while piece := await reader.read(65_536):
            received += piece
    except ConnectionResetError:
        reset = True
    writer.close()
    return received, reset


def bearer(sandbox: Sandbox) -> str:
    return f"Bearer {sandbox.api_key}"


@pytest.mark.parametrize("retry_after", [None, 2, "date", "past", "absurd"])
async def test_a_status_with_or_without_retry_after(api: BareAPI, retry_after: Any) -> None:
    rule = api.sandbox.faults.add("credits", faults.Status(503, retry_after=retry_after), times=2)
    for _ in range(2):
        answer = await api.call("GET", "/credits")
        assert (answer.status, answer.json["error"]["code"]) == (503, "SERVER_ERROR")
        assert ("Retry-After" in answer.headers) == (retry_after is not None)
    assert (await api.call("GET", "/credits")).status == 200
    assert rule.consumed == 2
    assert [record.fault for record in api.sandbox.ledger.requests] == ["status", "status", None]


@pytest.mark.parametrize("effect", [False, True])
async def test_a_status_comes_before_or_after_the_effect(api: BareAPI, effect: bool) -> None:
    api.sandbox.faults.add("create", faults.Status(500, effect=effect))
    assert (await api.create(SONG, key="k")).status == 500
    assert len(api.sandbox.ledger.charges) == int(effect)
    assert (await api.create(SONG, key="k")).status == 200
    (charge,) = api.sandbox.ledger.charges
    assert charge.requests == 1 + effect
    assert api.sandbox.credits == 36_000 - 10


@pytest.mark.parametrize(
    "body", ["html", "garbage", "deep", "empty", "truncated", "nan", "big_integer", "huge", "list", "surrogate"]
)
async def test_a_body_is_replaced(api: BareAPI, body: Any) -> None:
    rule = api.sandbox.faults.add("credits", faults.Body(body))
    async with api.http.get(
        f"{api.sandbox.base_url}/credits", headers={"Authorization": bearer(api.sandbox)}
    ) as response:
        raw = await response.read()
        assert response.status == 200
        assert (response.content_type == "text/html") == (body == "html")
    assert rule.consumed == 1
    good = (await api.call("GET", "/credits")).raw
    assert raw != good
    assert body != "huge" or len(raw) > 8_000_000


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (faults.Header("X-A", "b"), lambda answer: answer.headers["X-A"] == "b"),
        (faults.ContentType("text/plain"), lambda answer: answer.headers["Content-Type"] == "text/plain"),
        (faults.MissingField("data.status"), lambda answer: "status" not in json.loads(answer.raw)["data"]),
        (faults.ChangedField("data.status", "paused"), lambda answer: answer.json["data"]["status"] == "paused"),
        (faults.ExtraFields(), lambda answer: "xExtra" in answer.json["data"]["stems"]),
        (faults.HostileStems(), lambda answer: "../../escaped" in answer.json["data"]["stems"]),
        (
            faults.HostileStems(urls=faults.HOSTILE_URLS),
            lambda answer: answer.json["data"]["stems"]["vocals"] == "file:///etc/passwd",
        ),
    ],
)
async def test_a_reply_is_subtly_wrong(api: BareAPI, fault: faults.Fault, check: Any) -> None:
    split = await api.finish(SONG)
    rule = api.sandbox.faults.add("get", fault)
    answer = await api.call("GET", f"/audio/splits/{split['id']}")
    assert answer.status == 200
    assert check(answer)
    assert rule.consumed == 1


async def test_a_fault_that_cannot_apply_waits_for_a_request_where_it_can(connect: Connect) -> None:
    async with connect(progression=Manual()) as api:
        split_id = (await api.create(SONG)).json["data"]["id"]
        rule = api.sandbox.faults.add("get", faults.HostileStems())
        await api.get(split_id)
        assert rule.consumed == 0
        for _ in range(2):
            await api.sandbox.step(split_id)
        assert "../../escaped" in (await api.get(split_id))["stems"]
        assert rule.consumed == 1


async def test_latency_is_of_the_sandboxs_clock(api: BareAPI) -> None:
    rule = api.sandbox.faults.add("credits", faults.Latency(3600.0))
    slow = asyncio.create_task(api.call("GET", "/credits"))
    while not rule.consumed:  # noqa: ASYNC110  the request is on its way through the loop
        await asyncio.sleep(0)
    assert not slow.done()
    api.sandbox.advance(3599)
    await asyncio.sleep(0.01)
    assert not slow.done()
    api.sandbox.advance(1)
    assert (await slow).status == 200


async def test_a_body_drips(api: BareAPI) -> None:
    rule = api.sandbox.faults.add("credits", faults.Drip(piece_bytes=7, every=60.0))
    url, headers = f"{api.sandbox.base_url}/credits", {"Authorization": bearer(api.sandbox)}
    pieces = []
    async with api.http.get(url, headers=headers) as response:
        async for piece in response.content.iter_any():
            pieces.append(piece)
            api.sandbox.advance(60.0)
    assert {len(piece) for piece in pieces[:-1]} == {7}
    assert json.loads(b"".join(pieces))["data"]["unit"] == "seconds"
    assert rule.consumed == 1


async def test_a_body_stalls_until_the_client_goes(api: BareAPI) -> None:
    rule = api.sandbox.faults.add("credits", faults.Stall(after_bytes=5))
    with pytest.raises(TimeoutError):
        await api.call("GET", "/credits", timeout=aiohttp.ClientTimeout(sock_read=0.05))
    assert rule.consumed == 1
    origin = api.sandbox._running._api
    async with asyncio.timeout(30):
        while origin._busy:  # noqa: ASYNC110  the server learns of it from the kernel
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("effect", [False, True])
async def test_a_connection_is_cut_before_or_after_the_effect(api: BareAPI, how: Any, effect: bool) -> None:
    rule = api.sandbox.faults.add("create", faults.Reset(effect=effect, how=how))
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await api.create(SONG, key="k")
    assert rule.consumed == 1
    assert len(api.sandbox.ledger.charges) == int(effect)
    record = api.sandbox.ledger.requests[-1]
    assert (record.status, record.fault, record.split_id is not None) == (0, "reset", effect)
    assert (await api.create(SONG, key="k")).status == 200
    assert api.sandbox.credits == 36_000 - 10


async def test_a_reset_is_an_rst_and_a_close_is_none(api: BareAPI) -> None:
    url = f"{api.sandbox.base_url}/credits"
    for how in ("reset", "close"):
        api.sandbox.faults.add("credits", faults.Reset(how=how))
        received, reset = await raw_get(url, Authorization=bearer(api.sandbox))
        assert (received, reset) == (b"", how == "reset")


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("after_bytes", [0, 1, 700, len(SILENCE) - 1])
async def test_a_download_is_cut_after_so_many_bytes(api: BareAPI, framing: Any, how: Any, after_bytes: int) -> None:
    split = await api.finish(SONG)
    rule = api.sandbox.faults.add("download", faults.Cut(after_bytes, how, framing), split_id=split["id"])
    received, reset = await raw_get(split["stems"]["vocals"])
    head, _, body = received.partition(b"\r\n\r\n")
    assert reset == (how == "reset")
    assert (b"Content-Length: %d" % len(SILENCE) in head) == (framing == "length")
    assert (b"chunked" in head) == (framing == "chunked")
    if framing == "chunked":
        assert not body.endswith(b"0\r\n\r\n")
        body = body.split(b"\r\n", 1)[1][:after_bytes] if body else b""
    assert body == SILENCE[:after_bytes]
    assert rule.consumed == 1


async def test_aiohttp_does_not_notice_a_close_delimited_truncation_which_is_why_it_is_a_fault(api: BareAPI) -> None:
    split = await api.finish(SONG)
    api.sandbox.faults.add("download", faults.Cut(100, "close", "close"))
    answer = await api.send("GET", split["stems"]["vocals"])
    assert (answer.status, answer.raw) == (200, SILENCE[:100])
    api.sandbox.faults.add("download", faults.Cut(100, "close", "length"))
    with pytest.raises(aiohttp.ClientPayloadError):
        await api.send("GET", split["stems"]["vocals"])


async def test_a_part_comes_under_a_wrong_content_range(api: BareAPI) -> None:
    split = await api.finish(SONG)
    rule = api.sandbox.faults.add("download", faults.WrongContentRange())
    assert (await api.send("GET", split["stems"]["vocals"])).status == 200
    assert rule.consumed == 0
    part = await api.send("GET", split["stems"]["vocals"], headers={"Range": "bytes=10-19"})
    assert part.headers["Content-Range"] == f"bytes 11-19/{len(SILENCE)}"
    assert rule.consumed == 1


async def test_a_changed_etag_gives_the_whole_file_to_a_resuming_client(api: BareAPI) -> None:
    split = await api.finish(SONG)
    url = split["stems"]["vocals"]
    etag = (await api.send("HEAD", url)).headers["ETag"]
    rule = api.sandbox.faults.add("download", faults.ChangedETag())
    answer = await api.send("GET", url, headers={"Range": "bytes=10-", "If-Range": etag})
    assert (answer.status, answer.headers["ETag"]) == (200, '"changed"')
    assert rule.consumed == 1


async def test_addresses_and_reservations_expire_early(api: BareAPI, make_wav: MakeWav) -> None:
    split = await api.finish(SONG)
    rules = [
        api.sandbox.faults.add("download", faults.ExpiredURL()),
        api.sandbox.faults.add("upload", faults.ExpiredReservation()),
    ]
    answer = await api.send("GET", split["stems"]["vocals"])
    assert (answer.status, answer.json["error"]) == (403, "URL_EXPIRED")
    data = make_wav()
    reserved = await api.reserve(data)
    answer = await api.put(reserved, data)
    assert (answer.status, answer.json["error"]) == (410, "RESERVATION_EXPIRED")
    assert [rule.consumed for rule in rules] == [1, 1]
    assert (await api.put(reserved, data)).status == 200


@pytest.mark.parametrize("how", ["stall", "reset"])
async def test_the_worker_stops_reading(api: BareAPI, how: Any) -> None:
    data = bytes(8_000_000)
    reserved = await api.reserve(data)
    rule = api.sandbox.faults.add("upload", faults.StopReading(after_bytes=100_000, how=how))
    with pytest.raises((TimeoutError, aiohttp.ClientError)):
        async with asyncio.timeout(0.3 if how == "stall" else 10):
            await api.put(reserved, data)
    assert rule.consumed == 1
    assert not api.sandbox.ledger.uploads
    assert (await api.put(reserved, data)).status == 200


async def test_a_split_fails_with_the_given_error_and_is_refunded(api: BareAPI) -> None:
    rule = api.sandbox.faults.add("create", faults.FailedSplit("BAD_AUDIO", "It is noise."))
    split = await api.finish(SONG)
    assert split["status"] == "failed"
    assert split["error"] == {"code": "BAD_AUDIO", "message": "It is noise."}
    assert rule.consumed == 1
    assert api.sandbox.credits == 36_000
    assert (await api.finish(SONG))["status"] == "succeeded"


async def test_a_split_never_finishes(api: BareAPI) -> None:
    rule = api.sandbox.faults.add("create", faults.NeverFinishing())
    split_id = (await api.create(SONG)).json["data"]["id"]
    for _ in range(3):
        api.sandbox.advance(3600)
        assert (await api.get(split_id))["status"] == "processing"
    assert rule.consumed == 1


async def test_a_refused_create_does_not_consume_a_failed_split(api: BareAPI) -> None:
    rule = api.sandbox.faults.add("create", faults.FailedSplit())
    assert (await api.create("ftp://nowhere")).status == 422
    assert rule.consumed == 0


async def test_several_faults_strike_one_request_together(api: BareAPI) -> None:
    api.sandbox.faults.add("credits", faults.Latency(0.001), faults.Status(502), faults.Cut(10, "close"))
    received, _ = await raw_get(f"{api.sandbox.base_url}/credits", Authorization=bearer(api.sandbox))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 Bad Gateway")
    assert len(body) == 10
    assert api.sandbox.ledger.requests[-1].fault == "latency+status+cut"


async def test_a_fault_takes_a_slot_of_the_window_like_any_request(connect: Connect) -> None:
    async with connect(requests_per_minute=2) as api:
        api.sandbox.faults.add("credits", faults.Status(500), times=2)
        assert [(await api.call("GET", "/credits")).status for _ in range(3)] == [500, 500, 429]


async def test_closing_ends_stalls_and_latencies(connect: Connect) -> None:
    async with connect() as api:
        api.sandbox.faults.add("credits", faults.Stall())
        api.sandbox.faults.add("credits", faults.Latency(1e6))
        stuck = [asyncio.create_task(api.call("GET", "/credits")) for _ in range(2)]
        async with asyncio.timeout(30):
            while len(api.sandbox.faults.unconsumed):  # noqa: ASYNC110  requests are on their way through the loop
                await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await api.sandbox.aclose()
            results = await asyncio.gather(*stuck, return_exceptions=True)
        assert all(isinstance(result, (aiohttp.ClientError, OSError)) for result in results), results


async def test_a_redirect_is_a_status_with_a_location(api: BareAPI) -> None:
    location = faults.Header("Location", "http://127.0.0.1:9/elsewhere")
    api.sandbox.faults.add("credits", faults.Status(307), location)
    answer = await api.call("GET", "/credits")
    assert (answer.status, answer.headers["Location"]) == (307, location.value)


async def test_rules_strike_by_call_number_by_chance_and_by_split(connect: Connect) -> None:
    async with connect(seed=7) as api:
        by_number = api.sandbox.faults.add_text("credits:status:calls=2+4")
        statuses = [(await api.call("GET", "/credits")).status for _ in range(5)]
        assert (statuses, by_number.consumed) == ([200, 500, 200, 500, 200], 2)
        ids = [(await api.create(SONG)).json["data"]["id"] for _ in range(2)]
        of_one = api.sandbox.faults.add("get", faults.Status(500), split_id=ids[1], times="always")
        statuses = [(await api.call("GET", f"/audio/splits/{one}")).status for one in (*ids, *ids)]
        assert (statuses, of_one.consumed) == ([200, 500, 200, 500], 2)

    async def by_chance() -> list[int]:
        async with connect(seed=7) as api:
            rule = api.sandbox.faults.add_text("credits:status:probability=0.5")
            statuses = [(await api.call("GET", "/credits")).status for _ in range(20)]
            assert rule.consumed == statuses.count(500)
            return statuses

    first = await by_chance()
    assert set(first) == {200, 500}
    assert first == await by_chance()


OFFICIAL: list[tuple[faults.Fault, Any]] = [
    (faults.Status(503, retry_after=2), AIStemSplitterError),
    (faults.Body("html"), json.JSONDecodeError),
    (faults.Body("html", status=502), json.JSONDecodeError),
    (faults.Body("garbage"), UnicodeDecodeError),
    (faults.Body("deep"), RecursionError),
    (faults.Body("empty"), AIStemSplitterError),
    (faults.Body("truncated"), json.JSONDecodeError),
    (faults.Body("big_integer"), ValueError),
    (faults.Body("list"), AttributeError),
    (faults.Body("nan"), {"id", "balance", "status"}),
    (faults.Body("surrogate"), {"id", "balance", "status"}),
    (faults.Body("huge"), {"id"}),
    (faults.ContentType(), {"balance", "unit"}),
    (faults.ExtraFields(), {"balance", "unit", "xExtra"}),
    (faults.ChangedField("data.unit", "minutes"), {"balance", "unit"}),
    (faults.MissingField("data"), AIStemSplitterError),
    (faults.Reset(), ConnectionResetError),
    (faults.Reset(how="close"), http_client.RemoteDisconnected),
    (faults.Cut(10), http_client.IncompleteRead),
    (faults.Cut(10, framing="chunked"), http_client.IncompleteRead),
    (faults.Cut(10, framing="close"), json.JSONDecodeError),
    (faults.Drip(20, 0.0005), {"balance", "unit"}),
    (faults.Latency(0.001), {"balance", "unit"}),
]


@pytest.mark.parametrize(("fault", "outcome"), OFFICIAL, ids=[repr(fault) for fault, _ in OFFICIAL])
async def test_what_the_official_client_makes_of_it(api: BareAPI, fault: faults.Fault, outcome: Any) -> None:
    """Not a judgement: it shows that the fault reaches a client that was written elsewhere, and what it would do."""
    rule = api.sandbox.faults.add("credits", fault)
    client = AIStemSplitter(api.sandbox.api_key, base_url=api.sandbox.base_url)
    if isinstance(outcome, set):
        assert set(await asyncio.to_thread(client.get_credits)) == outcome
    else:
        with pytest.raises(outcome):
            await asyncio.to_thread(client.get_credits)
    assert rule.consumed == 1
    assert (await asyncio.to_thread(client.get_credits))["unit"] == "seconds"


async def whole_flow(api: BareAPI, data: bytes) -> None:
    """Every operation once, as far as faults allow; a part of a stem rather than all of it."""
    patience = aiohttp.ClientTimeout(sock_read=0.2)
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        await api.call("GET", "/credits", timeout=patience)
    reserved = await api.reserve(data)
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        headers = dict(reserved["uploadHeaders"]) | {"Content-Type": "audio/wav"}
        await api.send("POST", reserved["uploadUrl"], data=data, headers=headers, timeout=patience)
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        split_id = (await api.create(SONG)).json["data"]["id"]
        stems = (await api.call("GET", f"/audio/splits/{split_id}")).json["data"]["stems"]
        await api.send("GET", stems["vocals"], headers={"Range": "bytes=10-19"}, timeout=patience)


PLACES = {
    "stop_reading": "upload",
    "expired_reservation": "upload",
    "wrong_content_range": "download",
    "changed_etag": "download",
    "expired_url": "download",
    "hostile_stems": "get",
    "failed_split": "create",
    "never_finishing": "create",
    "changed_field": "get",
}
QUICK = {"latency": ":seconds=0.001", "drip": ":every=0.001"}
OF_REQUESTS = {kind: fault for kind, fault in faults.KINDS.items() if fault not in faults.OF_WEBHOOKS}


@pytest.mark.parametrize("kind", OF_REQUESTS)
async def test_every_kind_of_fault_is_consumed_and_entered_in_the_ledger(
    api: BareAPI, make_wav: MakeWav, kind: str
) -> None:
    """Complete by construction: a kind that is added and never takes effect fails here."""
    rule = api.sandbox.faults.add_text(f"{PLACES.get(kind, 'credits')}:{kind}{QUICK.get(kind, '')}")
    assert api.sandbox.faults.unconsumed == (rule,)
    with contextlib.suppress(KeyError):  # a split that failed, or never finishes, has no stems
        await whole_flow(api, make_wav(8.0))
    assert (rule.consumed, rule.exhausted) == (1, True)
    assert [(one.operation, one.fault) for one in api.sandbox.ledger.requests if one.fault] == [(rule.operation, kind)]


def test_every_kind_of_fault_is_tried_in_this_file_or_in_the_one_about_webhooks() -> None:
    files = (Path(__file__), Path(__file__).with_name("test_deliveries.py"))
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    assert [fault.__name__ for fault in faults.KINDS.values() if f"faults.{fault.__name__}(" not in source] == []
