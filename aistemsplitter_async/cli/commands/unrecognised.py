"""Warnings before a batch takes its sources: of songs that it may not recognise, and of who can read its journal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.batch.batch import Batch
from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.cli.screen.render import number, show
from aistemsplitter_async.cli.screen.terminal import Terminal


def describe_missing(sources: Sequence[str]) -> str:
    """Return the warning about songs that can only be recognised as long as no byte of them changed."""
    count = len(sources)
    more = f", and {number(count - 1)} more" if count > 1 else ""
    return show(
        f"{number(count)} song{'s' * (count != 1)} that an older version bought {'is' if count == 1 else 'are'} gone "
        f"({sources[0]}{more}): such a song is recognised only while no byte of the file changes; under another name "
        "and with other tags, it would be paid for again"
    )


def describe_exposed(folder: Path) -> str:
    """Return the warning about a journal that others can read."""
    return show(
        f"others who use {folder} can read the journal in it, which has the addresses of uploads and stems: the file "
        "system there keeps no private files"
    )


def find_missing(sources: Sequence[str]) -> list[str]:
    """Return the files that are not where they were; a name without a folder is none."""
    return [source for source in sources if Path(source).is_absolute() and not Path(source).is_file()]


async def announced(
    items: AsyncGenerator[BatchItem, None] | Iterable[BatchItem], get_batch: Callable[[], Batch], terminal: Terminal
) -> AsyncGenerator[BatchItem, None]:
    """Iterate over the sources of a batch, after its warnings."""
    if exposed := await get_batch().exposed_folder():
        terminal.say(describe_exposed(exposed))
    if missing := await run_in_thread(find_missing, await get_batch().unrecognised()):
        terminal.say(describe_missing(missing))
    if isinstance(items, AsyncGenerator):
        async with aclosing(items):
            async for item in items:
                yield item
        return
    for item in items:
        yield item
