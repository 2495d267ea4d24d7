"""A source that somebody waits for, on its own among those of a lasting batch."""

from __future__ import annotations

import asyncio
from contextvars import Context, copy_context
from typing import Self

import attrs

from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.outcome import Outcome


@attrs.frozen(kw_only=True)
class Call(BatchItem):
    """A source and the caller of a `Station` who waits for its outcome.

    It has nothing to do with the sources before it: it does not wait for their turn, and the song of one that has ended
    is looked at again, as in another run.

    Attributes:
        answer: gets the outcome, or `None` if there will be none; cancelled once nobody waits for it.
        context: the caller's, in which the song is split.
    """

    answer: asyncio.Future[Outcome | None]
    context: Context

    @classmethod
    def of(cls, item: BatchItem) -> Self:
        """Return a call for `item` by the running task."""
        options = {field.name: getattr(item, field.name) for field in attrs.fields(BatchItem)}
        return cls(**options, answer=asyncio.get_running_loop().create_future(), context=copy_context())

    @property
    def is_withdrawn(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.answer.cancelled()

    def settle(self, outcome: Outcome | None) -> None:
        """Give the caller the outcome, or `None`, unless that is done, or nobody waits for it."""
        if not self.answer.done():
            self.answer.set_result(outcome)
