"""The state of a gate as others see it."""

from __future__ import annotations

import attrs

from aistemsplitter_async._gate.lanes import Priority
from aistemsplitter_async._plain import PlainValue


@attrs.frozen
class LimitUse(PlainValue):
    """How much of one limit is in use: `used` of `limit` requests in the last `per` seconds."""

    limit: int
    used: int
    per: float


@attrs.frozen
class GateSnapshot(PlainValue):
    """The state of the gate at one moment.

    Attributes:
        limit: requests per window, or `None` if unknown.
        used: slots occupied now.
        waiting: calls of this process that wait for a slot, per lane.
        closed_for: seconds until the wait after a 429 is over, 0 if the gate is open.
        per: seconds of a window.
        further: how much is used of the key's other limits, the shortest window first.
        holders: processes that use the key through a shared gate, as far as this one knows; 1 for a gate of its own.
        trouble: why the store of a shared gate cannot be asked, so that nothing is sent; `None` if it can.
    """

    limit: int | None
    used: int
    waiting: dict[Priority, int]
    closed_for: float
    per: float = 60.0
    further: tuple[LimitUse, ...] = ()
    holders: int = 1
    trouble: str | None = None
