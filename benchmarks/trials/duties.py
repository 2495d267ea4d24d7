"""What the first run had to do or say, where the kind of trouble makes that certain."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

from aistemsplitter_async import Done, Failed
from aistemsplitter_async.config import DOWNLOADS, LONGEST_CLOSED
from aistemsplitter_async.errors import AIStemSplitterError, SubmissionUncertainError
from aistemsplitter_async.models import Submission
from benchmarks.trials.remains import Played
from benchmarks.trials.replies import REFUSAL
from benchmarks.trials.seen import Seen
from benchmarks.trials.service import Answered
from benchmarks.trials.songs import MIX, build_stem, is_sum

Check = Callable[[Played], Iterator[tuple[str, str]]]

_IN_BETWEEN = 1  # creates that may have passed the check when the journal vanished, with one split in flight
_WAKING = (
    200.0  # s (virtual) after a sleep: the longest time limit (a create) once, for what was in flight, and the rest
)
_SWALLOWED = 2  # requests on dead connections; one that fails shows that the others are dead too
_SICK = 3600.0  # s (virtual) that one song may keep a batch from its end while the service is well
_LIVES = 60.0  # s that an upload can be used for, by the times of the service: one is enough
_UPLOADS = 12  # of one song: three reservations with four attempts each
_PER_STEM = 6000  # bytes written for each stem of 1,500, whatever is noted about it besides
_USUALLY = 400_000  # bytes written in a run however few stems there are
_SHORTLY = 100.0  # s; a wait of that length is waited out by every call
_BESIDES = 300.0  # s for all but the wait that was asked for; a 429 makes the gate careful
_SLACK = 1.5  # s; dates are whole seconds
_API = ("reserve", "create", "poll")


def _untroubled(played: Played) -> Iterator[tuple[str, str]]:
    for error in first_errors(played):
        yield "misreported", f"no trouble for the caller, but {error!r}"
    yield from _one_create_each(played)


def _one_create_each(played: Played) -> Iterator[tuple[str, str]]:
    creates, songs = played.rounds[0].seen.creates, len(played.trial.songs)
    if creates > songs:
        yield "misreported", f"{creates} creates for {songs} songs, although each was answered"


def _refused(played: Played) -> Iterator[tuple[str, str]]:
    for error in first_errors(played):
        if error.code != REFUSAL["code"] or REFUSAL["message"] not in str(error):
            yield "misreported", f"a refusal became {error!r}"


def _proxy_named(played: Played) -> Iterator[tuple[str, str]]:
    for error in first_errors(played):
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
            yield "misreported", f"the sources raised {raised!r}, the caller got {show(seen.errors)}"
    for error in batch_errors(played, seen):
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


def _calm(played: Played) -> Iterator[tuple[str, str]]:
    for error in first_errors(played):
        yield "given up", f"what passes was not waited out: {error!r}"


def _passed(played: Played) -> Iterator[tuple[str, str]]:
    if played.trial.faults[0].times == 1:
        yield from _calm(played)


def _decoded(played: Played) -> Iterator[tuple[str, str]]:
    """Bytes that are as they were are taken under any name; a coding is refused by its name."""
    fault = played.trial.faults[0]
    if fault.headers:
        yield from _untroubled(played)
    for error in first_errors(played) if fault.body else ():
        if fault.body not in str(error):
            yield "misreported", f"the coding {fault.body} is not named: {error!r}"


def _ends(played: Played) -> Iterator[tuple[str, str]]:
    """A stem without end is given up, and no other suffers for it."""
    seen, trial = played.rounds[0].seen, played.trial
    if trial.call == "batch":
        for outcome in seen.outcomes:
            first = str(outcome.source).endswith(trial.songs[0].filename)
            unbounded = not trial.announced and trial.framing == "length"  # is not taken
            once = trial.endless == 1 and unbounded  # the next request gets a stem that has an end
            if isinstance(outcome, Failed) and (not first or once):
                yield "misreported", f"{outcome.source!r} is well, but {outcome.error!r}"


def _linear(played: Played) -> Iterator[tuple[str, str]]:
    written, stems = played.rounds[0].seen.written, len(played.trial.stems)
    if written > _USUALLY + _PER_STEM * stems:
        yield "not linear", f"{written} bytes were written for {stems} stems"
    yield from _untroubled(played)


def _off_loop(played: Played) -> Iterator[tuple[str, str]]:
    for name, times in Counter(played.rounds[0].seen.on_loop).items():
        yield "blocked", f"the event loop itself synced {name}, {times} times"
    yield from _calm(played)


def _caught_up(played: Played) -> Iterator[tuple[str, str]]:
    if played.trial.faults[0].young < 60.0:
        yield from _calm(played)


def _reserved(played: Played) -> Iterator[tuple[str, str]]:
    trial, answered = played.trial, played.rounds[0].seen.answered
    uploads = sum(one.op == "upload" for one in answered)
    is_outage = trial.reservations.refused == "worker" and trial.reservations.status == 503  # so it says itself
    if uploads > _UPLOADS * len(trial.songs) and not is_outage:
        yield "without end", f"{uploads} uploads of {len(trial.songs)} songs"
    lives = trial.reservations.lifetime - trial.reservations.upload
    if trial.dated and lives > _LIVES and uploads > len(trial.songs):
        yield "in vain", f"{uploads} uploads of {len(trial.songs)} songs, although each could be used for {lives:.0f} s"
    if not trial.reservations.refused or trial.reservations.lifetime >= trial.reservations.upload + 2:
        yield from _calm(played)


def _waited(played: Played) -> Iterator[tuple[str, str]]:
    """Nothing is asked for before the time that the service named, for up to an hour; then it is asked for."""
    trial, seen = played.trial, played.rounds[0].seen
    for one in seen.answered:
        for next_one in seen.answered:
            early = one.at + 0.5 < next_one.asked < one.at + min(one.wait, LONGEST_CLOSED) - _SLACK
            if one.wait and early and _is_held_back(one, next_one, alone=trial.call != "batch"):
                yield (
                    "too early",
                    f"{next_one.op} came {next_one.asked - one.at:.0f} of {one.wait:.0f} s after a {one.op}",
                )
    fault, patient = trial.faults[0], trial.call != "batch" or trial.patience >= LONGEST_CLOSED
    for error in seen.again if fault.times == 1 else ():
        if error is not None:
            yield "closed for ever", f"an hour later, the same client still raises {error!r}"
    short = 0 < fault.at_least <= _SHORTLY
    in_time = trial.timeout is None or trial.timeout > 1.2 * fault.at_least * fault.times + 30
    if (short or (trial.call == "batch" and fault.times == 1 and trial.timeout is None)) and patient and in_time:
        yield from _calm(played)
    if short and fault.times == 1 and seen.took > 1.1 * fault.at_least + _BESIDES:
        yield "too late", f"{fault.at_least:g} s were asked for, and it took {seen.took:.0f} s"


def _is_held_back(refused: Answered, asked: Answered, *, alone: bool) -> bool:
    """Return whether a refusal is about another request: of its kind, or with 429 of all that have the key."""
    if refused.status != 429:
        return alone and asked.op == refused.op
    return asked.op in _API if refused.op in _API else asked.op == refused.op


def _woke(played: Played) -> Iterator[tuple[str, str]]:
    seen = played.rounds[0].seen
    if seen.asleep is not None and seen.ended - seen.asleep > _WAKING:
        yield "slow to wake", f"it took {seen.ended - seen.asleep:.0f} s to the end after a sleep"
    # Where no clock shows the sleep, all that are sent before the first one fails are lost.
    unseen = played.trial.sleep is not None and played.trial.sleep.monotonic
    if seen.swallowed > (DOWNLOADS if unseen else _SWALLOWED):
        yield "slow to wake", f"{seen.swallowed} requests were sent on connections that died in a sleep"
    yield from _calm(played)


def _one_loop(played: Played) -> Iterator[tuple[str, str]]:
    if played.other not in ("", "ran", "ConfigurationError"):
        yield "hung", f"a gate in another event loop: {played.other}"
    yield from _calm(played)


def _only_itself(played: Played) -> Iterator[tuple[str, str]]:
    """A source that is none fails, once, and nothing else does."""
    seen, trial = played.rounds[0].seen, played.trial
    if seen.errors:
        yield "misreported", f"one bad source ({', '.join(trial.misfits)}) ended the batch: {show(seen.errors)}"
    for error in batch_errors(played, seen):
        yield "misreported", f"the source is good, but {error!r}"
    failed = [outcome for outcome in seen.outcomes if outcome.position < len(trial.misfits)]
    if len(failed) < len(trial.misfits) or not all(isinstance(outcome, Failed) for outcome in failed):
        yield "misreported", f"bad sources ({', '.join(trial.misfits)}) became {failed!r}"


def _others_well(played: Played) -> Iterator[tuple[str, str]]:
    """One song fails, and the batch does not wait for it without end."""
    seen, trial = played.rounds[0].seen, played.trial
    for outcome in seen.outcomes:
        sick = f"song{trial.sick}." in str(outcome.source)
        if isinstance(outcome, Done) is sick or (sick and not isinstance(outcome, Failed)):
            yield "misreported", f"one song is always answered with 500, and {outcome.source!r} became {outcome!r}"
    if len(seen.outcomes) < len(trial.songs):
        yield "misreported", f"{len(seen.outcomes)} outcomes of {len(trial.songs)} songs: {show(seen.errors)}"
    if seen.stopped_by is not None:
        yield "misreported", f"one song stopped the batch: {seen.stopped_by!r}"
    if seen.took > _SICK:
        yield "without end", f"one song kept the batch waiting for {seen.took:.0f} s"


def _durable(played: Played) -> Iterator[tuple[str, str]]:
    """What the journal has as downloaded is there after a power cut."""
    remains = played.rounds[0]
    for path in remains.downloaded:
        if path not in remains.files:
            yield "lost", f"{path} was downloaded, as the journal says, and is gone after the power cut"


def _remembered(played: Played) -> Iterator[tuple[str, str]]:
    """What an earlier run downloaded is not forgotten while more is fetched, and it fetched nothing else."""
    earlier = played.earlier
    assert earlier is not None
    for name in earlier.files:
        if name.rpartition("/")[2].partition(".")[0] not in played.trial.earlier:
            yield "not wanted", f"{name} was downloaded"
    if len(earlier.files) != len(played.trial.songs) * len(played.trial.earlier):
        yield "unfinished", f"{len(earlier.files)} files of those that were wanted first"
    for remains in played.rounds:
        if missing := set(earlier.recorded) - set(remains.recorded):
            yield "forgotten", f"the journal knows no longer of {sorted(missing)}"


def _mixed(played: Played) -> Iterator[tuple[str, str]]:
    """A mix is the whole sum of its stems, which leave nothing behind; nothing else is kept."""
    trial = played.trial
    for remains in played.rounds:
        for name, data in remains.files.items():
            folder, _, file = name.rpartition("/")
            stem = file.partition(".")[0]
            if stem not in trial.wanted:
                yield "not wanted", f"{name} was kept"
            if stem == MIX:
                ids = [charge.split_id for charge in remains.charges if f"song{charge.song}" == folder]
                song = int(folder.removeprefix("song"))
                summed = [[build_stem(split, song, stem, extension="wav") for stem in trial.stems[1:]] for split in ids]
                if not any(is_sum(data, stems) for stems in summed):
                    yield "wrong file", f"{name}, of {len(data)} bytes, is not the sum of its stems"
    if played.rounds[-1].parts and not batch_errors(played, played.rounds[-1].seen):
        yield "left behind", f"{played.rounds[-1].parts}"


def _streamed(played: Played) -> Iterator[tuple[str, str]]:
    """What is handed over is the beginning of the stem, and the end comes only where it ends."""
    remains, size = played.rounds[0], played.trial.stem_bytes
    for stem, held in remains.seen.streams.items():
        whole = [build_stem(charge.split_id, charge.song, stem, size) for charge in remains.charges]
        if not any(one.startswith(held) for one in whole):
            yield "wrong bytes", f"{len(held)} bytes were handed over that are not the beginning of {stem}"
        elif stem in remains.seen.whole and held not in whole:
            yield "partial stem", f"{stem} ended after {len(held)} bytes"
    if played.trial.faults[0].times == 1 and played.trial.cancel is None:
        yield from _calm(played)


OF_KINDS: dict[str, tuple[Check, ...]] = {
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
    "coding": (_decoded,),
    "endless": (_ends,),
    "many": (_linear,),
    "slow-disk": (_off_loop,),
    "lag": (_caught_up,),
    "pages": (_calm,),
    "gateway": (_passed,),
    "reservation": (_reserved,),
    "retry-after": (_waited,),
    "sleep": (_woke,),
    "loops": (_one_loop,),
    "misfit": (_only_itself,),
    "sick": (_others_well,),
    "power": (_durable,),
    "more": (_remembered,),
    "mix": (_mixed,),
    "open": (_streamed,),
}


def first_errors(played: Played) -> list[AIStemSplitterError]:
    seen = played.rounds[0].seen
    raised = [error for error in seen.errors if isinstance(error, AIStemSplitterError)]
    return batch_errors(played, seen) + raised


def batch_errors(played: Played, seen: Seen) -> list[AIStemSplitterError]:
    """Return the errors of songs; other sources may fail."""
    names = {song.filename for song in played.trial.songs}
    failed = [outcome for outcome in seen.outcomes if isinstance(outcome, Failed)]
    return [outcome.error for outcome in failed if str(outcome.source).rpartition("/")[2] in names]


def show(errors: list[BaseException]) -> str:
    return ", ".join(f"{type(error).__name__}: {error}" for error in errors) or "nothing"
