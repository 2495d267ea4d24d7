"""Plays a trial: once with its trouble, then without until all is finished."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Any

import attrs

from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.models import Submission
from benchmarks.trials.account import Account
from benchmarks.trials.disk import cut_power
from benchmarks.trials.processes import Helper, run_in_thread_loop, run_killed
from benchmarks.trials.program import Program
from benchmarks.trials.remains import Played, Remains, open_descriptors, read_files, read_journal
from benchmarks.trials.run import Run
from benchmarks.trials.scenario import Trial
from benchmarks.trials.seen import Seen
from benchmarks.trials.service import API_KEY, NEW_KEY
from benchmarks.trials.timeline import EPOCH

_HEALING = 3  # runs after the trouble, at most
_DAYS = 36 * 3600.0  # s (virtual) of the trial in which time passes
_WITH_HELPER = ("second process", "journal opened and closed", "journal among the sources")


class Player:
    """Plays one trial in a folder of its own."""

    def __init__(self, trial: Trial, folder: Path) -> None:
        self._trial = trial
        self._folder = folder
        self._music = folder / "music"
        self._journal = self._music / trial.journal_in / "batch.journal"
        self._aside = folder / "aside"
        self._wall = EPOCH
        self._played = Played(trial)
        self._creates_before: int | None = None  # the journal was gone
        self._helper: Helper | None = None
        self._listening = _listen()

    def play(self) -> Played:
        """Play the trial to its end."""
        try:
            self._play()
        finally:
            self._listening.close()
        return self._played

    def _play(self) -> None:
        trial, rounds = self._trial, self._played.rounds
        random.seed(trial.seed)
        self._write_songs("")
        if trial.meddling in _WITH_HELPER:
            self._helper = Helper(self._run_beside)
        if trial.earlier:
            self._played.earlier = self._look_at(self._run(healthy=True, options={"stems": trial.earlier}))
        if trial.kill:
            killed = run_killed(lambda: attrs.evolve(self._run(), heard=[]), trial.kill, self._folder / "seen")
            if trial.disk.power:
                cut_power(self._folder, self._folder / "durable", random.Random(trial.seed))
            self._note(killed or Seen())
        else:
            self._note(self._run())
        if self._helper is not None:
            self._helper.dismiss()
        options = self._meddle_between()
        while len(rounds) <= _HEALING and not rounds[-1].seen.hung and not self._is_journal_lost():
            seen = self._run(healthy=True, options=options)
            self._note(seen)
            if any(isinstance(error, JournalError) for error in seen.errors):
                self._restore()
            elif self._is_finished(seen):
                break

    def _run(self, *, healthy: bool = False, options: dict[str, Any] | None = None) -> Seen:
        trial, played = self._trial, self._played
        usual: dict[str, Any] = {"max_credits": trial.max_credits}
        if healthy:
            usual = {} if trial.by_itself else {"retry_failed": True}
        is_replaced = trial.new_key and len(played.rounds) % 2 == 1  # then the old one, which finishes what is left
        if is_replaced:
            usual["new_key"] = True
        run = Run(
            trial,
            self._folder,
            self._journal,
            self._listening,
            self._wall,
            healthy=healthy,
            known=self._known(),
            options={"patience": trial.patience} | usual | (options or {}),
            sources=self._further_sources(),
            api_key=NEW_KEY if is_replaced else API_KEY,
            meddle=self._meddle,
        )
        account = Account(self._folder / "ledger", same_id=trial.same_id)
        self._wall += run.play(account)
        account.close()
        played.problems += account.problems
        for key, bodies in account.seen.items():
            played.bodies.setdefault(key, set()).update(bodies)
        if self._creates_before is not None and not healthy:
            played.late_creates = account.creates - self._creates_before
        return run.seen

    def _run_beside(self) -> str:
        """Run the batch in another process."""
        self._trial = attrs.evolve(self._trial, meddling="")
        self._listening = _listen()
        seen = self._run(healthy=True)
        return "".join(type(error).__name__ for error in seen.errors) or "ran"

    def _write_songs(self, tag: str) -> None:
        self._music.mkdir(exist_ok=True)
        for song in self._trial.songs:
            if song.format != "url":
                (self._music / song.filename).write_bytes(song.build(tag))

    def _further_sources(self) -> tuple[Path, ...]:
        among = self._trial.meddling == "journal among the sources"
        return tuple(self._beside(suffix) for suffix in ("", "-wal", ".status.json", ".lock")) if among else ()

    def _meddle(self, account: Account, program: Program) -> None:
        """Do in the middle of a run what others do to its journal, or to its gate."""
        meddling = self._trial.meddling
        if meddling == "gate in another loop":
            self._played.other = run_in_thread_loop(program.gate.admit)
            return
        if not any(target.endswith(str(self._journal)) for target in open_descriptors()):
            return  # too early or too late: nobody owns it
        if meddling == "journal gone":
            self._creates_before = account.creates
            self._journal.rename(self._aside)
        if meddling == "journal opened and closed":
            self._journal.open("rb").close()
        if self._helper is not None:
            self._played.other = self._helper.call()
            account.reload()

    def _meddle_between(self) -> dict[str, Any]:
        """Do between two runs what a user does; return the options of the next."""
        meddling = self._trial.meddling
        if meddling == "journal renamed alone" and self._journal.exists():
            self._journal = self._journal.rename(self._folder / "renamed.journal")
        if meddling == "journal gone":
            self._restore()
        if meddling == "retagged":
            self._write_songs("a tag that was edited")
        if meddling == "a day and a half passes":
            self._wall += _DAYS
        self._wall += self._trial.rest
        return {"stem_model": "4s"} if meddling == "defaults spelled out" else {}

    def _restore(self) -> None:
        """Put the journal back to where it was, as a refusal of ours says, with what was left behind."""
        if self._aside.exists() and not self._journal.exists():
            self._aside.rename(self._journal)
        log = self._music / "batch.journal-wal"
        if self._journal.parent != self._music and log.exists():
            log.rename(self._beside("-wal"))

    def _is_journal_lost(self) -> bool:
        return self._trial.call == "batch" and not self._trial.kill and not self._journal.exists()

    def _beside(self, suffix: str) -> Path:
        return self._journal.with_name(f"{self._journal.name}{suffix}")

    def _note(self, seen: Seen) -> None:
        self._played.rounds.append(self._look_at(seen))

    def _look_at(self, seen: Seen) -> Remains:
        account = Account(self._folder / "ledger")
        account.close()
        journal = self._journal if self._journal.exists() else self._aside
        known, downloaded, recorded = read_journal(journal, self._folder / "copy")
        files, parts = read_files(self._folder / "stems")
        return Remains(seen, account.charges, known, files, parts, downloaded, recorded)

    def _known(self) -> frozenset[str | Submission]:
        return frozenset(value for remains in self._played.rounds for value in remains.seen.known())

    def _is_finished(self, seen: Seen) -> bool:
        if self._trial.call != "batch":
            return bool(seen.results)
        errors = [getattr(outcome, "error", None) for outcome in seen.outcomes]
        begun = [getattr(outcome, "reason", "") != "not begun" for outcome in seen.outcomes]
        ended = [error is None or error.code == "NEEDS_REVIEW" for error in errors]
        done = sum(map(all, zip(ended, begun, strict=True)))
        return bool(done >= len(self._trial.songs))


def _listen() -> socket.socket:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(100)
    listening.setblocking(False)
    return listening
