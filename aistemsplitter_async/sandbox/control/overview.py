"""What goes on in a sandbox, told to whoever looks at it through `/control/`: looking changes nothing.

Reading a stem here is no request to the CDN: the ledger does not count it and no fault hits it, so a person who
listens in does not disturb the test that runs meanwhile.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from aistemsplitter_async.sandbox.http.ranges import plan_slice
from aistemsplitter_async.sandbox.http.replies import FilePart, Reply
from aistemsplitter_async.sandbox.separation.silence import build_silence
from aistemsplitter_async.sandbox.service.requests import RefusalError
from aistemsplitter_async.sandbox.service.state import Status
from aistemsplitter_async.sandbox.service.timeline import format_timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aistemsplitter_async.sandbox.plant import Plant
    from aistemsplitter_async.sandbox.service.account import Account
    from aistemsplitter_async.sandbox.service.ledger import Ledger
    from aistemsplitter_async.sandbox.service.state import Delivery, Split

ACTIVITY_SECONDS: Final = 60
_ACTIVITY_RECORDS: Final = 50_000  # looked through at most: a look must stay cheap beside a thousand requests a second
_OTHER_ORIGINS: Final = ("upload", "download")
_THROTTLED: Final = 429
_ATTEMPTS: Final = 5  # to deliver a webhook; what went before was no different
_CONTENT_TYPES: Final = {"wav": "audio/wav", "mp3": "audio/mpeg"}


def build_state(plant: Plant, ledger: Ledger, newest: int) -> dict[str, Any]:
    """Return what is going on, as JSON values, with so many of the newest splits; API keys are not in it."""
    statuses = Counter(split.status for split in plant.splits)
    return {
        "base_url": f"{plant.api_url}/v1",
        "worker_url": plant.uploads.origin,
        "cdn_url": plant.splits.origin,
        "now": format_timestamp(plant.clock.now()),
        "minute": plant.settings.minute,
        "window": plant.settings.window,
        "burst": plant.settings.burst,
        "separation": "silent" if plant.settings.silent else "real",
        "accounts": [_build_account(account, plant.clock.monotonic()) for account in plant.accounts.values()],
        "storage": {"used_bytes": plant.storage.used_bytes, "files": plant.storage.files},
        "requests": {"throttled": ledger.throttled, "counts": _count(ledger)},
        "deliveries": {str(status): n for status, n in sorted(ledger.delivery_counts.items())},
        "activity": build_activity(ledger, plant.clock.now()),
        "split_counts": {status.value: statuses[status] for status in Status},
        "splits": [_build_split(split) for split in islice(plant.splits, max(0, len(plant.splits) - newest), None)],
    }


def build_activity(ledger: Ledger, now: float) -> dict[str, list[int]]:
    """Return how many API requests were answered and how many throttled in each of the last 60 seconds, oldest first.

    Uploads and downloads are not in it, since they take no slot of a window.
    """
    answered, throttled = [0] * ACTIVITY_SECONDS, [0] * ACTIVITY_SECONDS
    for record in islice(reversed(ledger.requests), _ACTIVITY_RECORDS):
        age = int(now - record.at)
        if age >= ACTIVITY_SECONDS:
            break
        if record.operation not in _OTHER_ORIGINS:
            seconds = throttled if record.status == _THROTTLED else answered
            seconds[ACTIVITY_SECONDS - 1 - max(0, age)] += 1
    return {"answered": answered, "throttled": throttled}


def build_split_state(plant: Plant, split_id: str) -> dict[str, Any]:
    """Return one split with its stems, as JSON values; raise `RefusalError` where there is no such split."""
    split = _find(plant, split_id)
    stems = [{"name": stem.name, "filename": stem.filename, "size_bytes": stem.size_bytes} for stem in split.stems]
    return _build_split(split) | {"stems": stems}


def build_stem_reply(plant: Plant, headers: Mapping[str, str], split_id: str, filename: str) -> Reply:
    """Return a stem, or the part of it that `Range` asks for; raise `RefusalError` where there is none."""
    split = _find(plant, split_id)
    stem = next((stem for stem in split.stems if stem.filename == filename), None)
    if stem is None:
        raise RefusalError(404, "NOT_FOUND", "There is no such stem.")
    etag = f'"{stem.etag}"'
    part = plan_slice(headers, stem.size_bytes, etag)
    last = part.start + part.length - 1
    span = {206: f"bytes {part.start}-{last}/{stem.size_bytes}", 416: f"bytes */{stem.size_bytes}"}.get(part.status)
    answer = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Type": _CONTENT_TYPES.get(split.output_format, "application/octet-stream"),
        "Content-Disposition": "inline",
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    } | ({} if span is None else {"Content-Range": span})
    path = plant.storage.stem_folder(split.id) / stem.filename
    if path.exists():
        return Reply(part.status, FilePart(path, part.start, part.length), answer)
    return Reply(part.status, build_silence(split.output_format)[part.start : last + 1], answer)


def _find(plant: Plant, split_id: str) -> Split:
    split = plant.splits.find(split_id)
    if split is None:
        raise RefusalError(404, "NOT_FOUND", "There is no such split.")
    return split


def _count(ledger: Ledger) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for (operation, status), n in sorted(ledger.counts.items()):
        counts.setdefault(operation, {})[str(status)] = n
    return counts


def _build_account(account: Account, now: float) -> dict[str, Any]:
    window = None if account.window is None else account.window.admit(now, take=False)
    return {
        "account": account.label,
        "balance": account.balance,
        "limit": None if window is None else window.limit,
        "remaining": None if window is None else window.remaining,
        "retry_after": None if window is None else window.retry_after,
        "reset_after": None if window is None else window.reset_after,
    }


def _build_split(split: Split) -> dict[str, Any]:
    return {
        "id": split.id,
        "account": split.account,
        "status": split.status.value,
        "filename": split.filename,
        "stem_model": split.stem_model,
        "output_format": split.output_format,
        "seconds": split.seconds,
        "credits": split.credits,
        "created_at": format_timestamp(split.created_at),
        "updated_at": format_timestamp(split.updated_at),
        "polls": split.polls,
        "error": None if split.error is None else split.error.message,
        "webhook": None if split.webhook_url is None else _build_webhook(split.webhook_url, split.delivery),
    }


def _build_webhook(url: str, delivery: Delivery | None) -> dict[str, Any]:
    newest = () if delivery is None else delivery.attempts[-_ATTEMPTS:]
    return {
        "url": url,
        "state": None if delivery is None else delivery.state.value,
        "attempts": [
            {"at": format_timestamp(attempt.at), "status": attempt.status, "note": attempt.note} for attempt in newest
        ],
    }
