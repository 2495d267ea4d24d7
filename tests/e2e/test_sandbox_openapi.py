"""The OpenAPI description is true: what the sandbox answers validates against it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from aistemsplitter_async.sandbox import faults
from aistemsplitter_async.sandbox.openapi import DESCRIPTION

if TYPE_CHECKING:
    from tests.e2e.conftest import Answer, BareAPI, Connect, MakeWav

SONG = "https://example.com/a.mp3?seconds=10"
TYPES: dict[str, Any] = {"string": str, "object": dict, "integer": int, "number": (int, float), "null": type(None)}
FORMATS = {"date-time": re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "uri": re.compile(r"https?://\S+")}
KNOWN = {
    *("$ref", "type", "required", "properties", "additionalProperties", "oneOf", "const", "enum", "minimum"),
    *("minProperties", "format", "description", "examples", "minLength", "maxLength"),
}


def complaints(value: Any, schema: dict[str, Any], path: str = "$") -> list[str]:
    """What is wrong with a value under the JSON Schema words that the description uses; unknown words are an error."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        return complaints(value, DESCRIPTION["components"]["schemas"][schema["$ref"].rpartition("/")[2]], path)
    if "oneOf" in schema:
        fits = [one for one in schema["oneOf"] if not complaints(value, one, path)]
        return [] if len(fits) == 1 else [f"{path} fits {len(fits)} of oneOf"]
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or isinstance(value, bool)):
        return [f"{path} is no {kind}"]
    found = []
    if "const" in schema and (value != schema["const"] or type(value) is not type(schema["const"])):
        found.append(f"{path} is not {schema['const']!r}")
    if value not in schema.get("enum", [value]):
        found.append(f"{path} is not in the enum")
    if kind in ("integer", "number") and value < schema.get("minimum", value):
        found.append(f"{path} is too small")
    if "format" in schema and not FORMATS[schema["format"]].fullmatch(value):
        found.append(f"{path} is no {schema['format']}")
    return found + (inner_complaints(value, schema, path) if isinstance(value, dict) else [])


def inner_complaints(value: dict[str, Any], schema: dict[str, Any], path: str) -> list[str]:
    found = [f"{path}.{name} is missing" for name in schema.get("required", []) if name not in value]
    if len(value) < schema.get("minProperties", 0):
        found.append(f"{path} is empty")
    for name, inner in value.items():
        known = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
        found += [f"{path}.{name} is unknown"] if known is None else complaints(inner, known, f"{path}.{name}")
    return found


def check(answer: Answer, path: str, method: str) -> None:
    response = DESCRIPTION["paths"][path][method]["responses"][str(answer.status)]
    if "$ref" in response:
        response = DESCRIPTION["components"]["responses"][response["$ref"].rpartition("/")[2]]
    assert complaints(answer.json, response["content"]["application/json"]["schema"]) == []


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
    schemas = DESCRIPTION["components"]["schemas"]
    api.sandbox.faults.add("create", faults.NeverFinishing())
    api.sandbox.faults.add("create", faults.FailedSplit())
    for status in ("processing", "failed"):
        split = await api.get((await api.create(SONG)).json["data"]["id"])
        assert split["status"] == status
        assert complaints(split, schemas["Split"]) == []
    data = make_wav()
    uploaded = await api.put(await api.reserve(data), data)
    assert complaints(uploaded.json["data"], schemas["Uploaded"]) == []
    refused = await api.put(await api.reserve(data), data, content_type="audio/mpeg")
    assert complaints(refused.json, schemas["FlatFailure"]) == []


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
