"""The OpenAPI description is true: what the sandbox answers, and the golden samples, validate against it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from aistemsplitter_async.sandbox import faults
from aistemsplitter_async.sandbox.http.openapi import load_description
from tests.e2e.harness import Answer, BareAPI, Connect, MakeWav

SONG = "https://example.com/a.mp3?seconds=10"
DESCRIPTION = load_description()
SAMPLES = Path(__file__).parents[2] / "samples"

FORMATS = FormatChecker(formats=())


@FORMATS.checks("date-time")
def is_timestamp(value: object) -> bool:
    return not isinstance(value, str) or bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value))


@FORMATS.checks("uri")
def is_address(value: object) -> bool:
    return not isinstance(value, str) or bool(re.fullmatch(r"https?://\S+", value))


def closed(schema: Any) -> Any:
    """The same schema with every object closed: a field that the description does not know is an error here."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    same = {name: closed(inner) for name, inner in schema.items()}
    return {"additionalProperties": False} | same if "properties" in schema else same


def complaints(value: Any, schema: dict[str, Any]) -> list[str]:
    """What is wrong with a value under a schema of the description."""
    whole = closed({"components": DESCRIPTION["components"]}) | closed(schema)
    errors = Draft202012Validator(whole, format_checker=FORMATS).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in errors]


def schema_of(path: str, method: str, status: int) -> dict[str, Any]:
    response = DESCRIPTION["paths"][path][method]["responses"][str(status)]
    if "$ref" in response:
        response = DESCRIPTION["components"]["responses"][response["$ref"].rpartition("/")[2]]
    schema: dict[str, Any] = response["content"]["application/json"]["schema"]
    return schema


def component(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def check(answer: Answer, path: str, method: str) -> None:
    assert complaints(answer.json, schema_of(path, method, answer.status)) == []


def success(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["success", "data"],
        "properties": {"success": {"const": True}, "data": component(name)},
    }


GOLDEN = {
    "credits.json": schema_of("/credits", "get", 200),
    "upload_reserved.json": schema_of("/audio/uploads", "post", 200),
    "upload_stored.json": success("Uploaded"),
    "split_created.json": schema_of("/audio/splits", "post", 200),
    "split_processing.json": schema_of("/audio/splits/{id}", "get", 200),
    "split_succeeded.json": schema_of("/audio/splits/{id}", "get", 200),
    "split_failed.json": schema_of("/audio/splits/{id}", "get", 200),
    "error_401.json": schema_of("/credits", "get", 401),
    "error_402.json": schema_of("/audio/splits", "post", 402),
    "error_422.json": schema_of("/audio/splits", "post", 422),
    "error_429.json": schema_of("/audio/splits/{id}", "get", 429),
    "error_500.json": schema_of("/credits", "get", 500),
    "error_worker.json": component("FlatFailure"),
    "webhook_completed.json": component("WebhookEvent"),
    "webhook_failed.json": component("WebhookEvent"),
}


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("*.json")))
def test_a_golden_sample_validates(name: str) -> None:
    assert complaints(json.loads((SAMPLES / name).read_text(encoding="utf-8")), GOLDEN[name]) == []


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith(("credits", "upload", "split"))])
def test_a_golden_sample_without_any_one_of_its_fields_does_not_validate(name: str) -> None:
    sample = json.loads((SAMPLES / name).read_text(encoding="utf-8"))
    for field in set(sample["data"]) - {"stems"}:
        kept = {other: value for other, value in sample["data"].items() if other != field}
        assert complaints(sample | {"data": kept}, GOLDEN[name]), field


def test_every_schema_in_the_description_is_a_schema() -> None:
    for schema in DESCRIPTION["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


async def test_the_description_is_served_without_a_key(api: BareAPI) -> None:
    root = api.sandbox.base_url.removesuffix("/v1")
    answer = await api.send("GET", root + "/openapi.json")
    assert answer.status == 200
    assert answer.json["openapi"].startswith("3.1")
    assert answer.json["servers"][0]["url"] == api.sandbox.base_url
    assert answer.json["paths"] == DESCRIPTION["paths"]
    assert (await api.send("POST", root + "/openapi.json")).status == 405
    assert (await api.send("GET", root + "/elsewhere")).status == 404


async def test_every_reply_validates(connect: Connect, make_wav: MakeWav) -> None:
    async with connect(requests_per_minute=9) as api:
        data = make_wav()
        check(await api.call("GET", "/credits"), "/credits", "get")
        check(await api.call("GET", "/credits", key="ast_x"), "/credits", "get")
        body = {"filename": "a.wav", "contentType": "audio/wav", "contentLength": len(data)}
        reserved = await api.call("POST", "/audio/uploads", json=body)
        check(reserved, "/audio/uploads", "post")
        check(await api.call("POST", "/audio/uploads", json={}), "/audio/uploads", "post")
        created = await api.create(SONG, stemModel="6s")
        check(created, "/audio/splits", "post")
        check(await api.create("nowhere"), "/audio/splits", "post")
        api.sandbox.set_credits(0)
        check(await api.create(SONG), "/audio/splits", "post")
        check(await api.call("GET", f"/audio/splits/{created.json['data']['id']}"), "/audio/splits/{id}", "get")
        check(await api.call("GET", "/audio/splits/x"), "/audio/splits/{id}", "get")
        api.sandbox.faults.add("credits", faults.Status(500))
        check(await api.call("GET", "/credits"), "/credits", "get")
        check(await api.call("GET", "/credits"), "/credits", "get")
        assert {record.status for record in api.sandbox.ledger.requests} == {200, 401, 402, 404, 422, 429, 500}


async def test_unfinished_and_failed_splits_and_the_worker_validate(api: BareAPI, make_wav: MakeWav) -> None:
    api.sandbox.faults.add("create", faults.NeverFinishing())
    api.sandbox.faults.add("create", faults.FailedSplit())
    for status in ("processing", "failed"):
        split = await api.get((await api.create(SONG)).json["data"]["id"])
        assert split["status"] == status
        assert complaints(split, component("Split")) == []
    data = make_wav()
    uploaded = await api.put(await api.reserve(data), data)
    assert complaints(uploaded.json["data"], component("Uploaded")) == []
    refused = await api.put(await api.reserve(data), data, content_type="audio/mpeg")
    assert complaints(refused.json, component("FlatFailure")) == []


@pytest.mark.parametrize(
    "fault",
    [
        faults.MissingField("data.status"),
        faults.ChangedField("data.creditsUsed", "10"),
        faults.ChangedField("data.createdAt", "yesterday"),
        faults.ChangedField("data.stems", {}),
        faults.ChangedField("success", 1),
        faults.ExtraFields(),
    ],
)
async def test_a_reply_that_is_wrong_does_not_validate_so_the_proof_can_fail(api: BareAPI, fault: faults.Fault) -> None:
    split = await api.finish(SONG)
    api.sandbox.faults.add("get", fault)
    with pytest.raises(AssertionError):
        check(await api.call("GET", f"/audio/splits/{split['id']}"), "/audio/splits/{id}", "get")


def test_every_reference_in_the_description_leads_somewhere() -> None:
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                target: Any = DESCRIPTION
                for part in value["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(DESCRIPTION)
