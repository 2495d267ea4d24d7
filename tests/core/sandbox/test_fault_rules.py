"""Fault rules and what faults make of replies, without a socket."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async.sandbox import faults
from aistemsplitter_async.sandbox.faults.requests import build_fault
from aistemsplitter_async.sandbox.faults.rules import Faults
from aistemsplitter_async.sandbox.http.effects import build_status_reply, change_reply, replace_reply
from aistemsplitter_async.sandbox.http.replies import Manner, Reply, build_data_reply

NOW = 1_700_000_000.0
REPLY = build_data_reply({"id": "split_1", "status": "succeeded", "stems": {"vocals": "http://a", "bass": "http://b"}})


def changed(fault: faults.Fault, reply: Reply = REPLY) -> Any:
    after = change_reply(fault, reply)
    assert after is not None
    assert isinstance(after.body, bytes)
    return json.loads(after.body)


def test_queued_rules_take_effect_one_after_the_other() -> None:
    queue = Faults()
    first = queue.add("create", faults.Status(503), times=2)
    second = queue.add("create", faults.Reset())
    other = queue.add("get", faults.Latency(1))
    assert [queue.take("create") for _ in range(4)] == [first, first, second, None]
    assert (first.consumed, second.consumed, other.consumed) == (2, 1, 0)
    assert queue.unconsumed == (other,)
    assert queue.take("credits") is None


def test_a_rule_can_wait_for_certain_calls() -> None:
    queue = Faults()
    rule = queue.add("get", faults.Status(500), calls=(2, 4))
    assert [queue.take("get") is rule for _ in range(6)] == [False, True, False, True, False, False]
    assert queue.add("get", faults.Status(500), calls=1).calls == frozenset({1})


def test_a_rule_can_wait_for_a_split() -> None:
    queue = Faults()
    rule = queue.add("get", faults.Status(500), split_id="split_1")
    assert queue.take("get", "split_2") is None
    assert queue.take("get") is None
    assert queue.take("get", "split_1") is rule


def test_a_rule_can_strike_by_chance_and_the_same_seed_strikes_alike() -> None:
    def pattern(seed: int) -> list[bool]:
        queue = Faults(seed)
        queue.add("get", faults.Status(500), probability=0.3)
        return [queue.take("get") is not None for _ in range(300)]

    assert pattern(1) == pattern(1) != pattern(2)
    assert 50 < sum(pattern(1)) < 130


def test_always_and_any() -> None:
    queue = Faults()
    rule = queue.add("any", faults.Latency(0), times="always")
    assert all(queue.take(operation) is rule for operation in ("get", "upload", "credits") * 10)
    assert rule.consumed == 30
    assert queue.remove(rule.id)
    assert not queue.remove(rule.id)
    assert queue.take("get") is None


def test_a_rule_given_back_waits_for_the_next_request() -> None:
    queue = Faults()
    rule = queue.add("get", faults.ExpiredURL())
    taken = queue.take("get")
    assert taken is rule
    queue.give_back(rule)
    assert queue.unconsumed == (rule,)
    assert queue.take("get") is rule
    queue.clear()
    assert queue.rules == ()


@given(st.lists(st.sampled_from(("create", "get")), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_no_rule_is_consumed_more_often_than_it_may(operations: list[str], one: int, two: int) -> None:
    queue = Faults()
    rules = [queue.add("create", faults.Status(500), times=one), queue.add("any", faults.Status(500), times=two)]
    taken = [queue.take(operation) for operation in operations]
    assert sum(rule is not None for rule in taken) == sum(rule.consumed for rule in rules) <= one + two
    assert rules[0].consumed == min(one, operations.count("create"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"operation": "split"},
        {"operation": "get", "times": 0},
        {"operation": "get", "calls": (0,)},
        {"operation": "get", "probability": 1.5},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Faults().add(arguments.pop("operation"), faults.Reset(), **arguments)
    with pytest.raises(ValueError, match="at least one"):
        Faults().add("get")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("status", {"status": 200}),
        ("status", {"status": "500"}),
        ("status", {"nothing": 1}),
        ("body", {"body": "poem"}),
        ("latency", {"seconds": -1}),
        ("cut", {"framing": "morse"}),
        ("cut", {"after_bytes": 1.5}),
        ("missing", {}),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(kind: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        build_fault(kind, **values)


def test_rules_come_from_json_and_go_to_json() -> None:
    queue = Faults()
    rule = queue.add_dict(
        {
            "operation": "create",
            "faults": [{"kind": "latency", "seconds": 1.5}, {"kind": "status", "status": 503}],
            "times": 3,
        },
    )
    assert rule.faults == (faults.Latency(1.5), faults.Status(503))
    assert json.loads(json.dumps(rule.as_dict()))["faults"][1] == {
        "kind": "status",
        "status": 503,
        "code": "",
        "retry_after": None,
        "effect": False,
    }
    for wrong in (
        {},
        {"operation": "get"},
        {"operation": "get", "faults": [{}]},
        {"operation": "get", "faults": [{"kind": "reset"}], "when": "now"},
    ):
        with pytest.raises(ValueError, match=r".+"):
            queue.add_dict(wrong)


def test_every_kind_survives_json_with_its_defaults() -> None:
    for kind, fault in faults.KINDS.items():
        queue, operation = Faults(), "webhook" if fault in faults.OF_WEBHOOKS else "any"
        rule = queue.add_dict({"operation": operation, "faults": [{"kind": kind}]})
        again = queue.add_dict({"operation": operation, "faults": json.loads(json.dumps(rule.as_dict()["faults"]))})
        assert again.faults == rule.faults


@pytest.mark.parametrize(
    ("text", "expected", "options"),
    [
        ("create:reset", faults.Reset(), {"times": 1}),
        ("get:status:status=429,retry_after=2,times=3", faults.Status(429, retry_after=2), {"times": 3}),
        ("get:status:retry_after=date", faults.Status(retry_after="date"), {"times": 1}),
        ("download:cut:after_bytes=10,how=reset,calls=1+3", faults.Cut(10, "reset"), {"calls": {1, 3}}),
        ("get:body:body=html,status=502,probability=0.5", faults.Body("html", 502), {"probability": 0.5}),
        ("get:changed_field:path=data.id,value=7", faults.ChangedField("data.id", 7), {}),
        ("get:reset:times=always", faults.Reset(), {"times": None}),
    ],
)
def test_rules_come_from_a_line_of_text(text: str, expected: faults.Fault, options: dict[str, Any]) -> None:
    rule = Faults().add_text(text)
    assert rule.faults == (expected,)
    for name, value in options.items():
        assert getattr(rule, name) == value


@pytest.mark.parametrize("text", ["", "get", "get:", "get:nothing", "get:status:500", "get:status:times=x", "x:reset"])
def test_a_line_of_text_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Faults().add_text(text)


@pytest.mark.parametrize(
    ("retry_after", "header"),
    [(None, None), (3, "3"), (0.25, "0.25"), ("absurd", "9999999999"), ("soon", "soon"), ("-5", "-5")],
)
def test_a_status_comes_with_or_without_retry_after(retry_after: Any, header: str | None) -> None:
    reply = replace_reply(faults.Status(503, retry_after=retry_after), flat=False, now=NOW)
    assert reply is not None
    assert (reply.status, reply.headers.get("Retry-After")) == (503, header)


def test_retry_after_can_be_a_date_ahead_or_past() -> None:
    for word, ahead in (("date", 30), ("past", -3600)):
        header = build_status_reply(faults.Status(429, retry_after=word), flat=False, now=NOW).headers["Retry-After"]
        assert parsedate_to_datetime(header).timestamp() == NOW + ahead


def test_an_injected_status_has_the_envelope_of_its_origin() -> None:
    api = build_status_reply(faults.Status(429), flat=False, now=NOW)
    worker = build_status_reply(faults.Status(418, code="TEAPOT"), flat=True, now=NOW)
    assert isinstance(api.body, bytes)
    assert isinstance(worker.body, bytes)
    assert json.loads(api.body)["error"]["code"] == "RATE_LIMITED"
    assert json.loads(worker.body)["error"] == "TEAPOT"


def test_fields_are_removed_changed_and_added() -> None:
    assert "id" not in changed(faults.MissingField("data.id"))["data"]
    assert changed(faults.ChangedField("data.status", "paused"))["data"]["status"] == "paused"
    assert changed(faults.ChangedField("success", 0))["success"] == 0
    assert changed(faults.ExtraFields())["data"]["xExtra"]
    for elsewhere in (faults.MissingField("data.nothing"), faults.ChangedField("data.id.deeper", 1)):
        assert change_reply(elsewhere, REPLY) is None


def test_stems_become_hostile() -> None:
    by_name = changed(faults.HostileStems())["data"]["stems"]
    assert set(by_name) == set(faults.HOSTILE_NAMES)
    assert set(by_name.values()) == {"http://a", "http://b"}
    by_url = changed(faults.HostileStems(urls=faults.HOSTILE_URLS))["data"]["stems"]
    assert list(by_url.values()) == list(faults.HOSTILE_URLS)
    assert list(by_url)[:3] == ["vocals", "bass", "stem3"]
    assert change_reply(faults.HostileStems(), build_data_reply({"id": "x"})) is None


@pytest.mark.parametrize("body", ["garbage", "deep", "empty", "truncated", "nan", "big_integer", "html", "surrogate"])
def test_bodies_that_a_strict_reader_must_refuse(body: Any) -> None:
    reply = change_reply(faults.Body(body, status=502), REPLY)
    assert reply is not None
    assert isinstance(reply.body, bytes)
    assert reply.status == 502
    if body not in ("nan", "surrogate"):  # Python's own json takes these two
        with pytest.raises((ValueError, RecursionError)):
            json.loads(reply.body)


def test_a_huge_body_has_the_size_asked_for() -> None:
    reply = change_reply(faults.Body("huge", size_bytes=10_000), REPLY)
    assert reply is not None
    assert 10_000 < reply.length < 10_100


def test_manners_add_up() -> None:
    reply = change_reply(faults.Drip(2, 0.5), REPLY)
    assert reply is not None
    reply = change_reply(faults.Cut(10, "reset", "chunked"), reply)
    assert reply is not None
    assert reply.manner == Manner(piece_bytes=2, every=0.5, stop_after=10, then="reset", framing="chunked")


def test_only_an_existing_content_range_is_one_byte_off() -> None:
    part = Reply(206, b"x", {"Content-Range": "bytes 10-19/100"})
    reply = change_reply(faults.WrongContentRange(), part)
    assert reply is not None
    assert reply.headers["Content-Range"] == "bytes 11-19/100"
    assert change_reply(faults.WrongContentRange(), REPLY) is None
