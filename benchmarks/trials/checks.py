"""The promises, each checked against everything that is known of a trial."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

import attrs

from aistemsplitter_async import Done, Failed
from aistemsplitter_async.errors import AIStemSplitterError, SubmissionUncertainError
from aistemsplitter_async.models import Submission
from benchmarks.trials.program import Seen
from benchmarks.trials.remains import Played
from benchmarks.trials.replies import REFUSAL
from benchmarks.trials.service import API_KEY, TOKEN
from benchmarks.trials.songs import STEMS, read_stem

_IN_BETWEEN = 1  # creates that may have passed the check when the journal vanished, with one split in flight
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
    for problem in played.problems:
        yield "wrong request", problem
    if not played.rounds[0].seen.hung:
        for about in _OF_KINDS.get(played.trial.kind, ()):
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
        yield "unfinished", f"the next run ended in {_show(last.seen.errors)}"
        return
    if trial.call != "batch":
        if len(last.charges) != 1:
            yield "unfinished", f"{len(last.charges)} charges for one song"
        return
    failed = [error for error in _batch_errors(played, last.seen) if not _is_for_a_person(played, error)]
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
            held = read_stem(data)
            if held is None:
                yield "partial file", f"{name} has {len(data)} bytes that are no stem"
            elif (f"song{held[1]}", held[2]) != (folder, file.partition(".")[0]):
                yield "wrong file", f"{name} holds {held[2]} of song {held[1]}"
        for outcome in remains.seen.outcomes:
            if isinstance(outcome, Done) and sorted(outcome.files) != sorted(STEMS):
                yield "partial file", f"done with {sorted(outcome.files)}"


def _secrets(seen: Seen) -> Iterator[tuple[str, str]]:
    errors = [*seen.errors, *(outcome.error for outcome in seen.outcomes if isinstance(outcome, Failed))]
    for text in (*map(str, errors), *map(repr, errors), *map(repr, seen.outcomes), *seen.logs):
        if API_KEY in text or TOKEN in text:
            yield "secret shown", text[:300]


# What the first run had to do or say, where the kind of trouble makes that certain.


def _untroubled(played: Played) -> Iterator[tuple[str, str]]:
    for error in _first_errors(played):
        yield "misreported", f"no trouble for the caller, but {error!r}"
    yield from _one_create_each(played)


def _one_create_each(played: Played) -> Iterator[tuple[str, str]]:
    creates, songs = played.rounds[0].seen.creates, len(played.trial.songs)
    if creates > songs:
        yield "misreported", f"{creates} creates for {songs} songs, although each was answered"


def _refused(played: Played) -> Iterator[tuple[str, str]]:
    for error in _first_errors(played):
        if error.code != REFUSAL["code"] or REFUSAL["message"] not in str(error):
            yield "misreported", f"a refusal became {error!r}"


def _proxy_named(played: Played) -> Iterator[tuple[str, str]]:
    for error in _first_errors(played):
        if isinstance(error, SubmissionUncertainError) and played.trial.call != "resubmit":
            yield "misreported", f"certain not to have arrived, but {error!r}"
        refused = played.trial.proxy_bytes is None  # one that dies leaves nothing to tell it from the service
        if refused and not all(word in str(error) for word in ("proxy", str(played.trial.proxy_status))):
            yield "misreported", f"the proxy is not named: {error!r}"


def _gate_obeyed(played: Played) -> Iterator[tuple[str, str]]:
    seen, trial = played.rounds[0].seen, played.trial
    if not seen.gate:
        return
    raised, got = seen.gate[-1], seen.errors[0] if seen.errors else None
    if got is None:
        yield "misreported", f"the gate raised {raised!r}, and the call went on"
    elif isinstance(got, SubmissionUncertainError) and (trial.call == "resubmit" or trial.faults):
        return
    elif trial.call == "resubmit" or played.rounds[0].charges:
        yield "misreported", f"it may have happened, but the caller got {got!r}"
    elif not any(_key_of(value) in " ".join(getattr(got, "__notes__", ())) for value in seen.heard):
        yield "misreported", f"the gate's {got!r} does not say which idempotency key it belongs to"
    elif got is not raised and not trial.faults:
        yield "misreported", f"the gate raised {raised!r}, the caller got {got!r}"


def _key_of(value: object) -> str:
    return value.idempotency_key if isinstance(value, Submission) else "no submission"


def _passed_on(played: Played) -> Iterator[tuple[str, str]]:
    seen = played.rounds[0].seen
    for raised in seen.gate:
        if raised not in seen.errors and not (seen.errors and isinstance(raised, asyncio.CancelledError)):
            yield "misreported", f"the sources raised {raised!r}, the caller got {_show(seen.errors)}"
    for error in _batch_errors(played, seen):
        yield "misreported", f"the sources before were good, but {error!r}"


def _one_owner(played: Played) -> Iterator[tuple[str, str]]:
    if played.other not in ("", "JournalLockedError"):
        yield "two owners", f"a second process {played.other}"


def _recorded(played: Played) -> Iterator[tuple[str, str]]:
    if played.late_creates > _IN_BETWEEN:
        yield "without a record", f"{played.late_creates} creates were sent after the journal was gone"


def _one_song_an_id(played: Played) -> Iterator[tuple[str, str]]:
    owners: dict[str, str] = {}
    for outcome in played.rounds[-1].seen.outcomes:
        if isinstance(outcome, Done):
            other = owners.setdefault(outcome.split.id, repr(outcome.source))
            if other != repr(outcome.source):
                yield "wrong file", f"{outcome.source!r} and {other} are both done with {outcome.split.id}"


_OF_KINDS: dict[str, tuple[Callable[[Played], Iterator[tuple[str, str]]], ...]] = {
    "headers": (_untroubled,),
    "bodies": (_untroubled,),
    "listener": (_untroubled,),
    "refusal": (_refused, _one_create_each),
    "proxy": (_proxy_named,),
    "gate": (_gate_obeyed,),
    "feeder": (_passed_on,),
    "owner": (_one_owner,),
    "sources": (_one_owner,),
    "journal": (_recorded,),
    "same-id": (_one_song_an_id,),
}


def _first_errors(played: Played) -> list[AIStemSplitterError]:
    seen = played.rounds[0].seen
    raised = [error for error in seen.errors if isinstance(error, AIStemSplitterError)]
    return _batch_errors(played, seen) + raised


def _batch_errors(played: Played, seen: Seen) -> list[AIStemSplitterError]:
    """Return the errors of songs; other sources may fail."""
    names = {song.filename for song in played.trial.songs}
    failed = [outcome for outcome in seen.outcomes if isinstance(outcome, Failed)]
    return [outcome.error for outcome in failed if str(outcome.source).rpartition("/")[2] in names]


def _show(errors: list[BaseException]) -> str:
    return ", ".join(f"{type(error).__name__}: {error}" for error in errors) or "nothing"
