"""A library on a cluster of Dask: many machines work through one journal, with one key.

```python
from aistemsplitter_async.distributed import DaskLibrary

async with DaskLibrary("tcp://scheduler:8786", journal="postgresql://..").run(songs, into="/mnt/stems") as outcomes:
    async for outcome in outcomes:
        ...
```

It needs the extra `dask`. The names below load on first use.
"""

from typing import TYPE_CHECKING

from aistemsplitter_async._lazy import lazy

if TYPE_CHECKING:  # what type checkers read: `as` marks a re-export
    from aistemsplitter_async.distributed.library import ClusterBatch as ClusterBatch, DaskLibrary as DaskLibrary
else:
    lazy(__name__, {"distributed.library": "ClusterBatch DaskLibrary"})
