"""What has requests to send, and what the gate asks of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aistemsplitter_async._gate.lanes import Order
from aistemsplitter_async._gate.slot import Slot


class Source(Protocol):
    """Has requests to send, and chooses among them only when a slot is free."""

    def best(self, now: float, after: Order | None = None) -> Order | None:
        """Return the order of the best candidate at `now`, of those behind `after`; `None` if there is none."""
        ...

    def alike(self, order: Order, now: float) -> int:
        """Return how many candidates there are that are given slots under the same conditions, perhaps too few."""
        ...

    def next_change(self, now: float) -> float:
        """Return when `best` may answer differently through time alone (monotonic seconds, or infinity)."""
        ...

    def grant(self, order: Order, slot: Slot) -> None:
        """Take the slot for the candidate of `order` that `best` just returned."""
        ...

    def refuse(self, build: Callable[[], Exception]) -> None:
        """Fail all that waits, each with its own exception: no slot will come."""
        ...
