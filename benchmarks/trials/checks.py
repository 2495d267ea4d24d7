"""The promises, each checked against everything that is known of a trial."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import attrs

from aistemsplitter_async import Done, Failed
from aistemsplitter_async.errors import AIStemSplitterError, SubmissionUncertainError
from aistemsplitter_async.models import Submission
from trials.program import Seen
from trials.runner import Played
from trials.service import API_KEY, REFUSAL, TOKEN
from trials.songs import STEMS, read_stem

_IN_BETWEEN = 1  # creates that may have passed the check when the journal vanished, with one split in flight


@attrs.frozen(order=True)
class Broken:
    """A promise that was broken, and how it showed."""

    promise: str
    how: str


def check(played: Played) -> list[Broken]:
    """Return the promises that were broken, the gravest first."""
    found = [Broken(promise, how) for promise, how in _check(played)]
    return list(dict.fromkeys(found))


def _check(played: Played) -> Iterator[tuple[str, str]]:
    yield from _charged_twice(played)
    yield from _lost(played)
    yield from _unfinished(played)
    yield from _files(played)
    yield from _overspent(played)
    for seen in played.rounds:
        if seen.hung:
            yield "hung", seen.hung
        for what in seen.left:
            yield "left behind", what
        yield from _errors(played, seen)
        yield from _secrets(seen)
    yield from _misreported(played)
    for problem in played.problems:
        yield "wrong request", problem


def _charged_twice(played: Played) -> Iterator[tuple[str, str]]:
    songs = Counter(charge.song for charge in played.charges[-1])
    for song, times in songs.items():
        if times > 1:
            yield "charged twice", f"song {song} was paid for {times} times"
    for key, bodies in played.bodies.items():
        if len(bodies) > 1:
            yield "other bytes", f"{len(bodies)} different bodies were sent under {key}"
    if played.late_creates > _IN_BETWEEN:
        yield "without a record", f"{played.late_creates} creates were sent after the journal was gone"


def _lost(played: Played) -> Iterator[tuple[str, str]]:
    """Every charge must be known after the run that caused it: its id, or its key and bytes."""
    for number, seen in enumerate(played.rounds):
        texts: set[str] = set(played.journal[number])
        for value in (value for before in played.rounds[: number + 1] for value in before.known()):
            texts.add(value.idempotency_key if isinstance(value, Submission) else value)
        del seen
        keys = {value.idempotency_key for before in played.rounds for value in before.known() if isinstance(value, Submission)}
        for charge in played.charges[number]:
            if not (charge.split_id in texts or charge.key in played.journal[number] or charge.key in keys):
                yield "paid and lost", f"nothing tells of the charge for song {charge.song} (key known: {charge.key in texts})"


def _unfinished(played: Played) -> Iterator[tuple[str, str]]:
    trial, last = played.trial, played.rounds[-1]
    if trial.meddling == "journal deleted" or trial.same_id or any(seen.hung for seen in played.rounds):
        return
    if trial.call != "batch":
        if not last.results:
            yield "unfinished", f"the next run ended in {_show(last.errors)}"
        elif len(played.charges[-1]) != 1:
            yield "unfinished", f"{len(played.charges[-1])} charges for one song"
        return
    failed = [outcome for outcome in last.outcomes if isinstance(outcome, Failed) and _is_song(played, outcome.source)]
    for outcome in failed:
        if trial.kind not in ("clock", "old-key") or outcome.error.code != "NEEDS_REVIEW":
            yield "unfinished", f"{outcome.stage} still fails: {outcome.error!r}"
    if last.errors:
        yield "unfinished", f"the next run ended in {_show(last.errors)}"
    if not failed and not last.errors and {charge.song for charge in played.charges[-1]} != {song.number for song in trial.songs}:
        yield "unfinished", "a song is done that was never paid for"


def _files(played: Played) -> Iterator[tuple[str, str]]:
    """A file with a final name is complete, and holds a stem of the song that its folder is named after."""
    for files in played.files:
        for name, data in files.items():
            folder, _, file = name.rpartition("/")
            held = read_stem(data)
            if held is None:
                yield "partial file", f"{name} has {len(data)} bytes that are no stem"
            elif (f"song{held[1]}", held[2]) != (folder, file.partition(".")[0]):
                yield "wrong file", f"{name} holds {held[2]} of song {held[1]}"
    last = played.rounds[-1]
    for outcome in last.outcomes:
        if isinstance(outcome, Done) and sorted(outcome.files) != sorted(STEMS):
            yield "partial file", f"done with {sorted(outcome.files)}"


def _overspent(played: Played) -> Iterator[tuple[str, str]]:
    cap = played.trial.max_credits
    spent = sum(charge.credits for charge in played.charges[0])
    if cap is not None and spent > cap:
        yield "overspent", f"{spent:g} of {cap:g} credits"


def _errors(played: Played, seen: Seen) -> Iterator[tuple[str, str]]:
    for error in seen.errors:
        if not isinstance(error, AIStemSplitterError | asyncio.CancelledError) and error not in seen.gate:
            yield "foreign error", repr(error)
    if seen.gate and not seen.errors:
        yield "misreported", f"the gate raised {seen.gate[-1]!r}, and the call went on"
    replayed = played.trial.call == "resubmit" or played.trial.faults
    if seen is played.rounds[0] and seen.gate and seen.errors and not replayed:
        if seen.errors[0] is not seen.gate[-1]:
            yield "misreported", f"the gate raised {seen.gate[-1]!r}, the caller got {seen.errors[0]!r}"


def _secrets(seen: Seen) -> Iterator[tuple[str, str]]:
    errors = [*seen.errors, *(outcome.error for outcome in seen.outcomes if isinstance(outcome, Failed))]
    for text in (*map(str, errors), *map(repr, errors), *map(repr, seen.outcomes), *seen.logs):
        if API_KEY in text or TOKEN in text:
            yield "secret shown", text[:300]


def _misreported(played: Played) -> Iterator[tuple[str, str]]:
    """What the first run had to say, where a kind of trouble makes that certain."""
    trial, first = played.trial, played.rounds[0]
    errors = [outcome.error for outcome in first.outcomes if isinstance(outcome, Failed) and _is_song(played, outcome.source)]
    errors += [error for error in first.errors if isinstance(error, AIStemSplitterError)]
    if trial.kind in ("headers", "bodies", "listener"):
        for error in errors:
            yield "misreported", f"no trouble for the caller, but {error!r}"
        if first.creates > len(trial.songs):
            yield "misreported", f"{first.creates} creates for {len(trial.songs)} songs"
    if trial.kind == "refusal":
        if first.creates > len(trial.songs):
            yield "misreported", f"{first.creates} creates of {len(trial.songs)} songs, all refused"
        for error in errors:
            if error.code != REFUSAL["code"] or REFUSAL["message"] not in str(error):
                yield "misreported", f"a refusal became {error!r}"
    if trial.kind == "proxy" and trial.call != "resubmit":
        for error in errors:
            if isinstance(error, SubmissionUncertainError):
                yield "misreported", f"certain not to have arrived, but {error!r}"
            if "proxy" not in str(error) or str(trial.proxy_status) not in str(error):
                yield "misreported", f"the proxy is not named: {error!r}"
    if trial.meddling in ("second process", "journal opened and closed", "journal among the sources"):
        if played.other not in ("", "JournalLockedError"):
            yield "two owners", f"a second process {played.other}"
    if trial.same_id:
        owners: dict[str, str] = {}
        for outcome in played.rounds[-1].outcomes:
            if isinstance(outcome, Done):
                other = owners.setdefault(outcome.split.id, str(outcome.source))
                if other != str(outcome.source):
                    yield "wrong file", f"{outcome.source} and {other} are both done with {outcome.split.id}"


def _is_song(played: Played, source: object) -> bool:
    names = {song.filename for song in played.trial.songs}
    return str(source).rpartition("/")[2] in names


def _show(errors: list[BaseException]) -> str:
    return ", ".join(f"{type(error).__name__}: {error}" for error in errors) or "nothing"
