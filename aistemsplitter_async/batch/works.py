"""What the tracks of one batch share: its parts, its bounds, its purse and its brake."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import attrs
from anyio import CapacityLimiter

from aistemsplitter_async._core.retry import Random
from aistemsplitter_async.batch.journal import Journal
from aistemsplitter_async.batch.pace import plan_in_flight
from aistemsplitter_async.batch.patience import Patience
from aistemsplitter_async.batch.preflight import charged_credits
from aistemsplitter_async.batch.store import Store
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import DOWNLOADS, KEY_AGE, PARK, UPLOADS
from aistemsplitter_async.errors import AIStemSplitterError, ConfigurationError, JournalError, SpendLimitError

if TYPE_CHECKING:
    from aistemsplitter_async._net.gate import GateSnapshot
    from aistemsplitter_async._net.lanes import Priority
    from aistemsplitter_async.models import OutputFormat, StemModel
    from aistemsplitter_async.stages import Stages

P = ParamSpec("P")
T = TypeVar("T")

_GATE = "gate"  # the note that keeps what the gate knows
_SLOTS_KEPT = 5000  # of a limit above that, what a restart forgets is not worth writing down every second
_HASHES = 2  # files read at a time to identify them: more only makes a disk seek


def _at_least_one(_: object, attribute: attrs.Attribute[int], value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigurationError(f"{attribute.name} must be at least 1, not {value}")


def _not_negative(_: object, attribute: attrs.Attribute[float], value: float | None) -> None:
    if value is not None and not value >= 0:  # nor NaN
        raise ConfigurationError(f"{attribute.name} must be at least 0, not {value:g}")


@attrs.frozen(kw_only=True)
class BatchOptions:
    """What a batch was asked for; see `AsyncAIStemSplitter.split_many`."""

    into: Path | None = None
    stem_model: StemModel | None = None
    output_format: OutputFormat | None = None
    webhook_url: str | None = None
    in_flight: int | None = attrs.field(default=None, validator=_at_least_one)
    uploads: int = attrs.field(default=UPLOADS, validator=_at_least_one)
    downloads: int = attrs.field(default=DOWNLOADS, validator=_at_least_one)
    dedupe: bool = True
    priority: Priority = "bulk"
    max_credits: float | None = attrs.field(default=None, validator=_not_negative)
    key_age: float = KEY_AGE
    retry_failed: bool = False
    patience: float = PARK
    overwrite: bool = False

    @property
    def variant(self) -> str:
        """What is asked of every source: the same audio with another model is another track."""
        return f"{self.stem_model or ''}/{self.output_format or ''}"


class Purse:
    """What a run may still spend, and what it has spent, in credits."""

    def __init__(self, most: float | None) -> None:
        self.used = 0.0
        self._turn = asyncio.Lock()
        self._most = most
        self._pending: dict[int, float] = {}
        self._largest = 1.0  # nothing costs less

    def turn(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """Return what to hold from `reserve` to `pay`: where spending is limited, unknown prices come one by one."""
        return self._turn if self._most is not None and seconds is None else nullcontext()

    def reserve(self, track: int, seconds: float | None) -> None:
        """Set aside what a create will cost; if that is not known, as much as the dearest one so far.

        A split of unknown length may turn out dearer than any before: by that much the limit can be exceeded, once.

        Raises:
            SpendLimitError: that would be more than the run may spend.
        """
        self.release(track)
        price = self._largest if seconds is None else charged_credits(seconds)
        if self._most is not None and self.used + sum(self._pending.values()) + price > self._most:
            raise SpendLimitError(
                f"the next split would exceed the {self._most:g} credits this run may spend "
                f"({self.used:g} are spent); raise the limit to go on",
                code="SPEND_LIMIT",
            )
        if self._most is not None:
            self._pending[track] = price

    def pay(self, track: int, credits_used: float) -> None:
        """Note what a create did cost."""
        self._pending.pop(track, None)
        self.used += credits_used
        self._largest = max(self._largest, credits_used)

    def release(self, track: int) -> None:
        """Give back what was set aside for a create that did not happen."""
        self._pending.pop(track, None)


class NotBegunError(Exception):
    """The batch creates no more splits, and this track has none yet."""


class OutdatedError(Exception):
    """While a create waited to be sent, time made something else of it: its upload expired, or its key is too old."""


class Brake:
    """Whether the batch still creates splits.

    Args:
        stop: called once, when it does not any more.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.stopped_by: AIStemSplitterError | None = None
        self.on = False
        self._stop = stop

    def pull(self, reason: AIStemSplitterError | None = None) -> None:
        """Create no more splits; what is paid for is finished."""
        self.stopped_by = self.stopped_by or reason
        if not self.on:
            self.on = True
            self._stop()

    def check(self) -> None:
        """Check that splits may be created.

        Raises:
            NotBegunError: not any more.
        """
        if self.on:
            raise NotBegunError


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
        self.in_flight = CapacityLimiter(self._plan_in_flight())
        # Everything between a source being taken and its outcome: what waits for uploads and downloads included.
        self.places = CapacityLimiter(self._plan_places())

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
        self.in_flight.total_tokens = self._plan_in_flight()
        self.places.total_tokens = self._plan_places()

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
