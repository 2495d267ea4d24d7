"""The promises, each checked against everything that is known of a trial."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import attrs

from aistemsplitter_async import Done, Failed
from aistemsplitter_async.errors import AIStemSplitterError
from aistemsplitter_async.models import Submission
from benchmarks.trials.api import TOKEN
from benchmarks.trials.duties import OF_KINDS, batch_errors, show
from benchmarks.trials.remains import Played
from benchmarks.trials.seen import Seen
from benchmarks.trials.service import API_KEY, NEW_KEY
from benchmarks.trials.songs import MIX, read_stem

_GRACE = 30.0  # s (virtual) that a call may take after its deadline: what is paid for is recorded
_LEFT_TO_A_PERSON = ("clock", "old-key")  # kinds in which a create may be too old to be sent again


@attrs.frozen
class Broken:
    """A promise that was broken, and how it showed."""

    promise: str
    how: str


def check(played: Played) -> list[Broken]:
    """Return the promises that were broken, the gravest first."""
    return list(dict.fromkeys(Broken(promise, how) for promise, how in _check(played)))


def _check(played: Played) -> Iterator[tuple[str, str]]:
    yield from _money(played)
    yield from _lost(played)
    yield from _unfinished(played)
    yield from _files(played)
    for remains in played.rounds:
        seen = remains.seen
        if seen.hung:
            yield "hung", seen.hung
        for what in seen.left:
            yield "left behind", what
        for error in seen.errors:
            if not isinstance(error, AIStemSplitterError | asyncio.CancelledError) and error not in seen.gate:
                yield "foreign error", repr(error)
        yield from _secrets(seen)
    timeout, took = played.trial.timeout, played.rounds[0].seen.took
    if timeout is not None and took > timeout + _GRACE:
        yield "deadline", f"with {timeout:g} s it took {took:.0f} s"
    for problem in played.problems:
        yield "wrong request", problem
    if not played.rounds[0].seen.hung:
        for about in OF_KINDS.get(played.trial.kind, ()):
            yield from about(played)


def _money(played: Played) -> Iterator[tuple[str, str]]:
    songs = Counter(charge.song for charge in played.rounds[-1].charges)
    for song, times in songs.items():
        if times > 1:
            yield "charged twice", f"song {song} was paid for {times} times"
    for key, bodies in played.bodies.items():
        if len(bodies) > 1:
            yield "other bytes", f"{len(bodies)} different bodies were sent under {key}"
    cap, spent = played.trial.max_credits, sum(charge.credits for charge in played.rounds[0].charges)
    if cap is not None and spent > cap:
        yield "overspent", f"{spent:g} of {cap:g} credits"


def _lost(played: Played) -> Iterator[tuple[str, str]]:
    """Every charge is known after the run that caused it: its id, or its key and bytes."""
    known: set[str] = set()
    for remains in played.rounds:
        for value in remains.seen.known():
            known.add(value.idempotency_key if isinstance(value, Submission) else value)
        for charge in remains.charges:
            if not {charge.split_id, charge.key} & (known | remains.journal):
                yield "paid and lost", f"nothing tells of the charge for song {charge.song}"


def _unfinished(played: Played) -> Iterator[tuple[str, str]]:
    """After the trouble, every song is finished with one charge."""
    trial, last = played.trial, played.rounds[-1]
    if trial.same_id or last.seen.hung or len(played.rounds) == 1:
        return
    if last.seen.errors:
        yield "unfinished", f"the next run ended in {show(last.seen.errors)}"
        return
    if trial.call != "batch":
        if len(last.charges) != 1:
            yield "unfinished", f"{len(last.charges)} charges for one song"
        return
    failed = [error for error in batch_errors(played, last.seen) if not _is_for_a_person(played, error)]
    for error in failed:
        yield "unfinished", f"it still fails: {error!r}"
    if not failed and {charge.song for charge in last.charges} != {song.number for song in trial.songs}:
        yield "unfinished", "a song is done that was never paid for"


def _is_for_a_person(played: Played, error: AIStemSplitterError) -> bool:
    return played.trial.kind in _LEFT_TO_A_PERSON and error.code == "NEEDS_REVIEW"


def _files(played: Played) -> Iterator[tuple[str, str]]:
    """A file with a final name is complete, and holds a stem of the song that its folder is named after."""
    for remains in played.rounds:
        for name, data in remains.files.items():
            folder, _, file = name.rpartition("/")
            if file.startswith(MIX):
                continue  # see `duties`
            held = read_stem(data)
            if held is None:
                yield "partial file", f"{name} has {len(data)} bytes that are no stem"
            elif (f"song{held[1]}", held[2]) != (folder, file.partition(".")[0]):
                yield "wrong file", f"{name} holds {held[2]} of song {held[1]}"
        for outcome in remains.seen.outcomes:
            if isinstance(outcome, Done) and sorted(outcome.files) != sorted(played.trial.wanted):
                yield "partial file", f"done with {sorted(outcome.files)}"


def _secrets(seen: Seen) -> Iterator[tuple[str, str]]:
    errors = [*seen.errors, *(outcome.error for outcome in seen.outcomes if isinstance(outcome, Failed))]
    for text in (*map(str, errors), *map(repr, errors), *map(repr, seen.outcomes), *seen.logs):
        if any(secret in text for secret in (API_KEY, NEW_KEY, TOKEN)):
            yield "secret shown", text[:300]
