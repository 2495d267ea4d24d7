"""The report of a batch apart from its tracks: one HTML document without outside references. Pure.

Its styles and scripts are those of the sandbox's page and a few more, all put into the document. The content
security policy names each by its hash and allows nothing else to run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import attrs

from aistemsplitter_async._version import __version__
from aistemsplitter_async._web import build_policy, read_asset
from aistemsplitter_async.batch.outcome import BatchReport
from aistemsplitter_async.cli.report.chart import Chart, draw_chart
from aistemsplitter_async.cli.report.row import KINDS, classify, text
from aistemsplitter_async.cli.screen.render import PROGRAM, charged, hide_keys, number, words
from aistemsplitter_async.errors import SplitFailedError
from aistemsplitter_async.journal.record import Record

_STYLES: Final = ("_web/page.css", "cli/report/web/report.css")
_SCRIPTS: Final = ("_web/dom.js", "_web/waveform.js", "_web/player.js", "cli/report/web/report.js")
_MINUTE: Final = 60.0

GENERATOR: Final = f"{PROGRAM} batch --report"  # identifies a report
NEXT_GROUP: Final = '</tbody>\n<tbody role="rowgroup">\n'  # between groups of rows, each laid out by itself


@attrs.define
class Tally:
    """All tracks in numbers, with those of earlier runs: how many of each kind, seconds of audio, credits, files."""

    kinds: Counter[str] = attrs.field(factory=Counter[str])
    seconds: float = 0.0
    credits_used: float = 0.0
    files: int = 0
    lost: float = 0.0  # of the credits, those for splits that failed

    def add(self, record: Record) -> None:
        """Count one track."""
        self.kinds[classify(record)] += 1
        self.seconds += (record.split.duration_seconds if record.split else None) or 0.0
        self.credits_used += record.credits_used or 0.0
        self.files += len(record.files)
        if record.failure is not None and record.failure.kind == SplitFailedError.__name__:
            self.lost += record.credits_used or 0.0


@attrs.frozen
class Summary:
    """The part of the report above the tracks.

    Attributes:
        title: of the page.
        at: when it is written (POSIX seconds).
        tally: of all tracks.
        report: of the newest run.
        requests: how many that run made.
        chart: of those requests.
        not_begun: sources that the run did not begin.
        workers: others that are at work on the same journal, each in words.
    """

    title: str
    at: float
    tally: Tally
    report: BatchReport
    requests: int
    chart: Chart
    not_begun: int = 0
    workers: Sequence[str] = ()


def build_frame(summary: Summary) -> tuple[str, str]:
    """Return the HTML before the rows and the HTML after them."""
    tally, report = summary.tally, summary.report
    style, script = _joined(_STYLES), _joined(_SCRIPTS)
    parts = {
        "policy": build_policy(script, style, {"media-src": "'self' file:"}),
        "style": style,
        "script": script,
        "title": text(summary.title),
        "made": f"{datetime.fromtimestamp(summary.at, UTC):%Y-%m-%d %H:%M} UTC",
        "notice": _notice(report) + _notice_workers(summary.workers),
        "library": _figures((tally.kinds[kind], name.lower(), kind) for kind, name in KINDS.items()),
        "shares": _shares(tally),
        "library-text": _sentence(
            f"{words(tally.seconds)} of audio", _count(tally.files, "stem"), charged(tally.credits_used, tally.lost)
        ),
        "run": _figures(
            [(report.done, "split", ""), (report.failed, "failed", "failed"), (report.skipped, "skipped", "")]
        ),
        "run-text": _sentence(
            words(report.seconds),
            charged(report.credits_used, 0, report.credits_used_by_all),
            _count(summary.requests, "request"),
            *([f"{number(summary.not_begun)} more not begun"] if summary.not_begun else []),
        ),
        "chart-title": "Requests against the limit" if summary.chart.limit else "Requests",
        "chart": draw_chart(summary.chart) if summary.requests else "",
        "chart-text": _describe_chart(summary),
        "states": _choices(tally),
        "generator": GENERATOR,
        "program": f"{PROGRAM} {__version__}",
    }
    before, after = read_asset("cli/report/web/report.html").split("{{rows}}\n")
    return _fill(before, parts), _fill(after, parts)


def _fill(template: str, parts: Mapping[str, str]) -> str:
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda found: parts[found[1]], template)


def _figures(figures: Iterable[tuple[int, str, str]]) -> str:
    """Return figures, each with a word; the first is shown even if it is 0."""
    return "".join(
        f'<p class="figure{" alarm" if kind == "failed" else ""}"><strong>{number(value)}</strong> {name}</p>'
        for index, (value, name, kind) in enumerate(figures)
        if value or not index
    )


def _shares(tally: Tally) -> str:
    """Return the kinds of tracks as parts of a bar that is 100 wide."""
    bars, left = "", 0.0
    for kind in KINDS:
        width = 100 * tally.kinds[kind] / max(1, tally.kinds.total())
        bars += f'<rect class="{kind}" x="{left:.3f}" width="{width:.3f}" height="1"/>' if width else ""
        left += width
    return bars


def _choices(tally: Tally) -> str:
    kinds = [("", "All", tally.kinds.total())] + [(kind, name, tally.kinds[kind]) for kind, name in KINDS.items()]
    return "".join(
        f'<label><input type="radio" name="state" value="{kind}"{"" if kind else " checked"}>{name}'
        f"<span>{number(tracks)}</span></label>"
        for kind, name, tracks in kinds
        if tracks or not kind
    )


def _notice(report: BatchReport) -> str:
    if report.stopped_by is None:
        return ""
    reason = text(hide_keys(str(report.stopped_by)))
    return f'<p class="notice">No more splits were created after this: {reason}</p>'


def _notice_workers(workers: Sequence[str]) -> str:
    if not workers:
        return ""
    who = text("; ".join(workers))
    return (
        f'<p class="notice">At work on this library too, so that what they have in hand is unfinished here: {who}</p>'
    )


def _describe_chart(summary: Summary) -> str:
    """Return the chart in words: for screen readers, and for exact figures."""
    chart, total = summary.chart, summary.requests
    if not total:
        return "The last run made no request."
    window = "a minute" if chart.per == _MINUTE else words(chart.per)
    limit = "; the limit is not known" if chart.limit is None else f"; the limit is {number(chart.limit)}"
    refused = sum(chart.refused)
    return (
        f"Requests to the API within {window}: {number(chart.peak)} at most{limit}. "
        + (f"{_count(refused, 'request')} answered 429, marked in red." if refused else "None was answered 429.")
        + (f" Shown are the newest {number(chart.total)} of {number(total)}." if chart.total < total else "")
    )


def _count(value: int, noun: str) -> str:
    return f"{number(value)} {noun}{'' if value == 1 else 's'}"


def _sentence(*parts: str) -> str:
    return " · ".join(parts)


def _joined(names: Iterable[str]) -> str:
    return "\n".join(["", *map(read_asset, names)])
