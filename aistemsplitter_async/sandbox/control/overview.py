"""The state of a sandbox as `/control/` shows it. Reading it changes nothing.

Reading a stem here is not a request to the CDN: the ledger does not count it and no fault applies to it, so that
listening to a stem does not disturb a running test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from aistemsplitter_async.sandbox.http.addresses import Addresses
from aistemsplitter_async.sandbox.http.refusals import not_found
from aistemsplitter_async.sandbox.http.replies import Reply
from aistemsplitter_async.sandbox.http.stems import build_stem_reply
from aistemsplitter_async.sandbox.service.account import Access
from aistemsplitter_async.sandbox.service.ledger import Ledger
from aistemsplitter_async.sandbox.service.service import Service
from aistemsplitter_async.sandbox.service.state import Delivery, Split, Status
from aistemsplitter_async.sandbox.service.timeline import format_timestamp

ACTIVITY_SECONDS: Final = 60
_ACTIVITY_RECORDS: Final = 50_000  # searched at most: this must stay cheap at a thousand requests a second
_OTHER_ORIGINS: Final = ("upload", "download")
_THROTTLED: Final = 429
_ATTEMPTS: Final = 5  # to deliver a webhook; those before were no different
_STEM_HEADERS: Final = {
    "Content-Disposition": "inline",
    "Cache-Control": "private, no-cache",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def build_state(service: Service, addresses: Addresses, newest: int) -> dict[str, Any]:
    """Return the state as JSON values, with the `newest` splits; API keys are not in it."""
    settings, clock, ledger, splits = service.settings, service.clock, service.ledger, service.splits
    statuses = Counter(split.status for split in splits)
    return {
        "base_url": f"{addresses.api}/v1",
        "worker_url": addresses.worker,
        "cdn_url": addresses.cdn,
        "now": format_timestamp(clock.now()),
        "minute": settings.minute,
        "window": settings.window,
        "burst": settings.burst,
        "separation": "silent" if settings.silent else "real",
        "accounts": [_build_account(access, clock.monotonic()) for access in _newest_accesses(service)],
        "storage": {"used_bytes": service.storage.used_bytes, "files": service.storage.files},
        "requests": {"throttled": ledger.throttled, "counts": ledger.count_by_operation()},
        "deliveries": {str(status): n for status, n in sorted(ledger.delivery_counts.items())},
        "activity": build_activity(ledger, clock.now()),
        "split_counts": {status.value: statuses[status] for status in Status},
        "splits": [_build_split(split) for split in islice(splits, max(0, len(splits) - newest), None)],
    }


def build_activity(ledger: Ledger, now: float) -> dict[str, list[int]]:
    """Return how many API requests were answered and how many throttled in each of the last 60 seconds, oldest first.

    Uploads and downloads are not counted, since they do not count against a window.
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


def build_split_state(service: Service, split_id: str) -> dict[str, Any]:
    """Return one split with its stems, as JSON values; raise `RefusalError` if there is no such split."""
    split = _find(service, split_id)
    stems = [{"name": stem.name, "filename": stem.filename, "size_bytes": stem.size_bytes} for stem in split.stems]
    return _build_split(split) | {"stems": stems}


def build_listening_reply(service: Service, headers: Mapping[str, str], split_id: str, filename: str) -> Reply:
    """Return a stem, or the part of it that `Range` asks for; raise `RefusalError` if there is none."""
    split = _find(service, split_id)
    stem = split.find_stem(filename)
    if stem is None:
        raise not_found("stem")
    return build_stem_reply(headers, service.storage, split, stem, _STEM_HEADERS, etag=stem.etag)


def _find(service: Service, split_id: str) -> Split:
    split = service.splits.find(split_id)
    if split is None:
        raise not_found("split")
    return split


def _newest_accesses(service: Service) -> list[Access]:
    """Return the access by the newest key of each account."""
    return list({access.account.label: access for access in service.accesses.values()}.values())


def _build_account(access: Access, now: float) -> dict[str, Any]:
    account = access.account
    window = None if access.window is None else access.window.admit(now, take=False)
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
