"""Which row a source belongs to: by what was bought, and by what was delivered."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async import Split
from aistemsplitter_async.journal.matching import Fit, are_comparable, choose, delivered, fit, merge
from aistemsplitter_async.journal.record import AudioId, Record, State, StoredFailure, StoredFile, Variant

NOW = datetime(2027, 1, 1, tzinfo=UTC)
SPLIT = Split("split_1", "succeeded", "4s", 214, NOW, NOW, stems={"vocals": "https://cdn.test/vocals.mp3?token=1"})
FINISHED = Record(
    id=1,
    source="a.mp3",
    state=State.DOWNLOADED,
    split_id="split_1",
    split=attrs.evolve(SPLIT, stems={}),
    files={"vocals": StoredFile("a/vocals.mp3", 10, "ab" * 32)},
)
RUNNING = Record(id=1, source="a.mp3", state=State.CREATED, split_id="split_1")
SPLIT_FAILED = StoredFailure("wait", "SplitFailedError", "no sound in it")
GONE = StoredFailure("wait", "UnsafeNameError", "..")
DOWN = StoredFailure("wait", "ServerError", "down", status_code=503)
REFUSED = StoredFailure("create", "ValidationError", "no", status_code=422)
FAILED = attrs.evolve(RUNNING, split=attrs.evolve(SPLIT, status="failed", stems={}), failure=SPLIT_FAILED)
DEFAULT = Variant()

options = st.sampled_from([None, "4s", "6s", "htdemucs"])
formats = st.sampled_from([None, "mp3", "wav"])
variants = st.builds(Variant, options, formats)
bought = st.sampled_from([state for state in State if state not in (State.FOUND, State.UPLOADED)])
states = st.sampled_from(list(State))
splits = st.none() | st.builds(lambda model: attrs.evolve(SPLIT, stem_model=model or "4s"), options)
failures = st.sampled_from([None, SPLIT_FAILED, GONE, DOWN, REFUSED])
records = st.builds(
    Record, id=st.integers(1, 9), source=st.just("a"), state=states, asked=variants, split=splits, failure=failures
)


@pytest.mark.parametrize("wanted", [DEFAULT, Variant("4s"), Variant(None, "mp3"), Variant("4s", "mp3"), Variant("4S")])
@pytest.mark.parametrize("asked", [DEFAULT, Variant("4s"), Variant(None, "mp3"), Variant("4s", "mp3")])
def test_what_was_delivered_as_asked_for_is_never_bought_again(asked: Variant, wanted: Variant) -> None:
    for record in (FINISHED, attrs.evolve(FINISHED, state=State.SUCCEEDED, split=SPLIT, files={})):
        assert fit(attrs.evolve(record, asked=asked), wanted) is (Fit.EXACT if asked == wanted else Fit.SAME)


@pytest.mark.parametrize("wanted", [Variant("6s"), Variant("4s", "wav"), Variant("htdemucs", "mp3")])
def test_something_else_than_was_delivered_is_another_purchase(wanted: Variant) -> None:
    assert fit(FINISHED, wanted) is Fit.OTHER


def test_a_model_of_an_unknown_name_is_not_taken_for_the_one_asked_for() -> None:
    other = attrs.evolve(FINISHED, split=attrs.evolve(SPLIT, stem_model="htdemucs", stems={}))
    assert fit(other, Variant("4s")) is Fit.OTHER
    assert fit(other, DEFAULT) is Fit.EXACT
    assert fit(attrs.evolve(other, asked=Variant("4s")), Variant("4s")) is Fit.EXACT


@pytest.mark.parametrize("state", [State.INTENT, State.UNCERTAIN, State.NEEDS_REVIEW, State.CREATED])
def test_what_the_service_chose_is_waited_for_before_anything_is_bought(state: State) -> None:
    running = attrs.evolve(RUNNING, state=state)
    assert fit(running, Variant("4s")) is Fit.UNSETTLED
    assert fit(running, Variant(None, "mp3")) is Fit.UNSETTLED
    assert fit(running, DEFAULT) is Fit.EXACT
    assert fit(attrs.evolve(running, asked=Variant("6s")), DEFAULT) is Fit.SAME
    assert fit(attrs.evolve(running, asked=Variant("6s")), Variant("4s")) is Fit.OTHER  # both were asked for by name


def test_a_split_that_failed_is_not_bought_again_in_other_words() -> None:
    assert fit(FAILED, DEFAULT) is Fit.FAILED
    assert fit(FAILED, Variant("4s")) is Fit.FAILED
    assert fit(FAILED, Variant(None, "mp3")) is Fit.FAILED  # as what it was delivered will never be known
    assert fit(FAILED, Variant("6s")) is Fit.OTHER
    assert fit(attrs.evolve(RUNNING, failure=GONE), Variant("4s")) is Fit.UNSETTLED


@given(records, variants)
def test_a_run_without_options_never_buys_what_was_bought(record: Record, wanted: Variant) -> None:
    found = fit(record, DEFAULT)
    assert (found is Fit.OPEN) == (record.state in (State.FOUND, State.UPLOADED))
    assert found not in (Fit.OTHER, Fit.UNSETTLED)
    assert fit(attrs.evolve(record, asked=wanted), wanted) not in (Fit.OTHER, Fit.UNSETTLED)


@given(records, variants)
def test_naming_what_was_delivered_never_buys(record: Record, asked: Variant) -> None:
    record = attrs.evolve(record, asked=asked)
    assert fit(record, delivered(record)) is not Fit.OTHER


@given(st.lists(records, min_size=1), variants)
def test_what_was_bought_and_fits_goes_before_what_would_have_to_be_bought(rows: list[Record], wanted: Variant) -> None:
    chosen, how = choose(rows, wanted)
    assert chosen is not None
    assert how is fit(chosen, wanted) is min(fit(record, wanted) for record in rows)
    assert choose([], wanted) == (None, Fit.OTHER)


@given(st.permutations(list(Fit)))
def test_money_that_is_spent_goes_before_money_to_be_spent(order: list[Fit]) -> None:
    default = attrs.evolve(FINISHED, split=attrs.evolve(SPLIT, stem_model="6s"))
    examples = {
        Fit.EXACT: attrs.evolve(FINISHED, asked=Variant("4s")),
        Fit.SAME: FINISHED,
        Fit.UNSETTLED: RUNNING,
        Fit.FAILED: FAILED,
        Fit.OPEN: Record(id=1, source="a", asked=Variant("4s")),
        Fit.OTHER: default,
    }
    rows = [attrs.evolve(examples[one], id=number) for number, one in enumerate(order, 1)]
    while rows:
        chosen, how = choose(rows, Variant("4s"))
        assert chosen is not None
        assert how is min(order[row.id - 1] for row in rows)
        rows.remove(chosen)
        if how is Fit.FAILED:  # what is left would have to be bought
            assert {order[row.id - 1] for row in rows} == {Fit.OPEN, Fit.OTHER}


ids = st.builds(AudioId, st.sampled_from([None, "sha256:a", "sha256:b"]), st.sampled_from([None, "mp3:a", "sha256:a"]))


@given(ids, ids)
def test_what_is_known_of_a_row_is_kept_and_completed(known: AudioId, found: AudioId) -> None:
    after = merge(known, found)
    assert after.content == (known.content or found.content)
    assert after.identity is not None or known.identity is found.identity is None
    if known.identity == "mp3:a":
        assert after.identity == "mp3:a"
    assert merge(after, found) == after


def test_only_audio_shows_that_two_files_are_different_songs() -> None:
    audio, whole, unknown = AudioId("sha256:a", "mp3:a"), AudioId("sha256:b", "sha256:b"), AudioId("sha256:c", None)
    assert are_comparable(audio, AudioId("sha256:d", "mp3:d"))
    for other in (whole, unknown):
        assert not are_comparable(audio, other)
        assert not are_comparable(other, audio)


@given(variants)
def test_a_variant_is_read_as_it_was_written(variant: Variant) -> None:
    assert Variant.parse(str(variant)) == variant
