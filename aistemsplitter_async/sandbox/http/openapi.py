"""An OpenAPI 3.1 description of the API as far as it is documented, written by hand, served at `/openapi.json`."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from aistemsplitter_async.sandbox.http.encode import dump
from aistemsplitter_async.sandbox.http.refusals import not_allowed
from aistemsplitter_async.sandbox.http.replies import JSON_HEADERS, Reply, build_refusal_reply

_TEXT: Final = {"type": "string"}
_TIME: Final = {"type": "string", "format": "date-time"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_ADDRESS: Final = {"type": "string", "format": "uri"}
_STATUS: Final = {
    "type": "string",
    "description": "An open set: treat an unknown status as not terminal.",
    "examples": ["queued", "processing", "succeeded", "failed"],
}
_STEM_MODEL: Final = {
    "type": "string",
    "description": "4s: vocals, drums, bass, other. 6s: those plus guitar and piano. An open set in replies.",
    "examples": ["4s", "6s"],
}


def _object(required: str, /, description: str = "", **properties: Any) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "object", "required": required.split(), "properties": properties}
    return value | ({"description": description} if description else {})


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _success(name: str, description: str) -> dict[str, Any]:
    return _json(_object("success data", success={"const": True}, data=_ref(name)), description)


_ERRORS: Final = {
    "401": {"$ref": "#/components/responses/Unauthorized"},
    "429": {"$ref": "#/components/responses/RateLimited"},
    "500": {"$ref": "#/components/responses/ServerError"},
}
_INVALID: Final = {"422": {"$ref": "#/components/responses/Invalid"}}

_SCHEMAS: Final[dict[str, Any]] = {
    "Credits": _object("balance unit", balance=_COUNT, unit={"const": "seconds"}),
    "ReservationRequest": _object(
        "filename contentType contentLength",
        filename=_TEXT,
        contentType=_TEXT,
        contentLength={"type": "integer", "minimum": 1},
    ),
    "Reservation": _object(
        "uploadId uploadUrl uploadHeaders expiresAt",
        uploadId=_TEXT,
        uploadUrl=_ADDRESS,
        uploadHeaders={"type": "object", "additionalProperties": _TEXT},
        expiresAt=_TIME,
    ),
    "Uploaded": _object("url key", url=_ADDRESS, key=_TEXT),
    "DirectURL": _object("type url", type={"const": "direct_url"}, url=_ADDRESS),
    "UploadedFile": _object(
        "type uploadId fileUrl storageKey",
        "`fileUrl` and `storageKey` are the upload worker's `url` and `key`.",
        type={"const": "uploaded_file"},
        uploadId=_TEXT,
        fileUrl=_ADDRESS,
        storageKey=_TEXT,
    ),
    "SplitRequest": _object(
        "input",
        input={"oneOf": [_ref("DirectURL"), _ref("UploadedFile")]},
        stemModel={"enum": ["4s", "6s"]},
        outputFormat={"enum": ["mp3", "wav"]},
        webhookUrl=_ADDRESS,
    ),
    "CreatedSplit": _object(
        "id status creditsUsed createdAt", id=_TEXT, status=_STATUS, creditsUsed=_COUNT, createdAt=_TIME
    ),
    "Split": _object(
        "id status stemModel filename durationSeconds creditsUsed createdAt updatedAt error",
        "`stems` is there once the split has succeeded.",
        id=_TEXT,
        status=_STATUS,
        stemModel=_STEM_MODEL,
        filename=_TEXT,
        durationSeconds={"type": "number", "minimum": 0},
        creditsUsed=_COUNT,
        createdAt=_TIME,
        updatedAt=_TIME,
        stems={"type": "object", "minProperties": 1, "additionalProperties": _ADDRESS},
        error={"oneOf": [{"type": "null"}, _ref("Error")]},
    ),
    "Error": _object("code message", code=_TEXT, message=_TEXT),
    "Failure": _object("success error", success={"const": False}, error=_ref("Error")),
    "FlatFailure": _object(
        "success error message",
        "The upload worker's own shape of an error.",
        success={"const": False},
        error=_TEXT,
        message=_TEXT,
    ),
    "WebhookEvent": _object(
        "event data",
        event={"type": "string", "examples": ["audio.split.completed"]},
        data=_object("id status", id=_TEXT, status=_STATUS),
    ),
}


def _operation(summary: str, name: str, schema: str, **more: Any) -> dict[str, Any]:
    errors = _ERRORS | more.pop("errors", {})
    responses = {"200": _success(schema, summary), **errors}
    return {"operationId": name, "summary": summary, "responses": responses, **more}


def _body(schema: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": _ref(schema)}}}


_KEY_HEADER: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "One key, one split, one charge. How long it is remembered is not published.",
}
_ID: Final = {"name": "id", "in": "path", "required": True, "schema": _TEXT, "description": "Percent-encoded."}
_FAILURE: Final = _ref("Failure")

DESCRIPTION: Final[dict[str, Any]] = {
    "openapi": "3.1.0",
    "info": {
        "title": "AIStemSplitter API",
        "version": "v1",
        "description": "From the public API page and the official clients; what they leave open is open here.",
    },
    "servers": [{"url": "https://api.aistemsplitter.org/v1"}],
    "security": [{"bearer": []}],
    "paths": {
        "/credits": {"get": _operation("The balance; a credit is a second of audio.", "getCredits", "Credits")},
        "/audio/uploads": {
            "post": _operation(
                "Reserve an upload, then POST the bytes to `uploadUrl` with every one of `uploadHeaders`.",
                "createUpload",
                "Reservation",
                requestBody=_body("ReservationRequest"),
                errors=_INVALID,
            )
        },
        "/audio/splits": {
            "post": _operation(
                "Create a split of an uploaded file or of a URL.",
                "createSplit",
                "CreatedSplit",
                parameters=[_KEY_HEADER],
                requestBody=_body("SplitRequest"),
                errors=_INVALID | {"402": {"$ref": "#/components/responses/InsufficientCredits"}},
            )
        },
        "/audio/splits/{id}": {
            "get": _operation(
                "Poll a split.",
                "getSplit",
                "Split",
                parameters=[_ID],
                errors={"404": {"$ref": "#/components/responses/NotFound"}},
            )
        },
    },
    "webhooks": {
        "splitCompleted": {
            "post": {
                "summary": "A split has ended. `AIStemSplitter-Signature: t=..,v1=..` signs `t.body` (HMAC-SHA256).",
                "requestBody": _body("WebhookEvent"),
                "responses": {"2XX": {"description": "Accepted."}},
            }
        }
    },
    "components": {
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": "Keys start with ast_."}},
        "responses": {
            "Unauthorized": _json(_FAILURE, "UNAUTHORIZED: missing or invalid key."),
            "InsufficientCredits": _json(_FAILURE, "INSUFFICIENT_CREDITS: not enough credits."),
            "Invalid": _json(_FAILURE, "VALIDATION_ERROR: invalid body or audio source."),
            "RateLimited": _json(_FAILURE, "RATE_LIMITED: this key exceeded its per-minute limit."),
            "ServerError": _json(_FAILURE, "SERVER_ERROR: internal error."),
            "NotFound": _json(_FAILURE, "NOT_FOUND: no such split of this key."),
        },
        "schemas": _SCHEMAS,
    },
}


async def serve_description(request: web.BaseRequest) -> Reply:
    """Answer `GET /openapi.json`, with this sandbox as the server."""
    if request.method not in ("GET", "HEAD"):
        return build_refusal_reply(not_allowed("Only GET.", "GET, HEAD"))
    here = {"url": f"http://{request.headers.get('Host', 'localhost')}/v1"}
    description = DESCRIPTION | {"servers": [here, *DESCRIPTION["servers"]]}
    return Reply(200, dump(description), JSON_HEADERS)
