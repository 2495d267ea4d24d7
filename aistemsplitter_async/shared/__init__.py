"""One key, several processes: what they know of its limit is kept in a store, and all together keep it.

```python
client = AsyncAIStemSplitter(shared="host", rate_limit=RateLimit(1200))  # every process on this machine

gate = SharedGate(PostgresGateStore("postgresql://host/database"), RateLimit(1200))  # the long form
client = AsyncAIStemSplitter(gate=gate)
```
"""

from typing import TYPE_CHECKING

from aistemsplitter_async._lazy import lazy

if TYPE_CHECKING:  # what type checkers read: `as` marks a re-export
    from aistemsplitter_async._gate.shared_gate import SharedGate as SharedGate
    from aistemsplitter_async._gate.store import (
        GateStore as GateStore,
        Stored as Stored,
        StoreUnavailableError as StoreUnavailableError,
    )
    from aistemsplitter_async.shared.postgres import PostgresGateStore as PostgresGateStore
    from aistemsplitter_async.shared.redis import RedisGateStore as RedisGateStore
    from aistemsplitter_async.shared.sqlite import SQLiteGateStore as SQLiteGateStore
else:
    lazy(
        __name__,
        {
            "_gate.shared_gate": "SharedGate",
            "_gate.store": "GateStore Stored StoreUnavailableError",
            "shared.postgres": "PostgresGateStore",
            "shared.redis": "RedisGateStore",
            "shared.sqlite": "SQLiteGateStore",
        },
    )
