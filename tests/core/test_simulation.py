"""The product's promise in figures: the cheap cases of the simulation, and what would miss them."""

from __future__ import annotations

import importlib.util
import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aistemsplitter_async._gate.window import CountingWindow

PATH = Path(__file__).parents[2] / "benchmarks" / "simulate.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulate", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate"] = module
    spec.loader.exec_module(module)
    return module


simulate = load()
CASES = {case.name: case for case in simulate.CASES}


def measure(name: str, seeds: int, client: str = "Ours") -> list[Any]:
    outcomes: list[Any] = simulate.measure(CASES[name], getattr(simulate, client), seeds)
    return outcomes


def ratio(outcomes: list[Any]) -> float:
    """The makespan over the in-order bound."""
    return float(statistics.median(outcome.makespan / outcome.bound for outcome in outcomes))


def lag(outcomes: list[Any], fraction: float) -> float:
    lags: list[float] = sorted(lag for outcome in outcomes for lag in outcome.lags)
    return lags[int(len(lags) * fraction)]


@pytest.mark.parametrize(
    ("name", "slowest", "refused"),
    [
        ("known, fixed", 1.03, 0),
        ("known, sliding", 1.03, 0),
        ("bucket, declared", 1.08, 4),
        ("bucket N/2, declared", 1.09, 5),
        ("bucket, not declared", 1.31, 4),
        ("bucket N/2, not declared", 1.31, 6),
        ("counter", 1.16, 10),
        ("40 uploads, fixed", 1.12, 0),
        ("40 uploads, sliding", 1.12, 0),
        ("unknown, 20 a minute, sliding", 1.25, 6),
        ("unknown, 60 a minute, fixed", 1.25, 6),
        ("headers, 20 a minute", 1.08, 2),
        ("5 % of replies 500", 1.12, 0),
    ],
)
def test_a_batch_runs_at_the_speed_of_the_key(name: str, slowest: float, refused: int) -> None:
    outcomes = measure(name, 4)
    assert all(len(outcome.done) == CASES[name].splits for outcome in outcomes)
    assert ratio(outcomes) <= slowest
    assert statistics.median(outcome.refused for outcome in outcomes) <= refused


def test_a_track_costs_little_more_than_its_two_requests() -> None:
    assert statistics.median(outcome.requests / 100 for outcome in measure("known, sliding", 3)) <= 2.2


@pytest.mark.parametrize(
    ("name", "seeds", "p50", "p95"),
    [
        ("one split", 30, 0.022, 0.045),
        ("ten at once, cold", 48, 0.10, 0.27),
        ("ten at once, after 30", 48, 0.06, 0.20),
    ],
)
def test_with_budget_to_spare_a_finished_split_is_found_soon(name: str, seeds: int, p50: float, p95: float) -> None:
    outcomes = measure(name, seeds)
    assert lag(outcomes, 0.5) <= p50
    assert lag(outcomes, 0.95) <= p95
    assert sum(outcome.refused for outcome in outcomes) == 0


def test_an_interactive_split_overtakes_a_batch_that_keeps_the_key_busy() -> None:
    outcomes = measure("interactive every 20 s", 1)
    waits = sorted(wait for outcome in outcomes for wait in outcome.waits)
    assert len(waits) > 20
    assert waits[int(len(waits) * 0.95)] <= 1.0
    assert simulate.unused(CASES["interactive every 20 s"], outcomes[0]) <= 0.05


def test_without_slots_kept_for_it_it_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "INTERACTIVE_SHARE", 0.0)
    waits = sorted(measure("interactive every 20 s", 1)[0].waits)
    assert waits[int(len(waits) * 0.95)] > 10


def test_polling_every_five_seconds_with_the_usual_backoff_misses_the_figures() -> None:
    outcome = measure("known, sliding", 1, "Usual")[0]
    assert outcome.makespan / outcome.bound > 1.3
    assert outcome.refused > 100
    assert outcome.requests / 100 > 4


def test_slots_that_come_back_a_window_after_sending_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the zero: the server counts a request later than it was sent, now more, now less."""

    def settle(self: CountingWindow, now: float) -> None:
        self.in_flight -= 1
        self._frees.append(now + self.per - simulate.ROUND_TRIP)

    assert sum(outcome.refused for outcome in measure("known, sliding", 2)) == 0
    monkeypatch.setattr(CountingWindow, "settle", settle)
    assert sum(outcome.refused for outcome in measure("known, sliding", 2)) > 0


def test_the_plot_shows_the_requests_against_the_limit(tmp_path: Path) -> None:
    case = CASES["headers, 20 a minute"]
    simulate.plot(case, {"ours": measure(case.name, 1)[0]}, tmp_path / "out.svg")
    drawn = (tmp_path / "out.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<svg")
    assert "polyline" in drawn
    assert ">20<" in drawn
