"""What the tracks of one batch share: its parts, its bounds, its purse and its brake."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from aistemsplitter_async.batch.bounds import Brake, Purse, plan_in_flight
from aistemsplitter_async.batch.capacity import Capacity
from aistemsplitter_async.batch.options import BatchOptions
from aistemsplitter_async.batch.patience import Patience
from aistemsplitter_async.clock import Clock, Random
from aistemsplitter_async.errors import AIStemSplitterError, JournalError
from aistemsplitter_async.journal.journal import Journal
from aistemsplitter_async.journal.store import Store

if TYPE_CHECKING:
    from aistemsplitter_async._engine import Stages
    from aistemsplitter_async._gate.gate import GateSnapshot


P = ParamSpec("P")
T = TypeVar("T")

_GATE = "gate"  # the note that keeps what the gate knows
_SLOTS_KEPT = 5000  # of a limit above that, what a restart forgets is not worth writing down every second
_HASHES = 2  # files read at a time to identify them: more only makes a disk seek


class Works:
    """The shared parts of one batch."""

    def __init__(
        self,
        stages: Stages,
        journal: Journal,
        options: BatchOptions,
        *,
        clock: Clock,
        random: Random,
        stop: Callable[[], None],
    ) -> None:
        self.stages = stages
        self.journal = journal
        self.options = options
        self.clock = clock
        self.brake = Brake(stop)
        self._gate_kept: GateSnapshot | None = None
        self.purse = Purse(options.max_credits)
        self.running = dict[int, asyncio.Event]()  # tracks in the works, by their row in the journal; set at their end
        self.unsettled = dict[int, AIStemSplitterError]()  # why it is not known what became of a create, by row
        self.hashes = asyncio.Semaphore(_HASHES)
        self.in_flight = Capacity(self._plan_in_flight())
        # Everything between a source being taken and its outcome: what waits for uploads and downloads included.
        self.places = Capacity(self._plan_places())

        def patience(places: int | None = None) -> Patience:
            return Patience(
                clock=clock, random=random, give_up=self.brake.pull, longest=options.patience, places=places
            )

        self.disk, self.creating = patience(), patience()
        self.uploading, self.downloading = patience(options.uploads), patience(options.downloads)

    @property
    def notices(self) -> list[str]:
        """What holds everything up, for people."""
        parts = (self.disk, self.uploading, self.creating, self.downloading)
        return list(dict.fromkeys(part.notice for part in parts if part.notice is not None))

    def follow_the_limit(self) -> None:
        """Have as many splits in the works as the key's limit, as it is known now, can keep busy."""
        self.in_flight.resize(self._plan_in_flight())
        self.places.resize(self._plan_places())

    async def write(self, change: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Write to the journal; while the disk is full, wait.

        Raises:
            JournalError: it cannot be written for another reason.
        """

        async def once() -> T:
            return await self.journal.write(change, *args, **kwargs)

        return await self.disk.endure(once)

    async def recall_gate(self) -> None:
        """Take the requests of an earlier run into account: to the server, a restart is no reason to allow more."""
        kept = await self.journal.write(Store.note, _GATE)
        if kept is not None:
            self.stages.pipeline.gate.restore(json.loads(kept))

    async def remember_gate(self) -> None:
        """Keep what is known of the key's limit, and which of its slots are in use, for the next run."""
        gate = self.stages.pipeline.gate
        snapshot = gate.snapshot()
        idle = snapshot == self._gate_kept and not snapshot.used  # nothing changes through time alone
        if idle or snapshot.used > _SLOTS_KEPT:
            return
        self._gate_kept = snapshot
        with suppress(JournalError):  # whoever needs the journal is told
            await self.journal.write(Store.set_note, _GATE, json.dumps(gate.export()))

    def _plan_in_flight(self) -> int:
        if self.options.in_flight is not None:
            return self.options.in_flight
        budget = self.stages.pipeline.gate.budget()
        return plan_in_flight(budget.limit, budget.per, self.stages.poller.typical())

    def _plan_places(self) -> int:
        return self._plan_in_flight() + 2 * (self.options.uploads + self.options.downloads)
