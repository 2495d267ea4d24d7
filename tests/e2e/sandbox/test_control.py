"""The control endpoint, rate headers and several keys over sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aistemsplitter_async.sandbox import Manual
from aistemsplitter_async.sandbox.service.account import SandboxKey
from tests.e2e.harness import Answer, BareAPI, Connect

SONG = "https://example.com/a.mp3?seconds=10"


async def control(api: BareAPI, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    url = api.sandbox.base_url.removesuffix("/v1") + "/control/" + path
    return await api.send(method, url, headers=headers, **({} if body is None else {"json": body}))


async def test_the_state_of_a_sandbox_can_be_read_and_holds_no_key(connect: Connect) -> None:
    async with connect(requests_per_minute=10) as api:
        await api.finish(SONG)
        answer = await control(api, "GET", "state")
        assert answer.status == 200
        assert answer.json["base_url"] == api.sandbox.base_url
        (account,) = answer.json["accounts"]
        assert (account["balance"], account["limit"], account["remaining"]) == (35_990, 10, 8)
        (split,) = answer.json["splits"]
        assert (split["status"], split["polls"], split["seconds"]) == ("succeeded", 1, 10.0)
        assert api.sandbox.api_key.encode() not in answer.raw
        assert (await control(api, "GET", "state")).json["accounts"][0]["remaining"] == 8


async def test_the_ledger_can_be_read(api: BareAPI) -> None:
    await api.finish(SONG)
    answer = await control(api, "GET", "ledger")
    assert answer.json == json.loads(json.dumps(api.sandbox.ledger.as_dict()))
    assert len((await control(api, "GET", "ledger?newest=1")).json["requests"]) == 1
    assert (await control(api, "GET", "state?newest=0")).json["splits"] == []
    assert answer.json["counts"] == {"create": {"200": 1}, "get": {"200": 1}}
    assert api.sandbox.api_key.encode() not in answer.raw


async def test_faults_can_be_queued_watched_and_removed(api: BareAPI) -> None:
    rule = (await control(api, "POST", "faults", {"rule": "credits:status:status=503,times=2"})).json
    assert (rule["operation"], rule["times"], rule["consumed"]) == ("credits", 2, 0)
    assert (await api.call("GET", "/credits")).status == 503
    (seen,) = (await control(api, "GET", "faults")).json["rules"]
    assert (seen["id"], seen["consumed"], seen["exhausted"]) == (rule["id"], 1, False)
    body = {"operation": "get", "faults": [{"kind": "reset", "effect": True}], "split_id": "split_1"}
    second = (await control(api, "POST", "faults", body)).json
    left = (await control(api, "DELETE", f"faults/{rule['id']}")).json["rules"]
    assert [one["id"] for one in left] == [second["id"]]
    assert (await control(api, "DELETE", "faults/77")).status == 404
    assert (await control(api, "DELETE", "faults")).json == {"rules": []}
    assert api.sandbox.faults.rules == ()


async def test_time_can_be_moved_splits_stepped_and_credits_set(connect: Connect) -> None:
    async with connect(progression=Manual(), requests_per_minute=3) as api:
        split_id = (await api.create(SONG)).json["data"]["id"]
        for status in ("processing", "succeeded"):
            assert (await control(api, "POST", "step", {"split_id": split_id})).json == {"status": status}
        assert (await control(api, "POST", "credits", {"balance": 7})).json["balance"] == 7
        assert api.sandbox.credits == 7
        statuses = [(await api.call("GET", "/credits")).status for _ in range(3)]
        assert (await control(api, "POST", "advance", {"seconds": 60})).status == 200
        assert [*statuses, (await api.call("GET", "/credits")).status] == [200, 200, 429, 200]


async def test_a_further_key_has_the_same_account_and_a_limit_of_its_own(connect: Connect) -> None:
    async with connect(requests_per_minute=2) as api:
        split_id = (await api.create(SONG)).json["data"]["id"]
        label = (await control(api, "GET", "state")).json["accounts"][0]["account"]
        rotated = (await control(api, "POST", "keys", {"account": label})).json
        assert rotated["account"] == label
        new = rotated["api_key"]
        assert (await api.call("GET", f"/audio/splits/{split_id}", key=new)).status == 200
        balances = {(await api.call("GET", "/credits", key=key)).json["data"]["balance"] for key in (None, new)}
        assert balances == {api.sandbox.credits}
        assert (await api.call("GET", "/credits")).status == 429
        assert len((await control(api, "GET", "state")).json["accounts"]) == 1
        newest = (await control(api, "POST", "keys", {"revoke": True})).json["api_key"]
        statuses = [(await api.call("GET", "/credits", key=key)).status for key in (None, new, newest)]
        assert statuses == [401, 401, 200]
        assert api.sandbox.ledger.count("credits", 200) == 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("keys", {"account": "nobody"}),
        ("faults", {"rule": "nonsense"}),
        ("faults", {}),
        ("advance", {}),
        ("advance", {"seconds": -1}),
        ("advance", {"seconds": "soon"}),
        ("step", {"split_id": "split_none"}),
        ("credits", {"balance": -1}),
        ("credits", {"balance": 1, "account": "nobody"}),
        ("credits", {"balance": None}),
    ],
)
async def test_what_makes_no_sense_is_422(api: BareAPI, path: str, body: Any) -> None:
    answer = await control(api, "POST", path, body)
    assert (answer.status, answer.json["error"]["code"]) == (422, "VALIDATION_ERROR")


async def test_pages_of_other_origins_get_nothing(api: BareAPI) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        for method, path, body in (("GET", "state", None), ("POST", "credits", {"balance": 0})):
            answer = await control(api, method, path, body, **headers)
            assert answer.status == 403
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    url = api.sandbox.base_url.removesuffix("/v1") + "/control/credits"
    plain = await api.send("POST", url, data='{"balance": 0}', headers={"Content-Type": "text/plain"})
    assert plain.status == 415
    assert api.sandbox.credits == 36_000


async def test_the_control_endpoint_can_be_switched_off(connect: Connect) -> None:
    async with connect(control=False) as api:
        assert (await control(api, "GET", "state")).status == 404
        assert (await control(api, "POST", "credits", {"balance": 0})).status == 404
        assert (await api.call("GET", "/credits")).json["data"]["balance"] == 36_000


@pytest.mark.parametrize(
    ("style", "on_success", "on_refusal"),
    [
        ("none", set(), set()),
        ("retry-after", set(), {"Retry-After"}),
        ("ratelimit", {"RateLimit", "RateLimit-Policy"}, {"RateLimit", "RateLimit-Policy"}),
        (
            "retry-after,x-ratelimit",
            {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"},
            {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After"},
        ),
    ],
)
async def test_answers_name_the_limit_in_the_chosen_style(
    connect: Connect, style: str, on_success: set[str], on_refusal: set[str]
) -> None:
    async with connect(requests_per_minute=1, rate_headers=style) as api:
        for status, expected in ((200, on_success), (429, on_refusal)):
            answer = await api.call("GET", "/credits")
            assert answer.status == status
            assert {name for name in answer.headers if "rate" in name.lower() or "retry" in name.lower()} == expected


async def test_several_keys_have_limits_credits_and_splits_of_their_own(connect: Connect) -> None:
    poor = SandboxKey("ast_poor", credits=5, requests_per_minute=2, webhook_secret="whsec_poor")
    async with connect(keys=[poor]) as api:
        assert [key.api_key for key in api.sandbox.keys] == [api.sandbox.api_key, "ast_poor"]
        split_id = (await api.create(SONG)).json["data"]["id"]
        assert (await api.call("GET", f"/audio/splits/{split_id}", key="ast_poor")).status == 404
        body = {"input": {"type": "direct_url", "url": SONG}}
        assert (await api.call("POST", "/audio/splits", json=body, key="ast_poor")).status == 402
        assert (await api.call("GET", "/credits", key="ast_poor")).status == 429
        assert (await api.call("GET", "/credits")).json["data"]["balance"] == 35_990
        api.sandbox.set_credits(50, "ast_poor")
        with pytest.raises(KeyError):
            api.sandbox.set_credits(50, "ast_nobody")
        assert len(api.sandbox.ledger.charges) == 1
        assert len({record.account for record in api.sandbox.ledger.requests}) == 2
