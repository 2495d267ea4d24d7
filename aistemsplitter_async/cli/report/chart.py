"""The requests of a run against the key's limit, as a chart. Pure: times in, SVG out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import attrs

from aistemsplitter_async.cli.screen.render import clock, number

TOO_MANY = 429
_COLUMNS = 480  # more than a phone has pixels, and enough for a wide screen
_HEADROOM = 1.18  # times the highest value: room for the text at the limit's line
_TICKS = 6  # at most, on the axis of time
_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400)  # s


@attrs.frozen
class Chart:
    """The chart as figures.

    Attributes:
        total: how many requests it shows.
        seconds: from the first request to the last.
        levels: per column, the most requests in any window that ends in it.
        refused: per column, how many requests were answered 429.
        limit: requests per window, if that is known.
        per: seconds of a window.
    """

    total: int
    seconds: float
    levels: Sequence[int]
    refused: Sequence[int]
    limit: int | None
    per: float

    @property
    def peak(self) -> int:
        """The most requests in any window."""
        return max(self.levels, default=0)


def build_chart(
    sent: Iterable[tuple[float, int | None]], limit: int | None, per: float, *, columns: int = _COLUMNS
) -> Chart:
    """Return the chart of requests, each its time (seconds of any clock) and HTTP status.

    A column shows the most requests that a window of `per` seconds held at any moment of the column.
    """
    sent = sorted(sent, key=lambda one: one[0])
    if not sent:
        return Chart(0, 0.0, (), (), limit, per)
    times = [at for at, _ in sent]
    began, seconds = times[0], times[-1] - times[0]
    levels, refused = [0] * columns, [0] * columns
    for index, (at, status) in enumerate(sent):
        column = min(columns - 1, int((at - began) / seconds * columns)) if seconds else columns - 1
        oldest = bisect_right(times, at - per)
        levels[column] = max(levels[column], index + 1 - oldest)
        refused[column] += status == TOO_MANY
    for column in range(columns):  # between requests the window empties
        edge = began + seconds * (column + 0.5) / columns
        held = bisect_right(times, edge) - bisect_right(times, edge - per)
        levels[column] = max(levels[column], held)
    return Chart(len(sent), seconds, levels, refused, limit, per)


def draw_chart(chart: Chart) -> str:
    """Return the chart as SVG that fills the available width; its text is not stretched. Hidden from screen readers."""
    top = max(chart.peak, chart.limit or 0, 1) * _HEADROOM
    columns = len(chart.levels)
    steps = "".join(f"H{at}V{_round(top - level)}H{at + 1}" for at, level in enumerate(chart.levels))
    area = f'<path class="used" d="M0 {_round(top)}{steps}V{_round(top)}Z"/>'
    marks = "".join(
        f'<rect class="refused" x="{at - 0.6:g}" y="{_round(top * 0.9)}" width="2.2" height="{_round(top * 0.1)}"/>'
        for at, count in enumerate(chart.refused)
        if count
    )
    height = f"{100 - (chart.limit or chart.peak) / top * 100:.2f}%"
    words = f"at most {number(chart.peak)}" if chart.limit is None else f"limit {number(chart.limit)}"
    line = (
        f'<line class="limit" x1="0" x2="100%" y1="{height}" y2="{height}"/>'
        f'<text class="limit-text" x="0" y="{height}" dy="-6">{words}</text>'
    )
    return (
        '<svg class="chart" aria-hidden="true" focusable="false">'
        f'<svg viewBox="0 0 {columns} {_round(top)}" preserveAspectRatio="none">{area}{marks}</svg>{line}</svg>'
        f'<svg class="ticks" aria-hidden="true" focusable="false">{"".join(_ticks(chart.seconds))}</svg>'
    )


def _ticks(seconds: float) -> Iterable[str]:
    step = next((step for step in _STEPS if seconds / step < _TICKS), _STEPS[-1] * (int(seconds) // _STEPS[-1] + 1))
    for at in range(0, int(seconds) + 1, step):
        share = at / seconds if seconds else 0.0
        anchor = "start" if share < 0.02 else "end" if share > 0.96 else "middle"  # noqa: PLR2004  # shares of the width
        yield f'<text x="{share * 100:.2f}%" y="12" text-anchor="{anchor}">{clock(at)}</text>'


def _round(value: float) -> str:
    return f"{value:.4g}"
