"""Faults: what can go wrong with one request or one webhook, as values, and the rules that say which one it applies to.

```python
from aistemsplitter_async.sandbox import faults

rule = sandbox.faults.add("create", faults.Status(503, retry_after=2), times=2)
...
assert rule.consumed == 2
```

`effect` says whether the operation is carried out before its answer is replaced or cut. Byte counts are of the body of
the answer; seconds are of the sandbox's clock, so `Sandbox.advance` skips a latency.

This room imports nothing of the sandbox; the service and all above it may import it.
"""

from aistemsplitter_async.sandbox.faults.base import Fault
from aistemsplitter_async.sandbox.faults.requests import (
    HOSTILE_NAMES,
    HOSTILE_URLS,
    KINDS,
    Body,
    BodyKind,
    ChangedETag,
    ChangedField,
    ContentType,
    Cut,
    CutKind,
    Drip,
    ExpiredReservation,
    ExpiredURL,
    ExtraFields,
    FailedSplit,
    Framing,
    Header,
    HostileStems,
    Latency,
    MissingField,
    NeverFinishing,
    Reset,
    Stall,
    Status,
    StopReading,
    WrongContentRange,
)
from aistemsplitter_async.sandbox.faults.webhooks import OF_WEBHOOKS, Duplicated, Forged, Late, Lost, OutOfOrder, Stale

__all__ = [
    "HOSTILE_NAMES",
    "HOSTILE_URLS",
    "KINDS",
    "OF_WEBHOOKS",
    "Body",
    "BodyKind",
    "ChangedETag",
    "ChangedField",
    "ContentType",
    "Cut",
    "CutKind",
    "Drip",
    "Duplicated",
    "ExpiredReservation",
    "ExpiredURL",
    "ExtraFields",
    "FailedSplit",
    "Fault",
    "Forged",
    "Framing",
    "Header",
    "HostileStems",
    "Late",
    "Latency",
    "Lost",
    "MissingField",
    "NeverFinishing",
    "OutOfOrder",
    "Reset",
    "Stale",
    "Stall",
    "Status",
    "StopReading",
    "WrongContentRange",
]
