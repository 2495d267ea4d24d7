"""Splits move only along the table, the ledger stays bounded, and a timed service queues as it should."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from itertools import pairwise
from random import Random

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async.sandbox.http.fetch import vet_address, vet_url
from aistemsplitter_async.sandbox.http.refusals import translate
from aistemsplitter_async.sandbox.separation.separate import STEMS
from aistemsplitter_async.sandbox.service import state
from aistemsplitter_async.sandbox.service.errors import InvalidRequestError
from aistemsplitter_async.sandbox.service.ledger import Ledger, RequestRecord
from aistemsplitter_async.sandbox.service.progression import Timed, WaitingLine
from aistemsplitter_async.sandbox.service.state import Split, SplitError, Status, Stem

STEM = Stem("vocals", "vocals.mp3", 1, "e")


def a_split(number: int = 1) -> Split:
    return Split(f"split_{number}", "key-1", "a.mp3", "4s", "mp3", 1.0, 1, "", 10.0, 10.0)


def test_every_move_that_is_not_in_the_table_is_refused() -> None:
    moves: dict[Status, Callable[[Split], None]] = {
        Status.PROCESSING: lambda s: state.start(s, 20.0),
        Status.SUCCEEDED: lambda s: state.succeed(s, (STEM,), 20.0),
        Status.FAILED: lambda s: state.fail(s, SplitError("C", "m"), 20.0),
    }
    for before in Status:
        for after, move in moves.items():
            split = attrs.evolve(a_split(), status=before)
            if after in state.TRANSITIONS[before]:
                move(split)
                assert (split.status, split.updated_at) == (after, 20.0)
            else:
                with pytest.raises(ValueError, match="cannot become"):
                    move(split)
                assert (split.status, split.stems, split.error) == (before, (), None)


def test_models_have_the_stems_of_the_api() -> None:
    assert set(STEMS["4s"]) == {"vocals", "drums", "bass", "other"}
    assert set(STEMS["6s"]) == {"vocals", "drums", "bass", "other", "guitar", "piano"}


@given(st.lists(st.floats(0, 50), min_size=1, max_size=40), st.integers(1, 4), st.floats(0, 1))
def test_a_timed_service_never_works_on_more_splits_than_it_has_workers(
    gaps: list[float], workers: int, jitter: float
) -> None:
    line = WaitingLine(Timed(base=5, per_second=0.5, jitter=jitter, workers=workers), Random(1))  # noqa: S311  repeatable chance
    now, plans = 0.0, []
    for gap in gaps:
        now += gap
        starts, ends = line.plan(now, 10.0)
        assert now <= starts < ends
        plans.append((starts, ends))
    assert all(a[0] <= b[0] for a, b in pairwise(plans))  # first come, first served
    for moment, _ in plans:
        assert sum(starts <= moment < ends for starts, ends in plans) <= workers


def test_without_jitter_the_time_is_base_plus_share() -> None:
    line = WaitingLine(Timed(base=5.0, per_second=0.1, workers=1), Random(0))  # noqa: S311  repeatable chance
    assert line.plan(100.0, 200.0) == (100.0, 125.0)
    assert line.plan(101.0, 50.0) == (125.0, 135.0)


def test_the_ledger_keeps_the_newest_records_and_counts_all() -> None:
    ledger = Ledger(10)
    for n in range(35):
        ledger.add_request(RequestRecord(float(n), "get", 429 if n % 5 == 0 else 200))
        ledger.add_charge(a_split(n), "digest")
    assert len(ledger.requests) == len(ledger.charges) == len(ledger.splits) == 10
    assert ledger.requests[-1].at == 34.0
    assert (ledger.count(), ledger.count("get", 200), ledger.throttled) == (35, 28, 7)
    assert ledger.count("create") == 0


def test_the_ledger_has_replays_refunds_polls_and_lag() -> None:
    ledger = Ledger(10)
    split = a_split()
    split.idempotency_key = "k"
    ledger.add_charge(split, "one")
    ledger.add_replay(split.id, "one")
    ledger.add_replay(split.id, "two")
    ledger.add_replay("split_unknown", "x")
    state.fail(split, SplitError("C", "m"), 30.0)
    ledger.add_refund(split)
    split.polls, split.first_seen_at = 3, 32.5
    (charge,) = ledger.charges
    assert (charge.idempotency_key, charge.requests, charge.bodies) == ("k", 3, ("one", "two"))
    assert charge.refunded == charge.credits == 1
    (view,) = ledger.splits
    assert (view.polls, view.finished_at, view.lag) == (3, 30.0, 2.5)
    plain = ledger.as_dict()
    assert plain["charges"][0]["bodies"] == ("one", "two")
    assert plain["splits"][0]["lag"] == 2.5
    assert plain["splits"][0]["finished_at"] == "1970-01-01T00:00:30.000Z"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.mp3",
        "https://10.0.0.1/a.mp3",
        "https://192.168.1.1/a.mp3",
        "https://169.254.169.254/latest",
        "https://[::ffff:10.0.0.1]/a.mp3",
        "https://[fd00::1]/a.mp3",
        "https://[2002:a00:1::]/a.mp3",
        "https://224.0.0.1/a.mp3",
        "https://0.0.0.0/a.mp3",
        "https://user:secret@example.com/a.mp3",
        "https://[::1",
    ],
)
def test_an_address_that_a_service_must_not_fetch_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        vet_url(url, allow_private=False)
    assert translate(caught.value).status == 422
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/a.mp3", "https://93.184.216.34/a", "http://127.0.0.1:8000/a", "http://localhost/a"],
)
def test_public_and_loopback_addresses_are_fetched(url: str) -> None:
    vet_url(url, allow_private=False)


def test_private_networks_can_be_allowed() -> None:
    vet_url("http://10.0.0.1/a.mp3", allow_private=True)
    vet_address(ipaddress.ip_address("192.168.0.1"), allow_private=True)
