"""A few lines at the end of a terminal that are redrawn in place, while permanent text is written above them.

Every change is one write (erase, text, lines), so the lines never flicker. After a resize the erasure counts the rows
again, because terminals wrap existing lines to their new width.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from aistemsplitter_async.cli.screen.terminal import discard_output

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_ERASE_BELOW = "\x1b[0J"


class Region:
    """The lines; `close` removes them.

    Args:
        console: where they are.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[str] = []
        self._shown = False

    def draw(self, content: RenderableType) -> None:
        """Show `content`, as much of it as there is room for."""
        console = self._console
        with console.capture() as captured:
            # One column is left free: a line of the full width would wrap in some terminals.
            console.print(content, width=max(1, console.width - 1), no_wrap=True, overflow="ellipsis", crop=True)
        erasure = self._erasure()
        self._lines = captured.get().removesuffix("\n").split("\n")[: max(1, console.height - 1)]
        hiding = "" if self._shown else _HIDE_CURSOR
        self._shown = True
        self._write(hiding + erasure + "\n".join(self._lines))

    def write_above(self, text: str) -> None:
        """Write text that ends with a newline above the lines; it stays."""
        self._write(self._erasure() + text + "\n".join(self._lines))

    def close(self) -> None:
        """Remove the lines and show the cursor again."""
        if self._shown:
            self._write(self._erasure() + _SHOW_CURSOR)
            self._lines, self._shown = [], False

    def _erasure(self) -> str:
        """Return the control codes that erase the lines; the cursor is at the end of the last one."""
        from rich.cells import cell_len  # noqa: PLC0415  # only a terminal needs it
        from rich.text import Text  # noqa: PLC0415

        if not self._lines:
            return ""
        width = max(1, self._console.width)
        rows = sum(max(1, ceil(cell_len(Text.from_ansi(line).plain) / width)) for line in self._lines)
        up = f"\x1b[{rows - 1}A" if rows > 1 else ""
        return f"\r{up}{_ERASE_BELOW}"

    def _write(self, text: str) -> None:
        try:
            self._console.file.write(text)
            self._console.file.flush()
        except OSError:  # the terminal was closed
            discard_output(self._console.file)
