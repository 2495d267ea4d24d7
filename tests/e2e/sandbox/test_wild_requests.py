"""Whatever bytes arrive at its origins, the sandbox answers without an error of its own, logs none, and goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.e2e.sandbox.wild import Wild, running_wild

JSON = b"Content-Type: application/json"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "FOO")
HOSTS = (
    b"[",
    b"[::1",
    b"[::1]:99999",
    b"localhost:-1",
    b"a" * 300,
    b"\xff\xfe",
    b"\xe2\x84\x80.com",
    b"",
    b"..",
    b"[v1.x]",
)
TARGETS = (
    *("/", "//", "/v1", "/v1/", "/v1/audio/splits/", "/v1/audio/splits/%", "/v1/audio/splits/%00", "/openapi.json"),
    *("/v1/audio/splits/%ff%fe", "/v1/audio/splits/" + "x" * 4000, "/v1/audio/splits/../../x", "*", "http://[/", "?"),
    *("/control/", "/control/state?newest=", "/control/state?newest=99999999", "/control/state?newest=%D9%A3"),
    *("/control/faults/" + "9" * 5000, "/control/faults/%C2%B2", "/control/faults/0", "/control/faults/-1"),
    *(
        "/control/splits/x/stems/%00",
        "/control/splits/%2e%2e/stems/%2e%2e%2f",
        "/upload/",
        "/upload/x/y",
        "/upload/%00",
    ),
    *(
        "/stems/x/y?expires=" + "9" * 15,
        "/stems//?expires=1&signature=%ff",
        "/stems/a/b?expires=\u0663",
        "http://x:1:2/",
    ),
    *("http://h:99999/v1/credits", "http://\xff/v1", "//[::1/v1", "/\udcff\udcfe", "example.com:443", "/v1/credits#x"),
)
NUMBERS = ("0", "-1", "1e400", "-1e400", "1e300", "1e18", "9" * 4000, "9" * 5000, "0.5", "true", "null", '"x"', "[]")
HEADERS = (
    *(
        b"Range: bytes=" + part
        for part in (b"-0", b"0-", b"9-1", b"-" + b"9" * 18, b"9" * 30 + b"-", b"0-0,1-1", b"\xff")
    ),
    *(
        b"Content-Type: " + kind
        for kind in (b"", b";", b"application/json; charset=\xff", b'a/b; x="', b"=?utf-8?q?=ff?=")
    ),
    *(
        b"Expect: 100-continue",
        b"Expect: x",
        b"Upgrade: websocket",
        b"Transfer-Encoding: chunked",
        b"Cookie: \xff=\xfe",
    ),
    *(b"Idempotency-Key: \xff", b"Idempotency-Key: " + b"k" * 300, b"Idempotency-Key: \xc3\xa9", b"If-Range: \xff"),
    *(b"Authorization: Bearer \xff", b"Authorization: Bearer", b"Authorization: x", b"X-Upload-Token: \xff\xfe"),
    *(b"If-Match: \xff", b"If-None-Match: *, *", b"Origin: \xff", b"Content-Encoding: gzip", b"Content-Length: 5"),
)


@pytest.fixture(scope="module")
def wild() -> Iterator[Wild]:
    with running_wild() as running:
        yield running
        assert running.complaints == []


def check(wild: Wild, statuses: list[int]) -> None:
    """Nothing went wrong with this request, nor because of it with the next."""
    assert not [status for status in statuses if status >= 500]
    assert wild.complaints == []
    assert wild.ask(wild.origins[0], "GET", "/v1/credits") == [200]


@pytest.mark.parametrize("host", HOSTS, ids=repr)
def test_any_host(wild: Wild, host: bytes) -> None:
    for target in ("/", "/control/state", "/openapi.json", "/v1/credits"):
        check(wild, wild.ask(wild.origins[0], "GET", target, b"Host: " + host))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: ascii(target[:40]))
def test_any_target(wild: Wild, target: str) -> None:
    for origin in wild.origins:
        for method in ("GET", "POST", "DELETE", "CONNECT"):
            check(wild, wild.ask(origin, method, target))


@pytest.mark.parametrize("call", ["advance", "credits", "step", "faults"])
def test_any_value_at_the_control_endpoint(call: str) -> None:
    fields = {"advance": "seconds", "credits": "balance", "step": "split_id", "faults": "times"}
    bodies = [f'{{"{fields[call]}": {number}}}' for number in NUMBERS]
    bodies += [f'{{"balance": 1, "account": {value}}}' for value in ('"x"', "[]", "{}", "1")]
    bodies += [
        '{"operation": [], "faults": [{"kind": []}]}',
        '{"rule": "a:b:c"}',
        '{"faults": [{"kind": "status", "": 1}]}',
    ]
    with running_wild() as wild:
        for body in bodies:
            check(wild, wild.ask(wild.origins[0], "POST", f"/control/{call}", JSON, body=body.encode()))
            check(wild, wild.ask(wild.origins[0], "GET", "/control/state"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(
    ["direct_url", "uploaded_file", "4s", "wav", "http://x", "http://[", "https://h:99999/%00", "/"]
)
FIELDS = ("filename", "contentType", "contentLength", "input", "stemModel", "outputFormat", "webhookUrl", "type", "url")
BODIES = st.recursive(
    VALUES | WORDS,
    lambda inner: st.dictionaries(st.sampled_from((*FIELDS, "uploadId", "fileUrl", "storageKey")), inner, max_size=5),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_body(wild: Wild, data: st.DataObject) -> None:
    raw = data.draw(BODIES.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=300))
    target = data.draw(st.sampled_from(["/v1/audio/splits", "/v1/audio/uploads", "/control/step"]))
    lines = data.draw(st.lists(st.sampled_from(HEADERS), max_size=2))
    check(wild, wild.ask(wild.origins[0], "POST", target, *(lines or [JSON]), body=raw))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_request(wild: Wild, data: st.DataObject) -> None:
    origin = data.draw(st.sampled_from(wild.origins))
    target = data.draw(st.sampled_from(TARGETS).map(lambda text: text.encode("utf-8", "surrogateescape")) | st.binary())
    lines = data.draw(st.lists(st.sampled_from(HEADERS), max_size=3))
    check(wild, wild.ask(origin, data.draw(st.sampled_from(METHODS)), target.replace(b" ", b"+"), *lines))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=200))
def test_any_bytes_instead_of_a_request(wild: Wild, junk: bytes) -> None:
    for origin in wild.origins:
        check(wild, wild.exchange(origin, junk + b"\r\n\r\n"))
