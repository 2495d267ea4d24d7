"""The content of a live terminal at one moment, as a value, and its drawing with rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from aistemsplitter_async.cli.screen.render import show

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_MAX_ROWS = 6  # more would push the results off a small screen
_WIDE = 72  # columns from which a row has room for a bar
_ROW_BAR = 20  # columns
_BAR, _MIN_BAR = 30, 8  # columns of the bar above the rows: a longer one says no more, a shorter one nothing


@attrs.frozen
class Row:
    """One source: its name, what is being done with it, and how much of that is done (0 to 1), if that is known."""

    name: str
    doing: str
    fraction: float | None = None


@attrs.frozen(kw_only=True)
class Frame:
    """The live lines, from top to bottom.

    Attributes:
        title: the progress of the whole command; empty if there is only one source.
        fraction: the same from 0 to 1, `None` if that is not known.
        time: how long it has taken, and may still take.
        facts: lines about the whole command.
        rows: the sources in work.
        notices: the reasons why everything is held up.
    """

    title: str = ""
    fraction: float | None = None
    time: str = ""
    facts: Sequence[str] = ()
    rows: Sequence[Row] = ()
    notices: Sequence[str] = ()


def draw(frame: Frame, width: int) -> RenderableType:
    """Return a frame for a terminal of `width` columns."""
    from rich.console import Group  # noqa: PLC0415  # only a terminal needs it

    lines: list[RenderableType] = [_draw_title(frame, width)] if frame.title else []
    lines += [_line(fact, "dim") for fact in frame.facts]
    lines += [_draw_rows(frame.rows[:_MAX_ROWS], width)] if frame.rows else []
    lines += [_line(notice, "yellow", wraps=True) for notice in frame.notices]
    return Group(*lines)


def _draw_title(frame: Frame, width: int) -> Table:
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    room = min(_BAR, width - 1 - len(frame.title) - len(frame.time) - 2)
    known = frame.fraction is not None
    bar = ProgressBar(total=1.0 if known else None, completed=frame.fraction or 0.0, width=room, pulse=not known)
    table = Table.grid(padding=(0, 1))
    table.add_row(_line(frame.title, "bold"), *([bar] if room >= _MIN_BAR else []), _line(frame.time, "dim"))
    return table


def _draw_rows(rows: Sequence[Row], width: int) -> Table:
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    has_bars = width >= _WIDE and any(row.fraction is not None for row in rows)
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(10, width // (3 if has_bars else 2)))
    for row in rows:
        bar = _line("") if row.fraction is None else ProgressBar(total=1.0, completed=row.fraction, width=_ROW_BAR)
        table.add_row(_line(row.name, "bold"), *([bar] if has_bars else []), _line(row.doing))
    return table


def _line(text: str, style: str = "", *, wraps: bool = False) -> Text:
    from rich.text import Text  # noqa: PLC0415

    return Text(show(text), style=style, no_wrap=not wraps, overflow="fold" if wraps else "ellipsis")
