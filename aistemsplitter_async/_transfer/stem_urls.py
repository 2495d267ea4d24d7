"""The stem URLs of a split, and when they are renewed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import attrs

from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async.config import MOST_PAUSES
from aistemsplitter_async.errors import AIStemSplitterError
from aistemsplitter_async.models import Split

Refresh = Callable[[str], Awaitable[Split]]


class StemURLs:
    """The stem URLs of one split. All its stems, and all calls that download them, share the requests that renew them.

    Attributes:
        renewals: how often the URLs were renewed.
    """

    def __init__(self, split: Split, refresh: Refresh, pipeline: Pipeline) -> None:
        self.renewals = 0
        self._split = split
        self._refresh = refresh
        self._pipeline = pipeline
        self._renewed_at = -math.inf  # monotonic seconds
        self._turn = asyncio.Lock()

    def of(self, stem: str) -> str:
        return self._split.stems[stem]

    async def renew(self, renewals: int) -> bool:
        """Renew the URLs, unless another stem has done so since there were `renewals`; return whether they are new.

        What refuses URLs that are fresh needs time, and no others.
        """
        pipeline = self._pipeline
        async with self._turn:
            if self.renewals != renewals:
                return True
            age = pipeline.clock.monotonic() - self._renewed_at
            if age < pipeline.retry.pause_cap or self.renewals == MOST_PAUSES:
                return False
            try:
                fresh = await self._refresh(self._split.id)
            except AIStemSplitterError as error:
                if not 0 < pipeline.wait_time(error, is_known=True) < math.inf:
                    raise
                return False  # the API is as late as the CDN
            self._split = attrs.evolve(fresh, stems={**self._split.stems, **fresh.stems})
            self._renewed_at = pipeline.clock.monotonic()
            self.renewals += 1
            return True
