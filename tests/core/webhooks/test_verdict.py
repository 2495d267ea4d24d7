"""The answer to a webhook request, decided from its bytes alone."""

from __future__ import annotations

import gzip
import json
from email.message import Message
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, strategies as st

from aistemsplitter_async._wire.codec import parse_json
from aistemsplitter_async._wire.signature import sign
from aistemsplitter_async.errors import WebhookError
from aistemsplitter_async.webhooks.event import WebhookEvent
from aistemsplitter_async.webhooks.verdict import Sent, judge, judge_unread

SAMPLES = Path(__file__).parents[2] / "samples"
SECRET = "whsec_test"
NOW = 1_800_000_000
HEADER = "AIStemSplitter-Signature"


@attrs.frozen
class Verdict:
    """What came of a request: the status it gets, and the event or what is wrong."""

    status: int | None
    event: WebhookEvent | None = None
    error: WebhookError | None = None


def judged(body: bytes, headers: Any = None, *, now: float = NOW) -> Verdict:
    """The verdict on a body that is signed, or has other headers."""
    sent = Sent.parse({HEADER: sign(body, SECRET, NOW)} if headers is None else headers)
    try:
        return Verdict(200, judge(body, sent, secrets=[SECRET], now=now, tolerance=300.0))
    except WebhookError as error:
        return Verdict(error.status_code, None, error)


def payload(event: Any, **data: Any) -> bytes:
    return json.dumps({"event": event, "data": data}).encode()


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_the_events_of_the_api_are_accepted(status: str) -> None:
    name = {"succeeded": "webhook_completed.json", "failed": "webhook_failed.json"}[status]
    verdict = judged((SAMPLES / name).read_bytes())
    assert verdict == Verdict(200, WebhookEvent("audio.split.completed", "split_123", status))
    assert verdict.event is not None
    assert (verdict.event.is_terminal, verdict.event.signed_at) == (True, NOW)


@pytest.mark.parametrize(
    ("body", "terminal"),
    [
        (payload("audio.split.completed", id="split_1"), True),
        (payload("audio.split.completed", id="split_1", status=None), True),
        (payload("audio.split.failed", id="split_1", status="failed"), True),
        (payload("audio.split.failed", id="split_1"), True),
        (payload("audio.split.progress", id="split_1", status="processing"), False),
        (payload("audio.split.progress", id="split_1"), False),
        (payload("audio.split.completed", id="split_1", status="succeeded", more={"new": [1]}), True),
    ],
)
def test_other_events_of_a_split_are_accepted_too_and_wake_only_if_it_is_done(body: bytes, terminal: bool) -> None:
    event = judged(body).event
    assert event is not None
    assert (event.split_id, event.is_terminal) == ("split_1", terminal)


@pytest.mark.parametrize(
    "body",
    [
        payload("credits.low", balance=3),
        payload("invoice.paid", id="in_1", status="succeeded"),
        b'{"event": "ping"}',
        b'{"event": "ping", "data": null}',
    ],
)
def test_events_about_something_else_are_acknowledged_and_ignored(body: bytes) -> None:
    assert judged(body) == Verdict(200)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"audio.split.completed"',
        b"{}",
        b'{"event": 1}',
        b'{"event": ""}',
        b'{"event": "audio.split.completed"}',
        b'{"event": "audio.split.completed", "data": []}',
        payload("audio.split.completed"),
        payload("audio.split.completed", id=None),
        payload("audio.split.completed", id=7),
        payload("audio.split.completed", id=""),
        payload("audio.split.completed", id="x" * 256),
        payload("audio.split." + "x" * 256, id="split_1"),
        payload("audio.split.completed", id="split_1", status=["succeeded"]),
        b"{" * 60_000,
        b"[" * 60_000,
        b'{"event": ' + b"9" * 60_000 + b"}",
        b'{"event": NaN}',
        b'{"event": "\xff"}',
        b'{"event": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        b"\x00",
    ],
)
def test_a_signed_body_that_is_not_an_event_is_400(body: bytes) -> None:
    verdict = judged(body)
    assert (verdict.status, verdict.event) == (400, None)
    assert verdict.error is not None
    assert verdict.error.code == "EVENT_MALFORMED"


def test_nothing_is_parsed_before_the_signature_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def parse(body: bytes) -> Any:
        parsed.append(body)
        return parse_json(body)

    monkeypatch.setattr("aistemsplitter_async.webhooks.event.parse_json", parse)
    good = payload("audio.split.completed", id="split_1")
    for body, headers, now in [
        (good, {}, NOW),
        (good, {HEADER: "t=1"}, NOW),
        (good, {HEADER: sign(good, "another", NOW)}, NOW),
        (good + b" ", {HEADER: sign(good, SECRET, NOW)}, NOW),
        (good, {HEADER: sign(good, SECRET, NOW)}, NOW + 301),
        (good, {HEADER: sign(good, SECRET, NOW)}, NOW - 301),
    ]:
        assert judged(body, headers, now=now).status == 400
    assert parsed == []
    assert judged(good).status == 200
    assert parsed == [good]


