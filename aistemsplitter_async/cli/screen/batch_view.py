"""What a batch shows while it runs: a bar, what is going on, and what it costs; or a line now and then."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aistemsplitter_async.batch.outcome import Done, Outcome
from aistemsplitter_async.batch.progress import BatchProgress, TrackProgress
from aistemsplitter_async.cli.library import Survey
from aistemsplitter_async.cli.screen.live import has_live_terminal
from aistemsplitter_async.cli.screen.region import Region
from aistemsplitter_async.cli.screen.render import charged, clock, share, show, words
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.cli.sources import shown_source
from aistemsplitter_async.journal.record import StageName

if TYPE_CHECKING:
    from rich.console import RenderableType

_FRAME = 0.2  # s
_LINE = 15.0  # s between two lines where nothing can be redrawn
_MOST_TRACKS = 6  # shown at a time
_BAR, _SHORTEST_BAR = 30, 8  # columns: a longer bar says no more, a shorter one nothing
_RECENT = 300.0  # s of finished tracks that the speed is taken from
_ENOUGH = 5  # finished tracks before their speed means anything
_REQUESTS_LEFT = {"prepare": 3, "upload": 2, "create": 2, "wait": 1, "download": 0}  # of a track in that stage
_SIGNS = {"prepare": "·", "upload": "↑", "create": "+", "wait": "…", "download": "↓"}
_DOING: dict[StageName, str] = {
    "prepare": "preparing",
    "upload": "uploading",
    "create": "creating",
    "wait": "waiting",
    "download": "fetching",
}


def plan_eta(progress: BatchProgress, survey: Survey, pace: float | None) -> float | None:
    """Return the seconds a batch still takes, `None` if nothing can be said yet.

    The key's limit allows no less than `requests left / limit` windows and the processing of the last split; where
    tracks have been finishing more slowly than that, they are taken to go on so.

    Args:
        progress: of the batch.
        survey: how much there is.
        pace: tracks finished per second lately.
    """
    if not survey.complete or progress.draining:  # then it is not the library that is finished
        return None
    left = survey.tracks - progress.done - progress.failed - progress.skipped
    if left <= 0:
        return 0.0
    guesses = [left / pace] if pace else []
    gate = progress.gate
    if gate.limit is not None:
        fresh = max(0, survey.tracks - progress.taken)
        each = (3 * survey.files + 2 * survey.urls) / survey.tracks
        requests = fresh * each + sum(_REQUESTS_LEFT[stage] * count for stage, count in progress.stages.items())
        guesses.append(requests / gate.limit * gate.per + (progress.processing or 0.0))
    return max(guesses, default=None)


def describe_stages(progress: BatchProgress) -> str:
    """Return how many tracks are in each stage, such as `3 uploading, 96 waiting`."""
    parts = [f"{progress.stages[stage]} {doing}" for stage, doing in _DOING.items() if progress.stages.get(stage)]
    return ", ".join(parts) or "nothing under way"


def describe_budget(progress: BatchProgress) -> str:
    """Return the requests used and the credits spent."""
    gate = progress.gate
    limit = f"{gate.used} of {gate.limit}" if gate.limit is not None else f"{gate.used}"
    closed = f", gate closed for {gate.closed_for:.0f} s" if gate.closed_for >= 1 else ""
    return f"{limit} requests in the last {words(gate.per)}{closed}, {charged(progress.credits_used, 0)}"


def describe_count(progress: BatchProgress, survey: Survey) -> str:
    """Return how far it is, such as `12 of 40, 1 failed`."""
    failures = progress.failed + survey.unusable
    failed = f", {failures:,} failed" if failures else ""
    if progress.draining:  # what is not begun is skipped, and no progress
        return f"{progress.done:,} split, {sum(progress.stages.values()):,} to finish{failed}"
    over = progress.done + progress.failed + progress.skipped
    total = f"{survey.tracks:,}" if survey.complete else f"{max(survey.tracks, progress.taken):,}+"
    return f"{over:,} of {total}{failed}"


def describe_track(track: TrackProgress) -> str:
    """Return what is going on with one track."""
    doing = _DOING[track.stage]
    if track.stage in ("upload", "download") and track.done_bytes:
        return f"{doing} {share(track.done_bytes, track.total_bytes or None)}"
    return f"{doing} {clock(track.seconds)}"


class Meter:
    """How fast tracks finish."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._times: deque[float] = deque()

    def note(self, outcome: Outcome) -> None:
        """Note how a track ended: what was finished earlier, or fails as it did before, tells nothing of the speed."""
        if isinstance(outcome, Done):
            self.tick()

    def tick(self) -> None:
        """Note that a track finished."""
        self._times.append(self._now())
        while self._now() - self._times[0] > _RECENT:
            self._times.popleft()

    @property
    def pace(self) -> float | None:
        """Return tracks a second, lately."""
        if len(self._times) < _ENOUGH:
            return None
        return (len(self._times) - 1) / max(1e-3, self._now() - self._times[0])


