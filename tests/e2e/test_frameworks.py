"""FastAPI returns our values as they are, and its OpenAPI document says what they look like."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest

from aistemsplitter_async import (
    BatchReport,
    Credits,
    DirectURL,
    Done,
    Failed,
    Outcome,
    RateLimitedError,
    Skipped,
    Split,
    Submission,
    UploadedFile,
)

fastapi = pytest.importorskip("fastapi", reason="fastapi is not installed")

AT = datetime(2026, 5, 4, tzinfo=UTC)
SPLIT = Split("s", "succeeded", "4s", 214, AT, AT, "a.wav", 3.5, {"vocals": "https://c.example/v.mp3?t=1"})
OUTCOMES: list[Outcome] = [
    Done(Path("a.wav"), SPLIT, {"vocals": Path("out/vocals.mp3")}),
    Failed(b"bytes", "create", RateLimitedError("text", retry_after=3.0)),
    Skipped("https://a.example/s.mp3", "finished"),
]
REPORT = BatchReport(done=1, failed=1, skipped=1, credits_used=214, seconds=2.0, stopped_by=None)


async def ask(app: Any, path: str, body: Any = None) -> Any:
    """Make one request as an ASGI server does."""
    sent = b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"" if body is None else json.dumps(body).encode()}

    async def send(message: dict[str, Any]) -> None:
        nonlocal sent
        assert message.get("status", 200) in (200, 422)
        sent += message.get("body", b"")

    scope = {"type": "http", "method": "GET" if body is None else "POST", "path": path, "query_string": b""}
    await app(scope | {"headers": [(b"content-type", b"application/json")]}, receive, send)
    return json.loads(sent)


def returning(value: object) -> Any:
    async def answer() -> Any:
        return value

    return answer


def build_app() -> Any:
    app = fastapi.FastAPI()
    routes: dict[str, tuple[Any, Any]] = {
        "/split": (Split, SPLIT),
        "/credits": (Credits, Credits(3)),
        "/outcomes": (list[Outcome], OUTCOMES),
        "/report": (BatchReport, REPORT),
        "/inputs": (list[DirectURL | UploadedFile], [DirectURL("u"), UploadedFile("u", "f", "k")]),
        "/maybe": (Split | None, None),
        "/untyped": (None, {"all": [SPLIT, *OUTCOMES, OUTCOMES[1].error]}),  # type: ignore[union-attr]
    }
    for path, (model, value) in routes.items():
        app.get(path, response_model=model)(returning(value))

    async def resubmit(submission: Annotated[Any, fastapi.Body()]) -> Any:
        return {"bytes": len(submission.body)}

    resubmit.__annotations__["submission"] = Annotated[Submission, fastapi.Body()]
    app.post("/resubmit")(resubmit)
    return app


async def test_values_are_returned_as_they_are() -> None:
    app = build_app()
    assert await ask(app, "/split") == SPLIT.to_dict()
    assert await ask(app, "/credits") == {"balance": 3, "unit": "seconds"}
    assert await ask(app, "/outcomes") == [outcome.to_dict() for outcome in OUTCOMES]
    assert await ask(app, "/report") == REPORT.to_dict()
    assert [each["type"] for each in await ask(app, "/inputs")] == ["direct_url", "uploaded_file"]
    assert await ask(app, "/maybe") is None
    assert (await ask(app, "/untyped"))["all"][:4] == [SPLIT.to_dict(), *(outcome.to_dict() for outcome in OUTCOMES)]


async def test_values_are_read_and_what_is_wrong_is_named() -> None:
    app = build_app()
    submission = Submission("key", b'{"input": 1}')
    assert await ask(app, "/resubmit", submission.to_dict()) == {"bytes": len(submission.body)}
    refused = await ask(app, "/resubmit", {"idempotency_key": "key"})
    assert "Submission.body is missing" in refused["detail"][0]["msg"]


async def test_the_openapi_document_describes_them() -> None:
    document = await ask(build_app(), "/openapi.json")
    schema = document["paths"]["/split"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert list(schema["properties"]) == list(SPLIT.to_dict())
    assert schema["properties"]["created_at"]["anyOf"][0] == {"type": "string", "format": "date-time"}
    assert '"const": "Failed"' in json.dumps(document["paths"]["/outcomes"])
    body = document["paths"]["/resubmit"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["idempotency_key", "body"]


def test_the_code_in_the_document_runs() -> None:
    document = (Path(__file__).parents[2] / "docs" / "values.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    exec(compile(code, "docs/values.md", "exec"), {})  # noqa: S102  # our own docs
