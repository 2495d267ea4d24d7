"""What the API may answer, and everything it may not: values or a `ProtocolError`, never anything else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from aistemsplitter_async._wire.codec import decode, parse_json, parse_reply, to_camel
from aistemsplitter_async._wire.messages import Reply
from aistemsplitter_async.config import REPLY_BRACKETS, REPLY_CAP_BYTES, REPLY_DEPTH
from aistemsplitter_async.errors import ProtocolError
from aistemsplitter_async.models import CreatedSplit, Credits, Reservation, Split, SplitErrorDetail, WorkerReceipt

SAMPLES = Path(__file__).parents[2] / "samples"
MODELS: list[type[Any]] = [Credits, Reservation, WorkerReceipt, CreatedSplit, Split]

SPLIT: dict[str, Any] = {
    "id": "split_1",
    "status": "processing",
    "stemModel": "4s",
    "creditsUsed": 214,
    "createdAt": "2026-05-04T10:00:00Z",
    "updatedAt": "2026-05-04T10:00:02Z",
}


def sample(name: str) -> Any:
    return parse_json((SAMPLES / f"{name}.json").read_bytes())["data"]


def nested(depth: int, core: str = "") -> bytes:
    return b"[" * depth + core.encode() + b"]" * depth


def problem(value: Any, cls: type[Any]) -> str:
    with pytest.raises(ProtocolError) as caught:
        decode(value, cls, path="$.data")
    assert caught.value.__context__ is None, "a chained error would carry the reply along"
    return str(caught.value)


def test_every_golden_reply_decodes_to_the_values_it_shows() -> None:
    assert decode(sample("credits"), Credits) == Credits(6200, "seconds")
    reserved = decode(sample("upload_reserved"), Reservation)
    assert reserved.upload_id == "upload_9f2c"
    assert reserved.upload_headers == {"X-Upload-Token": "SECRETTOKEN", "X-Upload-Id": "upload_9f2c"}
    assert reserved.expires_at == datetime(2026, 5, 4, 10, 15, tzinfo=UTC)
    assert decode(sample("upload_stored"), WorkerReceipt).key == "u/9f2c/song.wav"
    created = decode(sample("split_created"), CreatedSplit)
    assert (created.id, created.status, created.credits_used) == ("split_123", "queued", 214)
    assert str(created.credits_used) == "214", "214 credits must not read 214.0"
    processing = decode(sample("split_processing"), Split)
    assert (processing.stems, processing.error, processing.is_terminal) == ({}, None, False)
    succeeded = decode(sample("split_succeeded"), Split)
    assert list(succeeded.stems) == ["vocals", "drums", "bass", "other"]
    assert succeeded.processing_seconds == 90.5
    assert succeeded.is_terminal
    failed = decode(sample("split_failed"), Split)
    assert failed.error == SplitErrorDetail("AUDIO_DECODE_FAILED", "The audio could not be decoded.")
    assert failed.is_terminal


@pytest.mark.parametrize("wrong", [None, True, 5, 1.5, [], {}, ["split_1"]])
def test_only_text_is_text(wrong: object) -> None:
    assert problem({**SPLIT, "id": wrong}, Split).startswith("unexpected reply: $.data.id ")


@pytest.mark.parametrize(
    "wrong",
    [True, False, "many", "0x10", "1e3", "٢", "9" * 17, [], {}, float("inf"), float("nan"), 10**400, -(10**400)],
)
def test_only_a_finite_number_is_a_number(wrong: object) -> None:
    assert problem({"balance": wrong}, Credits).startswith("unexpected reply: $.data.balance ")
    assert decode({**SPLIT, "creditsUsed": wrong}, Split).credits_used is None


@pytest.mark.parametrize(("text", "number"), [("214", 214), ("214.50", 214.5), ("-3", -3), ("0", 0)])
def test_a_decimal_written_as_text_is_its_number(text: str, number: float) -> None:
    balance = decode({"balance": text}, Credits).balance
    assert (balance, type(balance)) == (number, type(number))


@pytest.mark.parametrize("wrong", ["", "yesterday", "2026-13-01T00:00:00Z", "٢٠٢٦-05-04T10:00Z", True, [], {}, 0, -5])
def test_only_a_time_is_a_time(wrong: object) -> None:
    reserved = {**sample("upload_reserved"), "expiresAt": wrong}
    assert problem(reserved, Reservation).startswith("unexpected reply: $.data.expiresAt ")
    assert decode({**SPLIT, "createdAt": wrong}, Split).created_at is None


@pytest.mark.parametrize("wrong", ["vocals", 5, True, [["vocals", "https://x"]]])
def test_only_an_object_is_a_mapping_of_stems(wrong: object) -> None:
    assert problem({**SPLIT, "stems": wrong}, Split).startswith("unexpected reply: $.data.stems should be an object")


@pytest.mark.parametrize("wrong", [None, [], "text", 5, True])
def test_only_an_object_is_a_split(wrong: object) -> None:
    assert problem(wrong, Split).startswith("unexpected reply: $.data should be an object")


@pytest.mark.parametrize("cls", MODELS)
def test_a_missing_field_is_named_by_its_wire_path(cls: type[Any]) -> None:
    names = {Credits: "credits", Reservation: "upload_reserved", WorkerReceipt: "upload_stored"}
    whole = sample(names.get(cls, "split_created" if cls is CreatedSplit else "split_succeeded"))
    for field in attrs.fields(cls):
        if field.default is attrs.NOTHING:
            wire = to_camel(field.name)
            cut = {key: value for key, value in whole.items() if key != wire}
            assert problem(cut, cls) == f"unexpected reply: $.data.{wire} is missing"


def test_the_path_leads_into_nested_values() -> None:
    assert "$.data.stems.vocals should be a string, not a number" in problem({**SPLIT, "stems": {"vocals": 5}}, Split)


def test_an_empty_object_may_be_a_list_and_an_empty_entry_is_none() -> None:
    """PHP writes an empty map as a list; a model without a guitar may say so with null."""
    assert decode({**SPLIT, "stems": []}, Split).stems == {}
    assert decode({**SPLIT, "stems": {"vocals": "https://x", "guitar": None}}, Split).stems == {"vocals": "https://x"}


@pytest.mark.parametrize("name", ["stemModel", "creditsUsed", "createdAt", "updatedAt", "filename", "durationSeconds"])
@pytest.mark.parametrize("wrong", [None, [], {"a": 1}, True, "\ud800", float("nan")])
def test_what_a_split_can_do_without_does_not_spoil_it(name: str, wrong: object) -> None:
    split = decode({**SPLIT, name: wrong}, Split)
    assert (split.id, split.status) == ("split_1", "processing")
    assert decode({key: value for key, value in SPLIT.items() if key != name}, Split) == split
    created = decode({"id": "split_1", name: wrong}, CreatedSplit)
    assert created == CreatedSplit("split_1", "queued", None, None)


def test_text_with_a_lone_surrogate_is_no_text() -> None:
    assert "$.data.id should be text" in problem({**SPLIT, "id": "\ud800"}, Split)


def test_hostile_keys_are_shown_escaped_and_short_in_the_path() -> None:
    shown = problem({**SPLIT, "stems": {"\x1b]0;owned\x07" + "x" * 5000: 5}}, Split)
    assert shown.isprintable()
    assert len(shown) < 200


def test_unknown_enum_values_pass_through_unchanged() -> None:
    split = decode({**SPLIT, "status": "paused", "stemModel": "htdemucs_ft"}, Split)
    assert (split.status, split.stem_model, split.is_terminal) == ("paused", "htdemucs_ft", False)


@pytest.mark.parametrize("status", ["\x1b[2Jpaused", "pau\nsed", "\u202edesuap", None, 3, ["queued"]])
def test_an_enum_value_that_cannot_be_shown_is_refused(status: object) -> None:
    assert "$.data.status" in problem({**SPLIT, "status": status}, Split)


def test_extra_fields_are_ignored_and_null_means_absent_where_there_is_a_default() -> None:
    split = decode({**SPLIT, "filename": None, "stems": None, "extra": {"a": [1]}, "is_terminal": True}, Split)
    assert (split.filename, split.stems, split.is_terminal) == (None, {}, False)


def test_our_own_spelling_of_a_field_is_not_the_wires() -> None:
    ours = {**{k: v for k, v in SPLIT.items() if k != "creditsUsed"}, "credits_used": 214}
    assert decode(ours, Split).credits_used is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1}{',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"1" * 4301,
        b"-" + b"9" * 100_000,
        b"NaN",
        b'{"a": Infinity}',
        b"[-Infinity]",
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b'[{"a": {"\\ud83d": []}}]',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b"<html></html>",
        b"'a'",
        b'{"a": "\x00"}',
        b" " * (REPLY_CAP_BYTES + 1),
    ],
    ids=lambda body: f"{body[:12]!r}..{len(body)}",
)
def test_what_is_not_usable_json_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_json(body)
    assert len(str(caught.value)) < 300
    assert caught.value.__context__ is None


@pytest.mark.parametrize("core", ["", "1", '"a"', "null", '1,"a"'])
def test_depth_counts_containers_exactly(core: str) -> None:
    parse_json(nested(REPLY_DEPTH, core))
    with pytest.raises(ProtocolError, match="nested deeper than 32"):
        parse_json(nested(REPLY_DEPTH + 1, core))


def test_depth_counts_objects_and_reaches_every_branch() -> None:
    deep = b'{"k":' * REPLY_DEPTH + b"1" + b"}" * REPLY_DEPTH
    parse_json(b"[" + deep[len(b'{"k":') : -1] + b"]")
    with pytest.raises(ProtocolError, match="nested deeper"):
        parse_json(b'{"shallow": 1, "deep": ' + deep + b', "last": 2}')


def test_a_lone_surrogate_is_found_in_the_deepest_place() -> None:
    parse_json(nested(REPLY_DEPTH, '"\\ud83d\\ude00"'))
    with pytest.raises(ProtocolError, match="lone surrogate"):
        parse_json(nested(REPLY_DEPTH, '"\\ud83d"'))


def test_a_reply_of_exactly_the_cap_is_read() -> None:
    assert parse_json(b'"' + b"x" * (REPLY_CAP_BYTES - 2) + b'"')


def test_the_last_of_duplicated_keys_counts() -> None:
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*SPLIT, "stems", "error", "code", "balance", "url", "key"]), inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=6,
)


@settings(max_examples=60)
@given(value=json_values, cls=st.sampled_from(MODELS))
def test_decoding_any_value_gives_the_model_or_a_protocol_error(value: Any, cls: type[Any]) -> None:
    try:
        decoded = decode(value, cls)
    except ProtocolError as error:
        assert str(error).startswith("unexpected reply: $")  # noqa: PT017  # either outcome is right
    else:
        assert isinstance(decoded, cls)


@settings(max_examples=60)
@given(name=st.sampled_from([*SPLIT, "stems", "error", "filename", "durationSeconds"]), value=json_values)
def test_one_field_of_any_value_gives_a_well_typed_split_or_a_protocol_error(name: str, value: Any) -> None:
    try:
        split = decode({**SPLIT, name: value}, Split)
    except ProtocolError:
        return
    assert type(split.id) is str
    assert type(split.status) is str
    assert split.credits_used is None or type(split.credits_used) in (int, float)
    assert split.created_at is None or split.created_at.tzinfo is UTC
    assert all(type(text) is str for item in split.stems.items() for text in item)


@settings(max_examples=60)
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_value_or_a_protocol_error(body: bytes) -> None:
    try:
        value = parse_json(body)
    except ProtocolError:
        return
    json.dumps(value, allow_nan=True).encode()


def test_a_reply_of_more_lists_than_could_be_read_quickly_is_refused_before_it_is_parsed() -> None:
    """No thread helps against those: the parser does not let others run."""
    most = b"[" + b",".join([b"{}"] * (REPLY_BRACKETS - 1)) + b"]"
    assert len(parse_reply(Reply(status=200, headers={}, body=most))) == REPLY_BRACKETS - 1
    for body in (b"[" + most + b"]", b"[" * REPLY_CAP_BYTES):
        with pytest.raises(ProtocolError, match="too many values"):
            parse_reply(Reply(status=200, headers={}, body=body))
