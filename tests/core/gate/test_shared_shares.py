"""Processes that share a key in virtual time: the whole window is used, in equal shares, and with few conversations."""

from __future__ import annotations

import pytest

from aistemsplitter_async._gate import line
from aistemsplitter_async._gate.lanes import Lane, Order, Rank
from benchmarks.scale_simulation import BULK, INTERACTIVE, Run, build


@pytest.mark.parametrize("latency", [0.001, 0.01])
def test_four_busy_processes_use_every_slot_in_equal_shares(latency: float) -> None:
    run = build(4, 60, latency=latency)
    run.timeline.run(180.0)
    assert min(run.windows()) >= 0.99
    assert run.server.refused == 0
    assert max(run.shares()) <= 1.2 * 15
    assert min(run.shares()) >= 0.8 * 15
    assert run.steps_per_slot() <= 3


def crowd() -> Run:
    run = build(12, 60, latency=0.01)
    run.timeline.run(150.0)
    return run


def test_many_that_wait_do_not_all_return_for_the_same_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    run = crowd()
    assert run.steps_per_slot() <= 6
    assert set(run.shares()) <= {3, 4, 5, 6}
    monkeypatch.setattr(
        line.Ticket, "is_before", lambda *_: False
    )  # the negative control: each takes itself for the first
    assert crowd().steps_per_slot() > 6


def test_one_that_dies_while_it_waits_or_sends_costs_the_others_nothing_that_lasts() -> None:
    run = build(4, 60, latency=0.01)
    run.timeline.run(30.0)
    run.processes[0].alive = False
    run.timeline.run(180.0)
    assert min(run.windows()[2:]) >= 0.99
    assert run.server.refused == 0


def test_interactive_calls_of_one_go_before_bulk_of_all_and_creates_before_polls() -> None:
    run = build(4, 60, latency=0.01)
    run.timeline.run(61.0)
    polling = Order(Lane.BULK, Rank.POLL)
    run.processes[1].saturating = polling
    for number in range(5):
        run.timeline.later(5.0 + number, lambda: run.processes[3].come(INTERACTIVE))
    run.timeline.run(200.0)
    begun = 61.0
    polls = [at for at, _ in run.processes[1].waits[polling] if at > begun]
    creates = [at for one in run.processes if one is not run.processes[1] for at, _ in one.waits[BULK] if at > begun]
    assert len(polls) < len(creates) / 10
    assert max(at for at, _ in run.processes[3].waits[INTERACTIVE]) < 125.0


def test_an_emptied_store_costs_few_refusals_at_one_moment() -> None:
    run = build(4, 60, latency=0.01)
    run.timeline.run(90.0)
    run.store.text, run.store.version = None, 0
    run.timeline.run(180.0)
    assert run.server.refused <= 4
    assert min(run.windows()[2:]) >= 0.9


def test_late_processes_neither_waste_a_window_nor_hammer_nor_fall_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    run = late()
    assert min(run.windows()) >= 0.99
    assert run.server.refused == 0
    assert 0.8 * 300 <= min(run.shares()) <= max(run.shares()) <= 1.2 * 300
    assert run.steps_per_slot() <= 1.4
    monkeypatch.setattr(line, "_batch", lambda *_: 1)  # the negative control: one slot in a conversation
    assert late().steps_per_slot() > 1.4


def late() -> Run:
    run = build(4, 1200, latency=0.002, jitter=0.05)
    run.timeline.run(65.0)
    return run
