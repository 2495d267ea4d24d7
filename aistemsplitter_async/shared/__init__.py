"""One key's gate for several processes, or machines: what they share, and where it is kept.

```python
client = AsyncAIStemSplitter(shared="host")  # or redis://.., postgresql://..
```
"""

from typing import TYPE_CHECKING

from aistemsplitter_async._lazy import lazy

if TYPE_CHECKING:  # what type checkers read: `as` marks a re-export
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
            "_gate.store": "GateStore Stored StoreUnavailableError",
            "shared.postgres": "PostgresGateStore",
            "shared.redis": "RedisGateStore",
            "shared.sqlite": "SQLiteGateStore",
        },
    )
