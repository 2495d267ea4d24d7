"""Runs a trial: once with its trouble, then without until all is finished."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import random
import shutil
import signal
import socket
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from aistemsplitter_async.errors import JournalError
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import Submission
from trials.account import Account, Charge
from trials.program import Program, Seen
from trials.scenario import Trial
from trials.service import Service
from trials.timeline import HungError, LoopClock, VirtualLoop

_HUNG: list[VirtualLoop] = []
_HEALING = 3  # runs after the trouble, at most
_PATIENCE = 60.0  # s (virtual) that a batch waits out an outage
_PAUSE = 36 * 3600.0  # s (virtual) of the trial in which time passes


@attrs.define
class Played:
    """Everything that is known of a trial once it has been played.

    Attributes:
        rounds: what was seen in each run.
        charges: the ledger at the end of each run.
        journal: texts in the journal's rows at the end of each run.
        files: content of the files with final names at the end of each run, by path.
        killed: whether the first run was.
        refused: whether a later run refused the journal.
        other: what a second process did.
        late_creates: creates that were sent after the journal was gone.
        problems: what the service did not like.
        bodies: bodies sent, by key.
    """

    trial: Trial
    rounds: list[Seen] = attrs.field(factory=list[Seen])
    charges: list[list[Charge]] = attrs.field(factory=list[list[Charge]])
    journal: list[set[str]] = attrs.field(factory=list[set[str]])
    files: list[dict[str, bytes]] = attrs.field(factory=list[dict[str, bytes]])
    killed: bool = False
    refused: bool = False
    other: str = ""
    late_creates: int = 0
    problems: list[str] = attrs.field(factory=list[str])
    bodies: dict[str, set[str]] = attrs.field(factory=dict[str, set[str]])


class Player:
    """Plays one trial in a folder of its own."""

    def __init__(self, trial: Trial, folder: Path) -> None:
        self._trial = trial
        self._folder = folder
        self._music = folder / "music"
        self._journal = self._music / "batch.journal"
        self._wall = 1_800_000_000.0
        self._played = Played(trial)
        self._creates_at_meddling: int | None = None
        self._helper: Helper | None = None
        self._listening = _listen()

    def play(self) -> Played:
        """Play the trial to its end."""
        try:
            return self._play()
        finally:
            self._listening.close()

    def _play(self) -> Played:
        trial, played = self._trial, self._played
        random.seed(trial.seed)
        self._write_songs("")
        if trial.meddling in ("second process", "journal opened and closed", "journal among the sources"):
            self._helper = Helper(self._second_process)
        if trial.kill:
            self._note(self._run_in_child())
        else:
            self._note(self._run(healthy=False))
        if self._helper is not None:
            self._helper.dismiss()
        if trial.meddling == "journal deleted" or played.rounds[0].hung:
            return played
        options = self._meddle_between()
        for _ in range(_HEALING):
            seen = self._run(healthy=True, options=options)
            self._note(seen)
            if any(isinstance(error, JournalError) for error in seen.errors):
                played.refused = True
                self._restore()
            elif self._is_finished(seen):
                break
        return played

    # ------------------------------------------------------------------------------------------------ one run

    def _run(self, *, healthy: bool, options: dict[str, Any] | None = None) -> Seen:
        trial, seen = self._trial, Seen()
        before = _descriptors()
        log = _Log()
        loop = VirtualLoop(thread_seconds=0.0 if healthy else trial.thread_seconds)
        clock = LoopClock(loop, {} if healthy else dict(trial.jumps), self._wall)
        began = loop.time()
        account = Account(self._folder / "ledger", same_id=trial.same_id)
        with log:
            try:
                loop.run_until_complete(self._main(loop, clock, account, seen, healthy=healthy, options=options or {}))
            except HungError as error:
                seen.hung = str(error)
                _HUNG.append(loop)  # closing it would only cause further complaints
            else:
                loop.close()
            finally:
                account.close()
        seen.turns, seen.logs, seen.creates = loop.turns, log.lines, account.creates
        self._wall += loop.time() - began
        self._played.problems += account.problems
        for key, bodies in account.seen.items():
            self._played.bodies.setdefault(key, set()).update(bodies)
        if self._creates_at_meddling is not None and not healthy:
            self._played.late_creates = account.creates - self._creates_at_meddling
        leaves = not healthy and trial.cancel is not None and trial.cancel.how == "leave"
        if not seen.hung and not leaves:
            seen.left += loop.reports
            seen.left += [f"descriptor {target}" for target in _descriptors() - before]
        return seen

    async def _main(
        self,
        loop: VirtualLoop,
        clock: LoopClock,
        account: Account,
        seen: Seen,
        *,
        healthy: bool,
        options: dict[str, Any],
    ) -> None:
        trial = self._trial
        wall = self._wall
        service = Service(account, trial, self._listening, healthy=healthy, now=lambda: wall + loop.time())
        async with service:
            usual = {"retry_failed": True} if healthy else {"max_credits": trial.max_credits}
            usual["patience"] = _PATIENCE
            program = Program(
                trial,
                self._folder,
                service,
                clock,
                seen,
                healthy=healthy,
                known=self._known(),
                journal=self._journal,
                options=usual | options,
                sources=self._further_sources(),
            )
            task = loop.create_task(program.run())
            gone = loop.create_future()
            if not healthy:
                self._arm(loop, program, task, service, gone)
            await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
            if gone.done():  # as `asyncio.run` does once its coroutine has returned
                others = asyncio.all_tasks() - service.tasks - {_current()}
                for other in others:
                    other.cancel()
                await asyncio.gather(*others, return_exceptions=True)
            for _ in range(5):
                await asyncio.sleep(0)
            if not task.cancelled() and task.exception() is not None and task.exception() not in seen.errors:
                seen.errors.append(task.exception() or AssertionError())
            strays = asyncio.all_tasks() - service.tasks - {_current()}
            seen.left += [f"task {stray.get_coro()}" for stray in strays]
            seen.connects = service.refused_connects

    def _arm(
        self,
        loop: VirtualLoop,
        program: Program,
        task: asyncio.Task[None],
        service: Service,
        gone: asyncio.Future[None],
    ) -> None:
        """Set up what happens at certain turns."""
        trial, cancel = self._trial, self._trial.cancel
        if trial.turn:
            loop.at_turn(trial.turn, lambda: self._meddle(service.account))
        if cancel is None:
            return
        hooks: dict[str, Callable[[], object]] = {
            "task": task.cancel,
            "scope": program.scope.cancel,
            "leave": lambda: gone.done() or gone.set_result(None),
        }

        def strike(create: int | None) -> None:
            if create == cancel.after_create:
                for number in range(cancel.times if cancel.how == "task" else 1):
                    loop.at_turn(cancel.turn + number * cancel.gap, hooks[cancel.how])

        service.on_create = strike
        strike(None)

    def _run_in_child(self) -> Seen:
        """Run in a process that is killed at a certain write."""
        answer = self._folder / "seen"
        pid = os.fork()
        if not pid:
            try:
                _kill_at(self._trial.kill)
                seen = self._run(healthy=False)
                seen.heard.clear()
                answer.write_bytes(pickle.dumps(seen))
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        self._played.killed = os.WIFSIGNALED(status)
        if self._played.killed:
            return Seen()
        return pickle.loads(answer.read_bytes()) if answer.exists() else Seen(hung="the child crashed")  # type: ignore[no-any-return]  # noqa: S301

    def _second_process(self) -> str:
        """Run the batch in another process."""
        self._trial = attrs.evolve(self._trial, meddling="")
        self._listening = _listen()
        seen = self._run(healthy=True)
        return "".join(type(error).__name__ for error in seen.errors) or "ran"

    # -------------------------------------------------------------------------------------------- meddling

    def _write_songs(self, tag: str) -> None:
        self._music.mkdir(exist_ok=True)
        for song in self._trial.songs:
            if song.format != "url":
                (self._music / song.filename).write_bytes(song.build(tag))

    def _further_sources(self) -> tuple[Path, ...]:
        names = ("batch.journal", "batch.journal-wal", "batch.journal.status.json", "batch.journal.lock")
        among = self._trial.meddling == "journal among the sources"
        return tuple(self._music / name for name in names) if among else ()

    def _meddle(self, account: Account) -> None:
        """Do in the middle of a run what others do to its journal."""
        trial, played = self._trial, self._played
        if not any(target.endswith(str(self._journal)) for target in _descriptors()):
            return  # too early or too late: nobody owns it
        if trial.meddling in ("journal moved", "journal deleted"):
            self._creates_at_meddling = account.creates
            self._journal.rename(self._folder / "aside")
        if trial.meddling == "journal opened and closed":
            self._journal.open("rb").close()
        if self._helper is not None:
            played.other = self._helper.call()
            account.reload()

    def _meddle_between(self) -> dict[str, Any]:
        """Do between two runs what a user does; return the options of the next."""
        trial = self._trial
        if trial.meddling == "journal renamed alone" and self._journal.exists():
            self._journal = self._journal.rename(self._folder / "renamed.journal")
        if trial.meddling == "journal moved" and self._creates_at_meddling is not None:
            self._restore()
        if trial.meddling == "retagged":
            self._write_songs("a tag that was edited")
        if trial.meddling == "a day and a half passes":
            self._wall += _PAUSE
        return {"stem_model": "4s"} if trial.meddling == "defaults spelled out" else {}

    def _restore(self) -> None:
        """Put the journal back where it was, as a refusal of ours says."""
        aside, wal = self._folder / "aside", self._music / "batch.journal-wal"
        if aside.exists():
            aside.replace(self._journal)
        if self._journal.name == "renamed.journal" and wal.exists():
            wal.replace(self._journal.with_name("renamed.journal-wal"))

    # ---------------------------------------------------------------------------------------------- what is known

    def _note(self, seen: Seen) -> None:
        played = self._played
        account = Account(self._folder / "ledger")
        account.close()
        played.rounds.append(seen)
        played.charges.append(account.charges)
        played.journal.append(self._read_journal())
        stems = self._folder / "stems"
        played.files.append(
            {
                str(path.relative_to(stems)): path.read_bytes()
                for path in stems.rglob("*")
                if path.is_file() and not path.name.startswith(".")
            }
        )

    def _read_journal(self) -> set[str]:
        """Return ids and keys in the journal; a copy of it is read, so that nothing in it changes."""
        copy = self._folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        aside = self._folder / "aside"
        main = aside if aside.exists() else self._journal
        if not main.exists():
            return set()
        shutil.copy(main, copy / "journal")
        for suffix in ("-wal", "-journal"):
            beside = self._journal.with_name(f"{self._journal.name}{suffix}")
            if beside.exists():
                shutil.copy(beside, copy / f"journal{suffix}")
        db = sqlite3.connect(copy / "journal")
        try:
            rows = db.execute("SELECT split_id, idempotency_key FROM tracks").fetchall()
        except sqlite3.Error:
            return set()
        finally:
            db.close()
        return {text for row in rows for text in row if text}

    def _known(self) -> frozenset[str | Submission]:
        return frozenset(value for seen in self._played.rounds for value in seen.known())

    def _is_finished(self, seen: Seen) -> bool:
        if self._trial.call != "batch":
            return bool(seen.results)
        errors = [getattr(outcome, "error", None) for outcome in seen.outcomes]
        done = sum(error is None or error.code == "NEEDS_REVIEW" for error in errors)
        return done >= len(self._trial.songs)


class Helper:
    """A process that was forked before anything was open, and does something when it is called."""

    def __init__(self, work: Callable[[], str]) -> None:
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                os.close(self._orders)
                if os.read(orders, 1):
                    os.write(answers, work().encode())
            finally:
                os._exit(0)
        os.close(orders)
        os.close(answers)

    def call(self) -> str:
        with suppress(BrokenPipeError):
            os.write(self._orders, b"!")
        return os.read(self._answers, 1000).decode()

    def dismiss(self) -> None:
        os.close(self._orders)
        os.close(self._answers)
        os.waitpid(self._pid, 0)


class _Log(logging.Handler):
    """Collects what is logged while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def __enter__(self) -> None:
        logging.getLogger().addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)


def _kill_at(point: int) -> None:
    """Let this process be killed at its n-th write to a socket, the journal or a folder."""
    left = [point]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            for last in (False, True):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                if not last:
                    result = function(*args, **kwargs)
            return result

        return call

    for owner, name in ((socket.socket, "send"), (socket.socket, "sendmsg"), (JournalStore, "commit")):
        setattr(owner, name, counted(getattr(owner, name)))
    for name in ("replace", "link", "unlink", "fsync"):
        setattr(os, name, counted(getattr(os, name)))


def _descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # of strings, not of paths
        with suppress(OSError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")  # noqa: PTH115
    return {target for target in found if "/fd" not in target}


def _current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _listen() -> socket.socket:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(100)
    listening.setblocking(False)
    return listening
