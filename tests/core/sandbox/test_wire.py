"""Names and rules of the wire, written out by hand from the API's description."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async.sandbox.http import decode, encode
from aistemsplitter_async.sandbox.http.rate_headers import format_delay
from aistemsplitter_async.sandbox.http.replies import build_refusal_reply
from aistemsplitter_async.sandbox.service.errors import InvalidRequestError
from aistemsplitter_async.sandbox.service.requests import DirectURL, SplitRequest, UploadedFile
from aistemsplitter_async.sandbox.service.state import Split, SplitError, Status, Upload

URL = {"type": "direct_url", "url": "https://example.com/song.mp3"}
FILE = {"type": "uploaded_file", "uploadId": "upl_1", "fileUrl": "https://f", "storageKey": "k"}
RESERVATION = {"filename": "song.mp3", "contentType": "audio/mpeg", "contentLength": 10}


def without(body: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != field}


def refused(error: InvalidRequestError) -> str:
    """Return the message of a refusal, which must be answered with 422."""
    reply = build_refusal_reply(error)
    assert isinstance(reply.body, bytes)
    refusal = json.loads(reply.body)["error"]
    assert (reply.status, refusal["code"]) == (422, "VALIDATION_ERROR")
    return str(refusal["message"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "input"),
        ({"input": "https://example.com/song.mp3"}, "input"),
        ({"input": {}}, "input.type"),
        ({"input": URL | {"type": "ftp"}}, "input.type"),
        ({"input": URL | {"url": None}}, "input.url"),
        ({"input": URL | {"url": 7}}, "input.url"),
        ({"input": URL | {"url": "ftp://example.com/a"}}, "input.url"),
        ({"input": URL | {"url": "https://[::1"}}, "input.url"),
        ({"input": without(FILE, "uploadId")}, "input.uploadId"),
        ({"input": without(FILE, "fileUrl")}, "input.fileUrl"),
        ({"input": without(FILE, "storageKey")}, "input.storageKey"),
        ({"input": URL, "stemModel": "5s"}, "stemModel"),
        ({"input": URL, "stemModel": ["4s"]}, "stemModel"),
        ({"input": URL, "outputFormat": "flac"}, "outputFormat"),
        ({"input": URL, "outputFormat": 3}, "outputFormat"),
        ({"input": URL, "webhookUrl": "nowhere"}, "webhookUrl"),
        ({"input": URL, "webhookUrl": {}}, "webhookUrl"),
    ],
)
def test_a_wrong_split_is_refused_with_422_and_the_fields_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode.parse_split(body)
    assert refused(caught.value).startswith(f"{field} ")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"filename": None}, "filename"),
        ({"filename": ""}, "filename"),
        ({"filename": 5}, "filename"),
        ({"filename": "x" * 2000}, "filename"),
        ({"contentType": "mp3"}, "contentType"),
        ({"contentType": "audio/mpeg\r\nX: y"}, "contentType"),
        ({"contentLength": None}, "contentLength"),
        ({"contentLength": 0}, "contentLength"),
        ({"contentLength": -1}, "contentLength"),
        ({"contentLength": True}, "contentLength"),
        ({"contentLength": 1.0}, "contentLength"),
        ({"contentLength": "10"}, "contentLength"),
        ({"contentLength": 101}, "contentLength"),
    ],
)
def test_a_wrong_reservation_is_refused_with_422_and_the_fields_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode.parse_reservation(RESERVATION | change, max_upload_bytes=100)
    assert refused(caught.value).startswith(f"{field} ")


def test_right_bodies_are_accepted_with_their_defaults() -> None:
    assert decode.parse_reservation(RESERVATION, max_upload_bytes=10).content_length == 10
    split = decode.parse_split({"input": URL, "more": 1, "webhookUrl": None})
    assert split == SplitRequest(DirectURL(URL["url"]), "4s", "mp3", None)
    split = decode.parse_split({"input": FILE, "stemModel": "6s", "outputFormat": "wav"})
    assert split == SplitRequest(UploadedFile("upl_1", "https://f", "k"), "6s", "wav", None)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"a": NaN}',
        b"\xff{}",
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused_with_422(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode.parse_json(raw)
    assert refused(caught.value)


def test_idempotency_keys_are_optional_and_bounded() -> None:
    assert decode.parse_idempotency_key(None) is None
    assert decode.parse_idempotency_key("k" * 255) == "k" * 255
    for wrong in ("", "k" * 256, "a\tb"):
        with pytest.raises(InvalidRequestError):
            decode.parse_idempotency_key(wrong)


def test_envelopes_are_those_of_the_api_and_of_the_upload_worker() -> None:
    assert json.loads(encode.build_success({"balance": 1})) == {"success": True, "data": {"balance": 1}}
    assert json.loads(encode.build_failure("C", "m")) == {
        "success": False,
        "error": {"code": "C", "message": "m"},
    }
    assert json.loads(encode.build_flat_failure("C", "m")) == {"success": False, "error": "C", "message": "m"}


def test_replies_have_the_apis_fields() -> None:
    split = Split(
        id="split_1",
        account="key-1",
        filename="song.mp3",
        stem_model="4s",
        output_format="mp3",
        seconds=213.4004,
        credits=214,
        source="",
        created_at=1_700_000_000.0,
        updated_at=1_700_000_001.5,
    )
    assert encode.build_created(split) == {
        "id": "split_1",
        "status": "queued",
        "creditsUsed": 214,
        "createdAt": "2023-11-14T22:13:20.000Z",
    }
    queued = encode.build_split(split, {})
    assert queued == {
        "id": "split_1",
        "status": "queued",
        "stemModel": "4s",
        "filename": "song.mp3",
        "durationSeconds": 213.4,
        "creditsUsed": 214,
        "createdAt": "2023-11-14T22:13:20.000Z",
        "updatedAt": "2023-11-14T22:13:21.500Z",
        "error": None,
    }
    split.status = Status.FAILED
    split.error = SplitError("PROCESSING_FAILED", "no")
    failed = encode.build_split(split, {})
    assert failed["error"] == {"code": "PROCESSING_FAILED", "message": "no"}
    assert encode.build_split(split, {"vocals": "u"})["stems"] == {"vocals": "u"}


def test_a_reservation_carries_its_token_in_the_upload_headers() -> None:
    upload = Upload("upl_1", "key-1", "a.wav", "audio/wav", 1, "secret", "uploads/a", 0.0, 900.0)
    assert encode.build_reservation(upload, "http://w/upload/upl_1") == {
        "uploadId": "upl_1",
        "uploadUrl": "http://w/upload/upl_1",
        "uploadHeaders": {"X-Upload-Token": "secret"},
        "expiresAt": "1970-01-01T00:15:00.000Z",
    }


@given(st.floats(0, 1e5))
def test_a_delay_is_never_rounded_down(seconds: float) -> None:
    whole = format_delay(seconds, minute=60.0)
    assert whole.isdigit()
    assert int(whole) >= max(seconds, 1)
    fine = float(format_delay(seconds, minute=6.0))
    assert seconds < fine <= seconds + 0.0021
