"""Songs that were bought before journals knew songs by their audio, and are not where they were."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.runner import Batch
from aistemsplitter_async.cli.screen.render import number
from aistemsplitter_async.cli.screen.terminal import Terminal


def describe_unrecognised(count: int) -> str:
    """Return the warning about songs that can only be recognised as long as no byte of them changed."""
    return (
        f"{number(count)} song{'s' * (count != 1)} of this journal, bought by an older version, can be recognised only "
        "while no byte of the file changes: under another name and with other tags, it would be paid for again"
    )


async def announced(
    items: AsyncGenerator[BatchItem, None] | Iterable[BatchItem], get_batch: Callable[[], Batch], terminal: Terminal
) -> AsyncGenerator[BatchItem, None]:
    """Iterate over the sources of a batch, after a warning about songs that it may not recognise."""
    sources = [record.source for record in await get_batch().unrecognised()]
    if missing := await run_in_thread(_count_missing, sources):
        terminal.say(describe_unrecognised(missing))
    if isinstance(items, AsyncGenerator):
        async with aclosing(items):
            async for item in items:
                yield item
        return
    for item in items:
        yield item


def _count_missing(sources: Sequence[str]) -> int:
    return sum(not Path(source).is_file() for source in sources)
