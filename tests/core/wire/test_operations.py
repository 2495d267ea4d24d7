"""The exact bytes that leave, and the answers that are believed."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._send.reactions import is_ambiguous
from aistemsplitter_async._wire import operations
from aistemsplitter_async._wire.messages import Origin, Reply, Stage
from aistemsplitter_async.errors import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    InsufficientCreditsError,
    ProtocolError,
    RateLimitedError,
    ServerError,
    SplitFailedError,
    ValidationError,
)
from aistemsplitter_async.models import DirectURL, Reservation, SplitErrorDetail, Submission, UploadedFile

BASE = "https://api.example/v1"
SAMPLES = Path(__file__).parents[2] / "samples"
UPLOADED = UploadedFile("upload_9f2c", "https://files.example/u/song.wav?t=1", "u/song.wav")
BROKEN_LINES = ["x\r\nHost: evil", "x\nX: y", "x\ry", "x\x00y", "\x7f", "\x1b[0m"]


def reply(data: Any, status: int = 200) -> Reply:
    return Reply(status=status, body=json.dumps({"success": True, "data": data}).encode())


def golden(name: str) -> Reply:
    return Reply(status=200, body=(SAMPLES / f"{name}.json").read_bytes())


def reservation(headers: dict[str, str]) -> Reservation:
    return Reservation("u", "https://worker.example/put?sig=1", headers, datetime(2026, 5, 4, tzinfo=UTC))


async def no_body() -> AsyncIterator[bytes]:
    yield b""


def test_reading_credits_is_a_bare_get() -> None:
    operation = operations.get_credits(BASE)
    request = operation.request
    assert (request.origin, request.method, request.url) == (Origin.API, "GET", "https://api.example/v1/credits")
    assert (request.headers, request.body) == ({"Accept": "application/json"}, None)
    assert operation.stage is Stage.CREDITS
    assert operation.parse(golden("credits")).balance == 6200


def test_reserving_sends_name_type_and_length() -> None:
    operation = operations.create_upload(BASE, filename='Bjö"rk.wav', content_type="audio/wav", content_length=17)
    request = operation.request
    assert (request.origin, request.method, request.url) == (Origin.API, "POST", f"{BASE}/audio/uploads")
    assert request.headers == {"Accept": "application/json", "Content-Type": "application/json"}
    assert request.body == b'{"filename":"Bj\\u00f6\\"rk.wav","contentType":"audio/wav","contentLength":17}'
    assert operation.parse(golden("upload_reserved")).upload_id == "upload_9f2c"


def test_uploading_posts_to_the_very_url_with_every_header_of_the_reservation() -> None:
    operation = operations.upload_audio(
        reservation({"X-Token": "t", "x-other": "o"}), no_body, content_type="audio/wav", content_length=17
    )
    request = operation.request
    assert (request.origin, request.method, request.url) == (Origin.WORKER, "POST", "https://worker.example/put?sig=1")
    assert request.headers == {
        "X-Token": "t",
        "x-other": "o",
        "Content-Type": "audio/wav",
        "Content-Length": "17",
    }
    assert request.body is no_body
    assert operation.parse(golden("upload_stored")).key == "u/9f2c/song.wav"


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title, str.swapcase])
@pytest.mark.parametrize(
    "header", ["Host", "Content-Length", "Transfer-Encoding", "Authorization", "Cookie", "Content-Type"]
)
def test_a_reservation_cannot_set_the_headers_that_are_the_transports(header: str, spell: Callable[[str], str]) -> None:
    operation = operations.upload_audio(
        reservation({spell(header): "evil", "X-Kept": "1"}), no_body, content_type="audio/wav", content_length=17
    )
    assert operation.request.headers == {"X-Kept": "1", "Content-Type": "audio/wav", "Content-Length": "17"}


@pytest.mark.parametrize("name", ["", " Host", "Host ", "Authorization\t", "X:Y", "X Y", "é", "X\u200b", *BROKEN_LINES])
def test_a_reservation_with_an_invalid_header_name_is_refused(name: str) -> None:
    data = json.loads((SAMPLES / "upload_reserved.json").read_bytes())["data"]
    parse = operations.create_upload(BASE, filename="a", content_type="b", content_length=1).parse
    with pytest.raises(ProtocolError, match="uploadHeaders"):
        parse(reply({**data, "uploadHeaders": {name: "value"}}))


@pytest.mark.parametrize("value", BROKEN_LINES)
def test_a_reservation_whose_header_value_ends_the_line_is_refused(value: str) -> None:
    data = json.loads((SAMPLES / "upload_reserved.json").read_bytes())["data"]
    parse = operations.create_upload(BASE, filename="a", content_type="b", content_length=1).parse
    with pytest.raises(ProtocolError, match=re.escape("$.data.uploadHeaders")) as caught:
        parse(reply({**data, "uploadHeaders": {"X-Secret": value}}))
    assert value not in str(caught.value)


def test_a_submission_is_the_bytes_of_what_was_chosen_and_nothing_else() -> None:
    plain = operations.build_submission(DirectURL("https://a.example/s.mp3?x=1"), idempotency_key="k")
    assert plain == Submission("k", b'{"input":{"type":"direct_url","url":"https://a.example/s.mp3?x=1"}}')
    full = operations.build_submission(
        UPLOADED, idempotency_key="k", stem_model="6s", output_format="wav", webhook_url="https://me.example/hook"
    )
    assert full.body == (
        b'{"input":{"type":"uploaded_file","uploadId":"upload_9f2c","fileUrl":"https://files.example/u/song.wav?t=1",'
        b'"storageKey":"u/song.wav"},"stemModel":"6s","outputFormat":"wav","webhookUrl":"https://me.example/hook"}'
    )


def test_a_create_sends_the_submission_unchanged_however_often() -> None:
    submission = Submission("key-1", b'{"spacing" :  "kept"}')
    first, second = operations.create_split(BASE, submission), operations.create_split(BASE, submission)
    assert first.request.body == second.request.body == submission.body
    assert first.request.headers == {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Idempotency-Key": "key-1",
    }
    assert (first.request.method, first.request.url) == ("POST", f"{BASE}/audio/splits")
    assert first.parse(golden("split_created")).id == "split_123"


@given(st.text())
def test_any_text_makes_the_same_submission_twice(text: str) -> None:
    pair = [operations.build_submission(DirectURL(text), idempotency_key="k", stem_model=text) for _ in range(2)]
    assert pair[0].body == pair[1].body
    assert json.loads(pair[0].body) == {"input": {"type": "direct_url", "url": text}, "stemModel": text}


@pytest.mark.parametrize(
    ("split_id", "path"),
    [
        ("split_123", "/v1/audio/splits/split_123"),
        ("a/b", "/v1/audio/splits/a%2Fb"),
        ("../credits", "/v1/audio/splits/..%2Fcredits"),
        ("a?b=c#d", "/v1/audio/splits/a%3Fb%3Dc%23d"),
        ("a%2Fb", "/v1/audio/splits/a%252Fb"),
        ("a b", "/v1/audio/splits/a%20b"),
        ("é\\", "/v1/audio/splits/%C3%A9%5C"),
        ("...", "/v1/audio/splits/..."),
    ],
)
def test_a_split_id_is_one_encoded_path_segment(split_id: str, path: str) -> None:
    assert operations.get_split(BASE, split_id).request.url == "https://api.example" + path


@pytest.mark.parametrize("split_id", ["", ".", "..", "a\r\nHost: b", "a\x00", "\ud800", "\u202e123", "a\u2028b"])
def test_what_cannot_be_an_id_is_never_asked_for(split_id: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        operations.get_split(BASE, split_id)
    assert str(caught.value).isprintable()


@given(st.text(min_size=1))
def test_any_id_that_is_asked_for_stays_one_segment_below_splits(split_id: str) -> None:
    try:
        url = operations.get_split(BASE, split_id).request.url
    except ConfigurationError:
        return
    parts = urlsplit(url)
    assert url.isascii()
    assert (parts.netloc, parts.query, parts.fragment) == ("api.example", "", "")
    assert parts.path.rpartition("/")[0] == "/v1/audio/splits"
    assert unquote(parts.path.rpartition("/")[2]) == split_id


def test_a_reply_about_another_split_is_refused() -> None:
    operation = operations.get_split(BASE, "split_999")
    with pytest.raises(ProtocolError, match="asked for split split_999, but the reply is about 'split_123'") as caught:
        operation.parse(golden("split_succeeded"))
    assert caught.value.split_id == "split_999"


def test_a_foreign_id_cannot_flood_or_act_on_the_terminal() -> None:
    data = json.loads((SAMPLES / "split_failed.json").read_bytes())["data"]
    with pytest.raises(ProtocolError) as caught:
        operations.get_split(BASE, "split_123").parse(reply({**data, "id": "\x1b[2J" * 10_000}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_the_reason_of_a_failed_split_is_safe_to_show() -> None:
    data = json.loads((SAMPLES / "split_failed.json").read_bytes())["data"]
    data["error"] = {"code": "BAD\x1b[31m", "message": "\x1b]0;owned\x07no\u202etxt\r\n" + "x" * 9000}
    split = operations.get_split(BASE, "split_123").parse(reply(data))
    assert split.error is not None
    assert split.error.code == "BAD"
    assert split.error.message.isprintable()
    assert len(split.error.message.encode()) <= 2048
    assert operations.get_split(BASE, "split_123").parse(golden("split_failed")).error == SplitErrorDetail(
        "AUDIO_DECODE_FAILED", "The audio could not be decoded."
    )


@pytest.mark.parametrize("split_id", ["", ".", "..", "a\nb", "\x1b[2J"])
def test_a_create_answered_without_a_usable_id_is_not_believed(split_id: str) -> None:
    data = json.loads((SAMPLES / "split_created.json").read_bytes())["data"]
    with pytest.raises(ProtocolError, match=re.escape("$.data.id")):
        operations.create_split(BASE, Submission("k", b"{}")).parse(reply({**data, "id": split_id}))


@pytest.mark.parametrize(
    ("written", "price"),
    [
        *[(text, None) for text in ("1e999", "-1e999", "9" * 5000, "NaN", "-Infinity", "true", '"many"', "null", "[]")],
        ('"214"', 214),
        ('"214.00"', 214),
        ("214.5", 214.5),
        ("-214", None),
        ('"-1"', None),
    ],
)
def test_a_create_is_believed_whatever_its_price_looks_like(written: str, price: float | None) -> None:
    body = (SAMPLES / "split_created.json").read_text().replace("214", written)
    created = operations.create_split(BASE, Submission("k", b"{}")).parse(Reply(status=201, body=body.encode()))
    assert (created.id, created.status, created.credits_used) == ("split_123", "queued", price)


IN_DATA = '{"success": true, "data": %s}'


@pytest.mark.parametrize(
    "body",
    [
        IN_DATA % '{"id": "split_123"}',
        IN_DATA % '{"id": "split_123", "status": null, "creditsUsed": {}, "createdAt": "soon"}',
        IN_DATA % '{"id": "split_123", "status": "\\u001b[2J"}',
        IN_DATA % '{"id": "split_123", "filename": "\\ud800", "note": NaN}',
        IN_DATA % '{"id": "split_123", "createdAt": 1777888800, "size": %s}' % ("9" * 5000),
        '{"data": {"id": "split_123"}}',
        '{"success": "yes", "data": {"id": "split_123", "status": "queued"}}',
        '{"success": false, "data": {"id": "split_123"}}',
        '{"id": "split_123", "status": "queued"}',
        '{"success": true, "id": "split_123", "status": "queued", "error": null}',
        '\n\t {"success": true, "data": {"id": "split_123"}} \r\n\x00\x00',
        '{"success": true, "data": {"id": "split_123", "filename": "two\nlines"}}',
    ],
)
@pytest.mark.parametrize("status", [200, 201, 202, 207])
def test_what_names_a_split_is_a_create_that_happened(status: int, body: str) -> None:
    answered = Reply(status=status, body=body.encode())
    created = operations.create_split(BASE, Submission("k", b"{}")).read(answered, now=0.0)
    assert (created.id, created.status) == ("split_123", "queued")


@pytest.mark.parametrize(
    "body",
    [
        '{"id": "req_1", "error": "upstream timeout", "status": "down"}',
        '{"id": "req_1"}',
        '{"success": true, "data": {"id": 5}}',
        '{"success": true, "data": {"split": {"id": "split_1"}}}',
        '{"success": true, "data": [{"id": "split_1"}]}',
        '{"success": true, "data": {"id": "split_123"',
        '{"success": true, "data": {"id": "split_123"}} <html>',
        '[{"id": "split_123", "status": "queued"}]',
        IN_DATA % ("[" * 40 + '{"id": "split_1"}' + "]" * 40),
        "",
    ],
)
def test_an_id_that_may_be_of_something_else_is_not_believed(body: str) -> None:
    with pytest.raises(ProtocolError):
        operations.create_split(BASE, Submission("k", b"{}")).read(Reply(status=200, body=body.encode()), now=0.0)


@pytest.mark.parametrize("body", [b"", b'{"success": true, "data": {"id": "split_123"'])
def test_a_cut_answer_that_says_nothing_is_a_broken_connection(body: bytes) -> None:
    operation = operations.create_split(BASE, Submission("k", b"{}"))
    with pytest.raises(APIConnectionError) as caught:
        operation.read(Reply(status=200, body=body, cut=True), now=0.0)
    assert caught.value.may_have_arrived
    whole = (SAMPLES / "split_created.json").read_bytes()
    assert operation.read(Reply(status=200, body=whole, cut=True), now=0.0).id == "split_123"
    with pytest.raises(ValidationError):
        operation.read(Reply(status=422, body=body, cut=True), now=0.0)


REFUSALS = [
    ("UNAUTHORIZED", AuthenticationError, 401, False),
    ("INSUFFICIENT_CREDITS", InsufficientCreditsError, 402, False),
    ("VALIDATION_ERROR", ValidationError, 422, False),
    ("RATE_LIMITED", RateLimitedError, 429, False),
    ("SERVER_ERROR", ServerError, 500, True),
    ("GATEWAY_TIMEOUT", ServerError, 500, True),
    ("QUOTA_FOR_TUESDAYS", APIStatusError, 400, False),
]


@pytest.mark.parametrize(("code", "kind", "status", "ambiguous"), REFUSALS)
@pytest.mark.parametrize("form", ['{"code": "%s", "message": "why"}', '"%s", "message": "why"'], ids=["nested", "flat"])
def test_a_failure_inside_a_success_keeps_its_code_and_is_a_refusal(
    form: str, code: str, kind: type[APIStatusError], status: int, ambiguous: bool
) -> None:
    body = '{"success": false, "error": ' + form % code + "}"
    answered = Reply(status=200, headers={"Retry-After": "7", "X-Request-Id": "r"}, body=body.encode())
    for operation in (operations.create_split(BASE, Submission("k", b"{}")), operations.get_credits(BASE)):
        with pytest.raises(kind) as caught:
            operation.read(answered, now=0.0)
        error = caught.value
        assert type(error) is kind
        assert (error.code, error.detail, error.status_code) == (code, "why", status)
        assert (error.retry_after, error.request_id) == (7.0, "r")
        assert str(error) == f"could not {operation.what}: HTTP 200, {code}: why"
        assert is_ambiguous(error) is ambiguous


def test_a_failure_without_a_reason_is_a_refusal_too() -> None:
    operation = operations.create_split(BASE, Submission("k", b"{}"))
    with pytest.raises(APIStatusError, match="HTTP 200, a failure without a reason") as caught:
        operation.read(Reply(status=200, body=b'{"success": false}'), now=0.0)
    assert not is_ambiguous(caught.value)


@pytest.mark.parametrize("body", ['{"error": "upstream timeout"}', '{"success": 0, "error": {"code": "ODD"}}', "{}"])
def test_an_error_that_is_not_said_to_be_the_apis_is_no_refusal(body: str) -> None:
    operation = operations.create_split(BASE, Submission("k", b"{}"))
    with pytest.raises(ProtocolError) as caught:
        operation.read(Reply(status=200, body=body.encode()), now=0.0)
    assert is_ambiguous(caught.value)


def test_a_poll_needs_no_more_than_the_id_and_the_status() -> None:
    parse = operations.get_split(BASE, "split_123").parse
    assert parse(reply({"id": "split_123", "status": "queued", "stems": "soon", "error": {"code": None}})).stems == {}
    odd = parse(
        reply({"id": "split_123", "status": "failed", "creditsUsed": -1, "durationSeconds": -2, "error": "BAD"})
    )
    assert (odd.credits_used, odd.duration_seconds) == (None, None)
    assert odd.error == SplitErrorDetail("BAD", "")
    assert str(SplitFailedError(odd)) == "split split_123 failed: BAD"
    for wrong in ("all of them", {"vocals": 5}):
        with pytest.raises(ProtocolError, match=re.escape("$.data.stems")):
            parse(reply({"id": "split_123", "status": "succeeded", "stems": wrong}))
    for missing in ({"status": "queued"}, {"id": "split_123"}):
        with pytest.raises(ProtocolError, match="is missing"):
            parse(reply(missing))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"true",
        b"{}",
        b'{"success": true}',
        b'{"success": true, "data": null}',
        b'{"success": "true", "data": {"balance": 1}}',
        b'{"success": 1, "data": {"balance": 1}}',
        b'{"success": false, "data": {"balance": 1}}',
        b'{"data": {"balance": 1}}',
        b'{"balance": 1}',
        b'{"success": true, "data": [{"balance": 1}]}',
        b'{"success": true, "data": {"credits": {"balance": 1}}}',
        b"<html>ok</html>",
    ],
)
def test_only_the_success_envelope_is_a_success(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        operations.get_credits(BASE).parse(Reply(status=200, body=body))


def test_no_request_carries_credentials_or_shows_them() -> None:
    upload = operations.upload_audio(
        reservation({"X-Token": "HEADERSECRET"}), no_body, content_type="a/b", content_length=1
    ).request
    create = operations.create_split(BASE, Submission("k", b"BODYSECRET")).request
    shown = repr(attrs.evolve(upload, url="https://me:URLSECRET@w.example/p?sig=QUERYSECRET#FRAGMENTSECRET")) + repr(
        create
    )
    assert "SECRET" not in shown
    assert "authorization" not in {name.lower() for request in (upload, create) for name in request.headers}


def test_what_is_no_text_is_refused_before_it_is_sent() -> None:
    """Half a surrogate pair, from a name that is not UTF-8."""
    with pytest.raises(ConfigurationError, match="webhookUrl"):
        operations.build_submission(UPLOADED, idempotency_key="k", webhook_url="https://me.example/\udce9")
    with pytest.raises(ConfigurationError, match="filename"):
        operations.create_upload(BASE, filename="\udce9.wav", content_type="audio/wav", content_length=1)
