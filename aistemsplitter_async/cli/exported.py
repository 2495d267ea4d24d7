"""A row of the journal as `journal export` writes it, as JSON or as CSV. Pure.

The names are a contract; later versions may add some at the end. Nothing in it grants access: neither the URLs of stems
and uploads nor the query of a source's URL.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aistemsplitter_async._plain import redact_text, to_plain
from aistemsplitter_async.cli.screen.render import hide_keys, shown_source
from aistemsplitter_async.journal.matching import delivered
from aistemsplitter_async.journal.record import Record

FIELDS: Final = (
    *("track", "source", "state", "split_id", "credits_used", "seconds", "stem_model", "output_format", "created_at"),
    *("folder", "files", "failure", "idempotency_key"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would carry out


def build_row(record: Record) -> dict[str, Any]:
    """Return the object of a record; its names are `FIELDS`."""
    got = delivered(record)
    split, failure, submission = record.split, record.failure, record.submission
    values = {
        "track": record.id,
        "source": shown_source(record.source),
        "state": record.state.value,
        "split_id": record.split_id,
        "credits_used": record.credits_used,
        "seconds": split.duration_seconds if split is not None else None,
        "stem_model": got.stem_model or record.asked.stem_model,
        "output_format": got.output_format or record.asked.output_format,
        "created_at": None if record.created_at is None else _format_time(record.created_at),
        "folder": record.folder,
        "files": [
            {"stem": stem, "path": file.path, "bytes": file.size, "sha256": file.sha256}
            for stem, file in record.files.items()
        ],
        "failure": None
        if failure is None
        else {
            "stage": failure.stage,
            "code": failure.code or failure.kind,
            "message": hide_keys(redact_text(failure.message)),
        },
        "idempotency_key": None if submission is None else submission.idempotency_key,
    }
    return {name: to_plain(values[name]) for name in FIELDS}


def format_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as JSON, one a line."""
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def format_csv(rows: Sequence[Mapping[str, Any]], *, header: bool) -> str:
    """Return rows as CSV: of files their paths as a JSON list, of a failure its code and message.

    What a spreadsheet would carry out as a formula has an apostrophe before it.
    """
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    if header:
        writer.writerow(FIELDS)
    for row in rows:
        failure = row["failure"]
        flat = {
            **row,
            "files": json.dumps([file["path"] for file in row["files"]], ensure_ascii=False) if row["files"] else "",
            "failure": None if failure is None else f"{failure['code']}: {failure['message']}",
        }
        writer.writerow([_make_safe(flat[name]) for name in FIELDS])
    return written.getvalue()


def _make_safe(value: object) -> object:
    if not isinstance(value, str):
        return value
    line = value.replace("\r", " ").replace("\n", " ")  # a row is a line
    return f"'{line}" if line.startswith(_FORMULA) else line


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
