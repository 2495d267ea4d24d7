"""The wire by hand: request bodies parsed into values, replies built from values, refusals with their codes."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aistemsplitter_async.sandbox.service.requests import (
    DirectURL,
    ReservationRequest,
    SplitRequest,
    UploadedFile,
    invalid,
)
from aistemsplitter_async.sandbox.service.state import OUTPUT_FORMATS, STEM_MODELS
from aistemsplitter_async.sandbox.service.timeline import format_timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aistemsplitter_async.sandbox.service.state import Split, Upload


MAX_IDEMPOTENCY_KEY = 255
MAX_FILENAME = 1024


def parse_json(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`; refuse anything else, NaN and absurd depth included, with 422."""
    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
        json.dumps(body, ensure_ascii=False).encode()  # refuses half of a surrogate pair, which is no text
    except (ValueError, RecursionError):
        raise invalid("The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise invalid("The body must be a JSON object.")
    return body


def parse_reservation(body: Mapping[str, Any], *, max_upload_bytes: int) -> ReservationRequest:
    """Return the reservation asked for; refuse with 422 naming the first field that is wrong."""
    filename = _string(body, "filename")
    if len(filename) > MAX_FILENAME:
        raise invalid(f"filename must have at most {MAX_FILENAME} characters.")
    content_type = _string(body, "contentType")
    if "/" not in content_type or not content_type.isascii() or not content_type.isprintable():
        raise invalid("contentType must be a media type such as audio/mpeg.")
    length = body.get("contentLength")
    if not isinstance(length, int) or isinstance(length, bool):
        raise invalid("contentLength must be an integer number of bytes.")
    if length <= 0:
        raise invalid("contentLength must be positive.")
    if length > max_upload_bytes:
        raise invalid(f"contentLength must be at most {max_upload_bytes} bytes.")
    return ReservationRequest(filename, content_type, length)


def parse_split(body: Mapping[str, Any]) -> SplitRequest:
    """Return the split asked for; refuse with 422 naming the first field that is wrong. Unknown fields are ignored."""
    webhook_url = body.get("webhookUrl")
    if webhook_url is not None and (not isinstance(webhook_url, str) or not _is_http_url(webhook_url)):
        raise invalid("webhookUrl must be an http or https URL.")
    return SplitRequest(
        source=_parse_input(body.get("input")),
        stem_model=_choice(body, "stemModel", tuple(STEM_MODELS), "4s"),
        output_format=_choice(body, "outputFormat", OUTPUT_FORMATS, "mp3"),
        webhook_url=webhook_url,
    )


def parse_idempotency_key(header: str | None) -> str | None:
    """Return the key, or `None` where the header is absent; refuse an empty or overlong one with 422."""
    if header is None:
        return None
    if not header or len(header) > MAX_IDEMPOTENCY_KEY or not header.isprintable():
        raise invalid(f"Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY} printable characters.")
    return header


def build_success(data: Mapping[str, Any]) -> bytes:
    """Return the success envelope; upload worker and API share it."""
    return dump({"success": True, "data": data})


def build_failure(code: str, message: str) -> bytes:
    """Return the API's error envelope."""
    return dump({"success": False, "error": {"code": code, "message": message}})


def build_flat_failure(code: str, message: str) -> bytes:
    """Return the upload worker's error envelope, which is flat."""
    return dump({"success": False, "error": code, "message": message})


def build_reservation(upload: Upload, upload_url: str) -> dict[str, Any]:
    """Return `data` of `POST /audio/uploads`."""
    return {
        "uploadId": upload.id,
        "uploadUrl": upload_url,
        "uploadHeaders": {"X-Upload-Token": upload.token},
        "expiresAt": format_timestamp(upload.expires_at),
    }


def build_created(split: Split) -> dict[str, Any]:
    """Return `data` of `POST /audio/splits`: always `queued`, so that a replay is identical to the first answer."""
    return {
        "id": split.id,
        "status": "queued",
        "creditsUsed": split.credits,
        "createdAt": format_timestamp(split.created_at),
    }


def build_split(split: Split, stem_urls: Mapping[str, str]) -> dict[str, Any]:
    """Return `data` of `GET /audio/splits/{id}`; `stems` only where there are some."""
    data: dict[str, Any] = {
        "id": split.id,
        "status": split.status.value,
        "stemModel": split.stem_model,
        "filename": split.filename,
        "durationSeconds": round(split.seconds, 3),
        "creditsUsed": split.credits,
        "createdAt": format_timestamp(split.created_at),
        "updatedAt": format_timestamp(split.updated_at),
        "error": None if split.error is None else {"code": split.error.code, "message": split.error.message},
    }
    if stem_urls:
        data["stems"] = dict(stem_urls)
    return data


def build_webhook(split: Split) -> bytes:
    """Return the event that tells of a split's end, whichever it was."""
    return dump({"event": "audio.split.completed", "data": {"id": split.id, "status": split.status.value}})


def format_delay(seconds: float, *, minute: float) -> str:
    """Return a delay for a rate header, rounded up so that waiting it out is always enough.

    Whole seconds, as RFC 9110 has it; with a window shortened below a minute, seconds with three decimals, since a
    whole second would be out of all proportion to a shrunken minute.
    """
    if minute >= 60:  # noqa: PLR2004  the real length of a minute in seconds
        return str(max(1, math.ceil(seconds)))
    return f"{math.ceil(seconds * 1000 + 1e-6) / 1000:.3f}"


_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)  # building one costs as much as using it


def dump(value: object) -> bytes:
    """Return compact UTF-8 JSON."""
    return _encoder.encode(value).encode("utf-8", "replace")


def _parse_input(value: object) -> DirectURL | UploadedFile:
    if not isinstance(value, dict):
        raise invalid("input must be an object.")
    match value.get("type"):
        case "direct_url":
            url = _string(value, "url", "input.url")
            if not _is_http_url(url):
                raise invalid("input.url must be an http or https URL.")
            return DirectURL(url)
        case "uploaded_file":
            return UploadedFile(
                upload_id=_string(value, "uploadId", "input.uploadId"),
                file_url=_string(value, "fileUrl", "input.fileUrl"),
                storage_key=_string(value, "storageKey", "input.storageKey"),
            )
        case _:
            raise invalid("input.type must be direct_url or uploaded_file.")


def _string(body: Mapping[str, Any], field: str, path: str | None = None) -> str:
    value = body.get(field)
    if value is None:
        raise invalid(f"{path or field} is missing.")
    if not isinstance(value, str) or not value:
        raise invalid(f"{path or field} must be a non-empty string.")
    return value


def _choice(body: Mapping[str, Any], field: str, allowed: tuple[str, ...], default: str) -> str:
    value = body.get(field)
    if value is None:
        return default
    if value not in allowed:
        raise invalid(f"{field} must be one of {', '.join(allowed)}.")
    return str(value)


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
