"""Requests decoded by hand: JSON bodies and headers become values, or an `InvalidRequestError` says what is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from aistemsplitter_async.sandbox.separation.separate import OUTPUT_FORMATS, STEMS
from aistemsplitter_async.sandbox.service.errors import InvalidRequestError
from aistemsplitter_async.sandbox.service.idempotency import compute_fingerprint
from aistemsplitter_async.sandbox.service.requests import (
    CreateRequest,
    DirectURL,
    ReservationRequest,
    SplitRequest,
    UploadedFile,
)

MAX_IDEMPOTENCY_KEY = 255
MAX_FILENAME = 1024


def parse_json(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`; refuse anything else, NaN and absurd depth included."""
    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
        json.dumps(body, ensure_ascii=False).encode()  # refuses a lone surrogate: it is not text
    except (ValueError, RecursionError):
        raise InvalidRequestError("The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    return body


def parse_create(raw: bytes, key_header: str | None) -> CreateRequest:
    """Return the request of a `POST /audio/splits`."""
    key = parse_idempotency_key(key_header)
    body = parse_json(raw)
    return CreateRequest(parse_split(body), key, compute_fingerprint(body), hashlib.sha256(raw).hexdigest())


def parse_reservation(body: Mapping[str, Any], *, max_upload_bytes: int) -> ReservationRequest:
    """Return the reservation that a body asks for; refuse it with the name of the first wrong field."""
    filename = _string(body, "filename")
    if len(filename) > MAX_FILENAME:
        raise InvalidRequestError(f"filename must have at most {MAX_FILENAME} characters.")
    content_type = _string(body, "contentType")
    if "/" not in content_type or not content_type.isascii() or not content_type.isprintable():
        raise InvalidRequestError("contentType must be a media type such as audio/mpeg.")
    length = body.get("contentLength")
    if not isinstance(length, int) or isinstance(length, bool):
        raise InvalidRequestError("contentLength must be an integer number of bytes.")
    if length <= 0:
        raise InvalidRequestError("contentLength must be positive.")
    if length > max_upload_bytes:
        raise InvalidRequestError(f"contentLength must be at most {max_upload_bytes} bytes.")
    return ReservationRequest(filename, content_type, length)


def parse_split(body: Mapping[str, Any]) -> SplitRequest:
    """Return the split that a body asks for; refuse it with the name of the first wrong field, ignore unknown ones."""
    webhook_url = body.get("webhookUrl")
    if webhook_url is not None and (not isinstance(webhook_url, str) or not _is_http_url(webhook_url)):
        raise InvalidRequestError("webhookUrl must be an http or https URL.")
    return SplitRequest(
        source=_parse_input(body.get("input")),
        stem_model=_choice(body, "stemModel", tuple(STEMS), "4s"),
        output_format=_choice(body, "outputFormat", OUTPUT_FORMATS, "mp3"),
        webhook_url=webhook_url,
    )


def parse_idempotency_key(header: str | None) -> str | None:
    """Return the key, or `None` if there is no such header; refuse an empty or overlong one."""
    if header is None:
        return None
    if not header or len(header) > MAX_IDEMPOTENCY_KEY or not header.isprintable():
        raise InvalidRequestError(f"Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY} printable characters.")
    return header


def _parse_input(value: object) -> DirectURL | UploadedFile:
    if not isinstance(value, dict):
        raise InvalidRequestError("input must be an object.")
    match value.get("type"):
        case "direct_url":
            url = _string(value, "url", "input.url")
            if not _is_http_url(url):
                raise InvalidRequestError("input.url must be an http or https URL.")
            return DirectURL(url)
        case "uploaded_file":
            return UploadedFile(
                upload_id=_string(value, "uploadId", "input.uploadId"),
                file_url=_string(value, "fileUrl", "input.fileUrl"),
                storage_key=_string(value, "storageKey", "input.storageKey"),
            )
        case _:
            raise InvalidRequestError("input.type must be direct_url or uploaded_file.")


def _string(body: Mapping[str, Any], field: str, path: str | None = None) -> str:
    value = body.get(field)
    if value is None:
        raise InvalidRequestError(f"{path or field} is missing.")
    if not isinstance(value, str) or not value:
        raise InvalidRequestError(f"{path or field} must be a non-empty string.")
    return value


def _choice(body: Mapping[str, Any], field: str, allowed: tuple[str, ...], default: str) -> str:
    value = body.get(field)
    if value is None:
        return default
    if value not in allowed:
        raise InvalidRequestError(f"{field} must be one of {', '.join(allowed)}.")
    return str(value)


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
