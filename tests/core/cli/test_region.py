"""Live lines on a terminal: what is written above them, and what is erased after a resize."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import attrs
import pytest
from rich.console import Console

from aistemsplitter_async import BatchProgress, GateSnapshot
from aistemsplitter_async.cli.library import Survey
from aistemsplitter_async.cli.screen.batch_view import BatchView
from aistemsplitter_async.cli.screen.frame import Frame, Row, draw
from aistemsplitter_async.cli.screen.region import Region


def make_region(width: int = 40, height: int = 10) -> tuple[Region, Console, io.StringIO]:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, height=height, color_system=None)
    return Region(console), console, screen


def test_the_reason_why_everything_is_held_up_is_shown_whole() -> None:
    region, console, screen = make_region()
    reason = "the journal cannot be reached: connection to server at 127.0.0.1, port 5432 failed: Connection refused"
    frame = Frame(rows=[Row("a song with a long name.mp3", "splitting for a long time")], notices=[reason])
    region.draw(draw(frame, console.width))
    _, *lines = screen.getvalue().splitlines()
    assert " ".join(line.strip() for line in lines) == reason
    assert len(lines) == 3


def test_what_is_written_above_stays_and_the_lines_are_back_in_the_same_write() -> None:
    region, _, screen = make_region()
    region.draw("one\ntwo")
    region.write_above("a result\n")
    assert screen.getvalue() == "\x1b[?25lone\ntwo" + "\r\x1b[1A\x1b[0J" + "a result\none\ntwo"
    region.close()
    region.close()
    assert screen.getvalue().endswith("one\ntwo\r\x1b[1A\x1b[0J\x1b[?25h")


def test_lines_that_a_narrower_terminal_has_wrapped_are_erased_whole() -> None:
    region, console, screen = make_region(40)
    region.draw("x" * 30 + "\n" + "y" * 10)
    console.width = 20
    region.draw("z")
    assert screen.getvalue().endswith("\r\x1b[2A\x1b[0Jz"), "two rows of x, one of y"


def test_lines_are_never_wider_or_more_than_the_terminal() -> None:
    region, _, screen = make_region(10, 4)
    region.draw("\n".join(["x" * 50] * 9))
    lines = screen.getvalue().removeprefix("\x1b[?25l").split("\n")
    assert len(lines) == 3
    assert max(map(len, lines)) < 10


GATE = GateSnapshot(limit=60, used=38, waiting=Counter[Any](), closed_for=0.0, per=60.0)
PROGRESS = BatchProgress(
    seconds=36_000.0,
    taken=20_000,
    exhausted=False,
    done=11_000,
    failed=345,
    skipped=0,
    stages={"wait": 120},
    credits_used=2140.0,
    active=(),
    notices=(),
    draining=False,
    gate=GATE,
    processing=60.0,
)


@pytest.mark.parametrize("width", [30, 80, 200])
@pytest.mark.parametrize("draining", [True, False])
def test_the_first_line_of_a_long_batch_is_one_line(width: int, draining: bool) -> None:
    progress = attrs.evolve(PROGRESS, draining=draining, total=40_000, seconds_left=86_000.0)
    view = BatchView(lambda: progress, Survey(files=40_000, complete=True), now=lambda: 0.0)
    region, _, screen = make_region(width, 24)
    region.draw(draw(view.frame(), width))
    lines = screen.getvalue().removeprefix("\x1b[?25l").split("\n")
    assert len(lines) == 3
    assert "345 failed" in lines[0] or width < 80
