"""The progress of a run whose songs are split by other processes, which only tell how each song ended."""

from __future__ import annotations

from collections.abc import Callable

from aistemsplitter_async.cli.screen.frame import Frame
from aistemsplitter_async.cli.screen.render import clock, show

_HEARTBEAT = 15.0  # s between two lines where nothing can be redrawn


class ClusterView:
    """Shows a run on a cluster, from before it has begun.

    Args:
        beginning: what is done until then, in words.
        now: monotonic seconds.

    Attributes:
        ended: songs that have an outcome.
        failed: how many of them failed.
        taken: returns how many songs were handed out so far; set once the run has begun.
    """

    def __init__(self, beginning: str, *, now: Callable[[], float]) -> None:
        self.ended = self.failed = 0
        self.taken: Callable[[], int] | None = None
        self._beginning = beginning
        self._now = now
        self._began = self._logged_at = now()

    def due_lines(self) -> list[str]:
        """Return everything on one line, now and then."""
        now = self._now()
        if now - self._logged_at < _HEARTBEAT:
            return []
        self._logged_at = now
        return [show(f"{self._describe()}; {clock(now - self._began)}")]

    def frame(self) -> Frame:
        """Return the present content of a live terminal."""
        return Frame(title=self._describe(), time=clock(self._now() - self._began))

    def _describe(self) -> str:
        if self.taken is None:
            return self._beginning
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.ended:,} finished{failed}, {self.taken() - self.ended:,} handed out"
