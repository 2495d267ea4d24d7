"""One track in the report of a batch: a table row, and its stems as data for the page's scripts. Pure.

Everything from outside (names, messages, addresses) is written as text or as JSON in which no tag can begin.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from datetime import UTC
from pathlib import PurePath
from typing import Any, Final

import attrs

from aistemsplitter_async.cli.screen.render import clock, hide_keys, number, show, shown_source, words
from aistemsplitter_async.journal.record import Record, State, plan_reopening
from aistemsplitter_async.models import Split

# The states of a track that people care about: the name of each in the page, and its label.
DUPLICATE: Final = "duplicate"
KINDS: Final[Mapping[str, str]] = {
    "done": "Done",
    "failed": "Failed",
    "unfinished": "Unfinished",
    "review": "Needs review",
    DUPLICATE: "Duplicate",
}
_DATA_OPENS: Final = '<script type="application/json">'  # no other line begins with this
_DATA_CLOSES: Final = "</script>"
_EXACT: Final = 10.0  # s; shorter times are shown with a decimal
_RESUMED: Final = "It is continued when the batch is run again."


@attrs.frozen
class Stem:
    """The file of a stem, its address relative to the page, its size in bytes, and its waveform if there is one."""

    name: str
    file: str
    href: str
    size: int
    sha256: str
    peaks: bytes | None = None


def classify(record: Record) -> str:
    """Return which of `KINDS` a track is."""
    if record.state is State.NEEDS_REVIEW:
        return "review"
    if record.failure is not None:
        return "failed"
    return "done" if record.state in (State.DOWNLOADED, State.SUCCEEDED) else "unfinished"


def build_row(record: Record, stems: Sequence[Stem]) -> str:
    """Return the row of a track; the data for the scripts is on a line of its own."""
    kind, split, failure = classify(record), record.split, record.failure
    length = clock(split.duration_seconds) if split and split.duration_seconds is not None else None
    took = _took(split) if split else None
    created = split.created_at if split else None
    credits_used = None if record.credits_used is None else number(record.credits_used)
    shares = record.credits_used == 0 and split is not None and split.credits_used
    facts = {
        "Source": shown_source(record.source),
        "Folder": record.folder,
        "Split": record.split_id,
        "Model": split.stem_model if split else None,
        "Length": length,
        "Credits": "0, counted with the other track of this split" if shares else credits_used,
        "Processing": took,
        "Created": f"{created.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if created else None,
        "Error": (failure.code or failure.kind) if failure else None,
    }
    reason = f'<p class="reason">{text(f"{failure.stage}: {hide_keys(failure.message)}")}</p>' if failure else ""
    parent, title = _title(record)
    data = {
        "seconds": (split.duration_seconds if split else None) or 0.0,
        "hint": _hint(record, kind),
        "facts": [(name, show(fact)) for name, fact in facts.items() if fact],
        "stems": [_stem_data(stem) for stem in stems],
    }
    return (
        f'<tr class="split" role="row" data-state="{kind}" id="{_anchor(record.id)}"><th scope="row" role="rowheader">'
        '<button type="button" class="disclosure" aria-expanded="false">'
        f'<svg aria-hidden="true"><use href="#icon-chevron"/></svg><span>{text(title)}</span></button>'
        f'<p class="source">{text(parent)}</p>{reason}</th>'
        f'<td role="cell"><span class="status {kind}">{KINDS[kind]}</span></td>'
        f"{_cell('length', length)}{_cell('medium', credits_used)}{_cell('medium', took)}\n"
        f"{_DATA_OPENS}{_dump(data)}{_DATA_CLOSES}\n</tr>\n"
    )


def build_twin(source: str, first: str, track: int | None) -> str:
    """Return the row of a source with the same audio as `first`, whose row in the journal is `track`."""
    shown, shared = shown_source(source), text(shown_source(first))
    link = shared if track is None else f'<a href="#{_anchor(track)}">{shared}</a>'
    data = {"seconds": 0.0, "hint": "", "facts": [("Source", show(shown))], "stems": []}
    return (
        f'<tr class="split" role="row" data-state="{DUPLICATE}"><th scope="row" role="rowheader">'
        '<button type="button" class="disclosure" aria-expanded="false">'
        f'<svg aria-hidden="true"><use href="#icon-chevron"/></svg><span>{text(PurePath(shown).name)}</span></button>'
        f'<p class="source">{text(shown)}</p><p class="reason">the same audio as {link}, which it shares '
        f'its stems with</p></th><td role="cell"><span class="status {DUPLICATE}">{KINDS[DUPLICATE]}</span></td>'
        f"{_cell('length', None)}{_cell('medium', None)}{_cell('medium', None)}\n"
        f"{_DATA_OPENS}{_dump(data)}{_DATA_CLOSES}\n</tr>\n"
    )


def _anchor(track: int) -> str:
    return f"track{track}"


def parse_peaks(line: str) -> dict[str, bytes]:
    """Return the waveforms in one line of a report, by the SHA-256 of the files. Most lines have none.

    Raises:
        ValueError, TypeError, KeyError: the line was not written by `build_row`.
    """
    if not line.startswith(_DATA_OPENS):
        return {}
    stems = json.loads(line.strip().removeprefix(_DATA_OPENS).removesuffix(_DATA_CLOSES))["stems"]
    return {stem["sha256"]: base64.b64decode(stem["peaks"], validate=True) for stem in stems if stem["peaks"]}


def text(value: str) -> str:
    """Return `value` escaped for HTML text and attributes; what cannot be printed is written as an escape."""
    return html.escape(show(value))


def _title(record: Record) -> tuple[str, str]:
    """Return the parent folder and the title of a track: its stems' folder, and what their names share."""
    shared = record.pattern.replace("{stem}", "").strip(" -_.")
    folder, _, name = "/".join(part for part in (record.folder, shared) if part).rpartition("/")
    return folder or shown_source(record.source), name or PurePath(shown_source(record.source)).name


def _took(split: Split) -> str | None:
    if split.processing_seconds is None:
        return None
    seconds = max(0.0, split.processing_seconds)
    return f"{seconds:.1f} s" if seconds < _EXACT else words(seconds)


def _hint(record: Record, kind: str) -> str:
    if kind == "review":
        return "Its create was never answered and is not resent without --resend: check if the split exists."
    if record.failure is not None and not record.failure.passing:
        again = "bought" if plan_reopening(record.failure) else "tried"
        return f"It is {again} again when the batch is run with --retry-failed."
    return "" if kind == "done" else _RESUMED


def _stem_data(stem: Stem) -> dict[str, Any]:
    return {
        "name": show(stem.name),
        "file": show(stem.file),
        "href": stem.href,
        "size": stem.size,
        "sha256": stem.sha256,
        "peaks": base64.b64encode(stem.peaks or b"").decode(),
    }


def _cell(column: str, value: str | None) -> str:
    return f'<td role="cell" class="number {column}">{text(value or "-")}</td>'


def _dump(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