def test_headers_may_be_a_mapping_or_pairs_of_text_or_bytes_in_any_case() -> None:
    body = payload("audio.split.completed", id="split_1")
    value = sign(body, SECRET, NOW)
    for headers in (
        {HEADER: value},
        {HEADER.lower(): value, "content-type": "text/plain"},
        {HEADER.upper(): value},
        [(HEADER, value)],
        [(b"host", b"\xff"), (HEADER.lower().encode(), value.encode())],
    ):
        assert judged(body, headers).status == 200
    for refused in ([(HEADER, value), (HEADER, value)], {}, [], {HEADER: ""}, [(HEADER.encode(), b"\xff\xfe")]):
        assert judged(body, refused).status == 400


def test_headers_are_accepted_as_frameworks_provide_them() -> None:
    body = payload("audio.split.completed", id="split_1")
    value = sign(body, SECRET, NOW)
    message = Message()
    message[HEADER] = value
    for headers in (
        message,
        {HEADER: [value]},
        {HEADER: value, "Content-Length": len(body), "Content-Encoding": None},
        {HEADER: value, 5: 5, None: None},
        [[HEADER, value]],
        {HEADER: value}.items(),
    ):
        assert judged(body, headers).status == 200


ODD = st.none() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=9) | st.lists(st.none())
NAMES = st.sampled_from([HEADER, "Content-Encoding", "Content-Length"]) | ODD.filter(
    lambda odd: not isinstance(odd, list)
)


@given(st.none() | st.dictionaries(NAMES, ODD) | st.lists(ODD | st.tuples(NAMES, ODD) | st.tuples(NAMES, ODD, ODD)))
@example({HEADER: 10**5000, "Content-Length": -(10**5000)})
@example(Message())
@example({HEADER: None})
def test_odd_headers_are_refused_like_any_others_and_never_an_exception(headers: Any) -> None:
    sent = Sent.parse(headers)
    with pytest.raises(WebhookError) as caught:
        judge(b"{}", sent, secrets=[SECRET], now=NOW, tolerance=300.0)
    assert caught.value.status_code in (400, 413)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", " gzip", "gzip, identity", "x"])
def test_a_body_in_any_encoding_is_refused_however_well_it_is_signed(encoding: str) -> None:
    body = gzip.compress(payload("audio.split.completed", id="split_1"))
    verdict = judged(body, {HEADER: sign(body, SECRET, NOW), "Content-Encoding": encoding})
    assert verdict.status == 400
    assert verdict.error is not None
    assert verdict.error.code == "BODY_ENCODED"


@pytest.mark.parametrize("encoding", ["identity", "Identity ", ""])
def test_the_encoding_identity_is_accepted(encoding: str) -> None:
    body = payload("audio.split.completed", id="split_1")
    assert judged(body, {HEADER: sign(body, SECRET, NOW), "Content-Encoding": encoding}).status == 200


def test_more_than_64_kib_is_413_and_not_parsed() -> None:
    for size, status in ((65_536, 400), (65_537, 413), (10_000_000, 413)):
        assert judged(b"x" * size).status == status


@pytest.mark.parametrize(
    ("length", "status"),
    [("65536", None), ("65537", 413), ("1" * 5000, 413), ("-1", None), ("x", None), ("²", None), ("", None)],
)
def test_a_length_that_is_too_large_is_413_before_anything_is_read(length: str, status: int | None) -> None:
    sent = Sent.parse({"content-length": length})
    if status is None:
        judge_unread(sent)
        return
    with pytest.raises(WebhookError, match="larger than 65536 bytes") as caught:
        judge_unread(sent)
    assert caught.value.status_code == status


@given(
    st.binary(max_size=300),
    st.lists(st.tuples(st.sampled_from([HEADER, "Content-Encoding", "Content-Length", "x"]), st.text() | st.binary())),
)
def test_whatever_comes_in_gets_a_refusal_and_never_an_exception(body: bytes, headers: list[tuple[str, Any]]) -> None:
    assert judged(body, headers).status in (400, 413)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda tree: st.lists(tree) | st.dictionaries(
    st.sampled_from(["event", "data", "id", "status", "x"]), tree)))  # fmt: skip
def test_whatever_is_signed_gets_an_answer_and_never_an_exception(value: Any) -> None:
    assert judged(json.dumps(value).encode()).status in (200, 400)
