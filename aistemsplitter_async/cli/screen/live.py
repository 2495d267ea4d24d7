"""Progress on stderr: lines redrawn in place on a terminal, a line now and then anywhere else. No wait is silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from aistemsplitter_async._tasks import cancel_and_wait
from aistemsplitter_async.cli.screen.frame import Frame, draw
from aistemsplitter_async.cli.screen.region import Region
from aistemsplitter_async.cli.screen.terminal import Terminal

_TICK = 0.15  # s between two frames


class View(Protocol):
    """The progress of a command, to be shown."""

    def frame(self) -> Frame:
        """Return the present content of a live terminal."""
        ...

    def due_lines(self) -> list[str]:
        """Return the lines that are due where nothing can be redrawn; each is returned once."""
        ...


@asynccontextmanager
async def shown(view: View, terminal: Terminal) -> AsyncIterator[None]:
    """Show the progress of a command for as long as the block runs."""
    showing = asyncio.create_task(
        _redraw(view, terminal) if terminal.is_live else _log(view, terminal), name="progress"
    )
    try:
        yield
    finally:
        await cancel_and_wait(showing)


async def _redraw(view: View, terminal: Terminal) -> None:
    from rich.console import Console  # noqa: PLC0415  # only a terminal needs it

    console = Console(stderr=True, highlight=False)
    region = Region(console)
    terminal.above = region.write_above
    try:
        while True:
            region.draw(draw(view.frame(), console.width))
            await asyncio.sleep(_TICK)
    finally:
        terminal.above = None
        region.close()


async def _log(view: View, terminal: Terminal) -> None:
    while True:
        for line in view.due_lines():
            terminal.log(line)
        await asyncio.sleep(_TICK)
