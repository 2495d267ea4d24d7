"""One run of the user's program against the service, in a loop of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from aistemsplitter_async.models import Submission
from benchmarks.trials.account import Account
from benchmarks.trials.disk import VirtualDisk
from benchmarks.trials.program import Program
from benchmarks.trials.remains import Log, open_descriptors
from benchmarks.trials.scenario import Disk, Trial
from benchmarks.trials.seen import Seen
from benchmarks.trials.service import API_KEY, Service
from benchmarks.trials.timeline import HungError, LoopClock, MachineClocks, VirtualLoop
from benchmarks.trials.watchdog import Watchdog

_HUNG: list[VirtualLoop] = []  # closing one would only cause further complaints


@attrs.define
class Run:
    """One run.

    Attributes:
        trial: what it is about.
        folder: with the songs in `music`, the stems in `stems`, and the ledger.
        journal: of a batch.
        listening: the service's socket.
        wall: POSIX seconds at the loop's time 0.
        healthy: nothing goes wrong.
        known: what an earlier run got to know.
        options: of a batch.
        sources: of a batch, besides the songs.
        api_key: that it uses.
        meddle: called at the trial's turn, with what the program is about to use.
        seen: filled by `play`.
    """

    trial: Trial
    folder: Path
    journal: Path
    listening: socket.socket
    wall: float
    healthy: bool = False
    known: frozenset[str | Submission] = frozenset()
    options: dict[str, Any] = attrs.field(factory=dict[str, Any])
    sources: tuple[Path, ...] = ()
    api_key: str = API_KEY
    meddle: Callable[[Account, Program], None] = lambda _, __: None
    seen: Seen = attrs.field(factory=Seen)
    _clocks: MachineClocks = attrs.field(factory=MachineClocks, init=False)

    def play(self, account: Account) -> float:
        """Run it to its end; return how long it took (virtual seconds)."""
        trial, seen = self.trial, self.seen
        before, log = open_descriptors(), Log()
        loop = VirtualLoop(thread_seconds=0.0 if self.healthy else trial.thread_seconds)
        loop.watchdog = Watchdog(loop.time, len(trial.songs) + len(trial.misfits))
        began, wall = loop.time(), self.wall
        faulty = Disk() if self.healthy else trial.disk
        disk = VirtualDisk(self.folder, faulty, lambda: loop.in_thread, self.folder / "durable")
        asyncio.set_event_loop(loop)
        written = _written()
        with log, disk, self._clocks:
            try:
                self._play_in(loop, account)
            except HungError as error:
                seen.hung = str(error)
                _HUNG.append(loop)
            else:
                loop.close()
        asyncio.set_event_loop(None)
        seen.turns, seen.logs, seen.creates = loop.turns, log.lines, account.creates
        seen.on_loop, seen.written = disk.on_loop, _written() - written
        leaves = not self.healthy and trial.cancel is not None and trial.cancel.how == "leave"
        if not seen.hung and not leaves:
            seen.left += loop.reports
            seen.left += [f"descriptor {target}" for target in open_descriptors() - before]
        return loop.time() - began + self.wall - wall

    def _play_in(self, loop: VirtualLoop, account: Account) -> None:
        trial, watchdog = self.trial, loop.watchdog
        assert watchdog is not None
        clock = LoopClock(loop, {} if self.healthy else dict(trial.jumps), self.wall + trial.skew)
        service = Service(
            account,
            trial,
            self.listening,
            healthy=self.healthy,
            now=lambda: self.wall + loop.time(),
            watchdog=watchdog,
        )
        service.turns = lambda: loop.turns
        service.on_sleep = lambda: self._sleep(loop, clock)
        loop.run_until_complete(service.start())
        program = Program(
            trial,
            self.folder,
            service,
            clock,
            self.seen,
            watchdog,
            journal=self.journal,
            healthy=self.healthy,
            known=self.known,
            options=self.options,
            sources=self.sources,
            api_key=self.api_key,
        )
        task, gone = loop.create_task(program.run()), loop.create_future()
        if not self.healthy:
            self._arm(loop, program, task, service, gone)
        loop.run_until_complete(asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED))
        if gone.done():  # as `asyncio.run` does once its coroutine has returned
            others = asyncio.all_tasks(loop) - service.tasks
            for other in others:
                other.cancel()
            loop.run_until_complete(_gather(others))
        loop.run_until_complete(_settle())
        if not task.cancelled() and (error := task.exception()) is not None and error not in self.seen.errors:
            self.seen.errors.append(error)
        self.seen.answered = service.answered
        self.seen.swallowed = service.swallowed
        self.seen.left += [f"task {stray.get_coro()}" for stray in asyncio.all_tasks(loop) - service.tasks]
        loop.run_until_complete(service.stop())

    def _sleep(self, loop: VirtualLoop, clock: LoopClock) -> None:
        """Let the machine sleep."""
        sleep = self.trial.sleep
        assert sleep is not None
        self._clocks.sleep(sleep.seconds, monotonic=sleep.monotonic)
        if sleep.monotonic:
            loop.sleep(sleep.seconds)
        else:
            self.wall += sleep.seconds
            clock.offset += sleep.seconds
        self.seen.asleep = loop.time()

    def _arm(
        self,
        loop: VirtualLoop,
        program: Program,
        task: asyncio.Task[None],
        service: Service,
        gone: asyncio.Future[None],
    ) -> None:
        """Set up what happens at certain turns."""
        cancel = self.trial.cancel
        if self.trial.turn:
            loop.at_turn(self.trial.turn, lambda: self.meddle(service.account, program))
        if cancel is None:
            return
        hooks: dict[str, Callable[[], object]] = {
            "task": task.cancel,
            "scope": program.cancel,
            "close": lambda: loop.create_task(program.close()),
            "leave": lambda: not gone.done() and loop.call_soon(gone.set_result, None),
        }

        def strike(create: int | None) -> None:
            if create == cancel.after_create:
                for number in range(cancel.times if cancel.how == "task" else 1):
                    loop.at_turn(cancel.turn + number * cancel.gap, hooks[cancel.how])

        service.on_create = strike
        strike(None)


def _written() -> int:
    """Return how many bytes this process has written to files so far; what it sends does not count."""
    with open("/proc/self/io", encoding="ascii") as file:  # noqa: PTH123
        return int(next(line for line in file if line.startswith("wchar:")).split()[1])


async def _gather(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


async def _settle() -> None:
    """Let what is being closed come to its end."""
    for _ in range(5):
        await asyncio.sleep(0)
