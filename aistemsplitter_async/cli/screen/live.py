"""Progress on stderr: a few live lines on a terminal, plain lines anywhere else. Never silent for long."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aistemsplitter_async.cli.screen.board import DOWNLOADING, OVER, STARTING, UPLOADING, Board, Track
from aistemsplitter_async.cli.screen.region import Region
from aistemsplitter_async.cli.screen.render import show, size
from aistemsplitter_async.cli.screen.terminal import Terminal

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

_FRAME = 0.125  # s
_HEARTBEAT = 10.0  # s without a line about a track after which there is one
_MOST_LINES = 8  # live ones; more would push the results off a small screen
_WIDE = 72  # columns from which a bar has room


class PlainView:
    """One line per state change, and a sign of life about every ten seconds in a long phase."""

    def __init__(self, board: Board, terminal: Terminal) -> None:
        self._board = board
        self._terminal = terminal
        self._told_at: dict[int, float] = {}

    def changed(self, track: Track) -> None:
        """Tell the new phase, unless what comes at once tells it anyway."""
        if track.phase == STARTING:
            self._told_at[id(track)] = self._board.now()
        elif track.is_active:
            self._tell(track, self._board.announce(track))

    def noticed(self, text: str) -> None:
        """Tell what holds everything up."""
        self._terminal.say(text)

    def tick(self) -> None:
        """Give the signs of life that are due."""
        now = self._board.now()
        for track in self._board.tracks:
            if track.is_active and now - self._told_at.get(id(track), now) >= _HEARTBEAT:
                notice = self._board.notice
                self._tell(track, self._board.describe(track) + (f" ({notice})" if notice else ""))

    def _tell(self, track: Track, text: str) -> None:
        self._told_at[id(track)] = self._board.now()
        self._terminal.say(f"{show(track.label)}: {text}")


class LiveView:
    """A line per active track, redrawn in place and gone when the work is."""

    def __init__(self, board: Board, terminal: Terminal) -> None:
        from rich.console import Console  # noqa: PLC0415  # only a terminal needs it

        self._board = board
        self._console: Console = Console(stderr=True, highlight=False)
        self._region = Region(self._console)
        self._terminal = terminal
        terminal.above = self._region.write_above

    def changed(self, track: Track) -> None:
        """Show it with the next frame."""

    def noticed(self, text: str) -> None:
        """Show it with the next frame: the board keeps it as long as it holds."""

    def tick(self) -> None:
        """Draw a frame."""
        self._region.draw(self._frame())

    def close(self) -> None:
        """Take the lines away and give the cursor back."""
        self._terminal.above = None
        self._region.close()

    def _frame(self) -> Group:
        from rich.console import Group  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        board, wide = self._board, self._console.width >= _WIDE
        table = Table.grid(padding=(0, 1), expand=False)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=self._console.width // 3)
        if wide:
            table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        active = [track for track in board.tracks if track.is_active]
        for track in active[:_MOST_LINES]:
            self._add_row(table, track, wide=wide)
        lines: list[Table | Text] = [table] if active else []
        if len(board.tracks) > 1:
            over = sum(track.phase in OVER for track in board.tracks)
            lines.append(Text(f"{over} of {len(board.tracks)} finished", style="dim"))
        if board.notice:
            lines.append(Text(board.notice, style="yellow"))
        return Group(*lines)

    def _add_row(self, table: Table, track: Track, *, wide: bool) -> None:
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        fraction = self._fraction(track)
        bar = ProgressBar(total=1.0, completed=fraction, width=20) if fraction is not None else Text("")
        moved = track.phase in (UPLOADING, DOWNLOADING) and not wide
        doing = f"{track.phase} {size(track.done_bytes)}" if moved else self._board.describe(track)
        cells: list[Text | ProgressBar] = [Text(show(track.label), style="bold"), Text(doing)]
        table.add_row(*(cells if not wide else [cells[0], bar, cells[1]]))

    def _fraction(self, track: Track) -> float | None:
        if track.phase in (UPLOADING, DOWNLOADING):
            return min(1.0, track.done_bytes / track.total_bytes) if track.total_bytes else None
        expected = self._board.expected(track)
        return min(0.99, (self._board.now() - track.since) / expected) if expected else None


def has_live_terminal() -> bool:
    """Return whether stderr can be redrawn."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


@asynccontextmanager
async def shown(board: Board, terminal: Terminal) -> AsyncIterator[None]:
    """Show a board on stderr for the time of the block."""
    view = LiveView(board, terminal) if has_live_terminal() else PlainView(board, terminal)
    board.view = view

    async def draw() -> None:
        while True:
            board.look()
            view.tick()
            await asyncio.sleep(_FRAME)

    drawing = asyncio.create_task(draw(), name="progress")
    try:
        yield
    finally:
        drawing.cancel()
        await asyncio.wait([drawing])
        board.view = None
        if isinstance(view, LiveView):
            view.close()
