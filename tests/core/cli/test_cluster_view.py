"""What is shown of a run on a cluster, from before it has begun."""

from __future__ import annotations

from aistemsplitter_async.cli.commands.cluster import describe_start
from aistemsplitter_async.cli.screen.cluster_view import ClusterView


def test_the_start_and_then_the_numbers_are_shown_live_and_now_and_then_in_a_log() -> None:
    now = [0.0]
    view = ClusterView(describe_start("tcp://scheduler:8786"), now=lambda: now[0])
    assert view.frame().title == "connecting to tcp://scheduler:8786"
    assert view.due_lines() == []
    view.taken = lambda: 1200
    view.ended, view.failed, now[0] = 1100, 3, 75.0
    assert view.frame().title == "1,100 finished, 3 failed, 100 handed out"
    assert view.frame().time == "1:15"
    assert view.due_lines() == ["1,100 finished, 3 failed, 100 handed out; 1:15"]
    assert view.due_lines() == []


def test_workers_of_this_machine_are_started() -> None:
    assert [describe_start(on) for on in ("local:1", "local:4")] == ["starting 1 worker", "starting 4 workers"]