class BatchView:
    """Shows a running batch on stderr.

    Args:
        progress: says where it stands.
        survey: how much there is.
        meter: how fast it goes.
        terminal: where to show it.
    """

    def __init__(self, progress: Callable[[], BatchProgress], survey: Survey, meter: Meter, terminal: Terminal) -> None:
        self._progress = progress
        self._survey = survey
        self._meter = meter
        self._terminal = terminal

    def line(self) -> str:
        """Return all of it on one line."""
        progress = self._progress()
        eta = plan_eta(progress, self._survey, self._meter.pace)
        left = "; finishing what is paid for" if progress.draining else f"; about {words(eta)} left" if eta else ""
        notices = "".join(f"; {notice}" for notice in progress.notices)
        count = describe_count(progress, self._survey)
        return show(f"{count}; {describe_stages(progress)}; {describe_budget(progress)}{left}{notices}")

    async def tell(self) -> None:
        """Write a line now and then, until cancelled."""
        while True:
            await asyncio.sleep(_LINE)
            self._terminal.say(self.line())

    async def draw(self) -> None:
        """Keep a few lines up to date, until cancelled."""
        from rich.console import Console  # noqa: PLC0415  # only a terminal needs it

        console = Console(stderr=True, highlight=False)
        region = Region(console)
        self._terminal.above = region.write_above
        try:
            while True:
                region.draw(self.frame(console.width))
                await asyncio.sleep(_FRAME)
        finally:
            self._terminal.above = None
            region.close()

    def frame(self, width: int) -> RenderableType:
        """Return what is to be seen now on a terminal of `width` columns."""
        from rich.console import Group  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        progress, survey = self._progress(), self._survey
        over, total = progress.done + progress.failed + progress.skipped, survey.tracks if survey.complete else None
        if progress.draining:
            over, total = progress.done, progress.done + sum(progress.stages.values())
        eta = plan_eta(progress, survey, self._meter.pace)
        ending = "finishing what is paid" if progress.draining else f"about {words(eta)} left" if eta else ""
        count, time_ = describe_count(progress, survey), f"{clock(progress.seconds)}  {ending}".rstrip()
        room = min(_BAR, width - 1 - len(count) - len(time_) - 2)
        bar = (
            [ProgressBar(total=total, completed=over, width=room, pulse=total is None)] if room >= _SHORTEST_BAR else []
        )
        head = Table.grid(padding=(0, 1))
        head.add_row(Text(count, style="bold", no_wrap=True), *bar, Text(time_, style="dim", no_wrap=True))
        tracks = Table.grid(padding=(0, 1))
        tracks.add_column(width=1)
        tracks.add_column(no_wrap=True, overflow="ellipsis", max_width=max(10, width // 2))
        tracks.add_column(no_wrap=True, overflow="ellipsis")
        shown = [track for track in progress.active if track.label][:_MOST_TRACKS]
        for track in shown:
            name = show("/".join(shown_source(track.label).rsplit("/", 2)[-2:]))  # many a song is called by its folder
            tracks.add_row(
                Text(_SIGNS[track.stage], style="cyan"), Text(name), Text(describe_track(track), style="dim")
            )
        lines: list[RenderableType] = [head, _short(describe_stages(progress)), _short(describe_budget(progress))]
        lines += [tracks] if shown else []
        lines += [Text(show(notice), style="yellow", no_wrap=True, overflow="ellipsis") for notice in progress.notices]
        return Group(*lines)


def _short(text: str) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415

    return Text(text, style="dim", no_wrap=True, overflow="ellipsis")


@asynccontextmanager
async def shown(view: BatchView) -> AsyncIterator[None]:
    """Show a batch for the time of the block."""
    showing = asyncio.create_task(view.draw() if has_live_terminal() else view.tell(), name="progress")
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait([showing])
