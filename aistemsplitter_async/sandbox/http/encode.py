"""Replies encoded by hand: `data` and envelopes from the service's values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aistemsplitter_async.sandbox.service.state import Split, Upload
from aistemsplitter_async.sandbox.service.timeline import format_timestamp


def build_success(data: Mapping[str, Any]) -> bytes:
    """Return the success envelope, the same for API and upload worker."""
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
    """Return `data` of `POST /audio/splits`: always `queued`, so that a replay equals the first answer."""
    return {
        "id": split.id,
        "status": "queued",
        "creditsUsed": split.credits,
        "createdAt": format_timestamp(split.created_at),
    }


def build_split(split: Split, stem_urls: Mapping[str, str]) -> dict[str, Any]:
    """Return `data` of `GET /audio/splits/{id}`; `stems` only if there are any."""
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
    """Return the event for a split that has ended, failed or not."""
    return dump({"event": "audio.split.completed", "data": {"id": split.id, "status": split.status.value}})


_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)  # building one costs as much as using it


def dump(value: object) -> bytes:
    """Return compact UTF-8 JSON."""
    return _encoder.encode(value).encode("utf-8", "replace")
