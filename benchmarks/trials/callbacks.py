"""The user's code that the client calls: listeners, gates, sources, and what is built into a session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import aiohttp

from aistemsplitter_async.models import Submission
from benchmarks.trials.kinds import ERRORS
from benchmarks.trials.scenario import Feeding, Trial, Where
from benchmarks.trials.seen import Seen


class Callbacks:
    """The user's callbacks: they note what they are told, and one of them raises."""

    def __init__(self, trial: Trial, seen: Seen, *, healthy: bool) -> None:
        self._raising = None if healthy else trial.raising
        self._seen = seen
        self._calls: dict[Where, int] = {}

    def on_event(self, event: object) -> None:
        self._seen.heard.append(event)
        self._raise("on_event")

    def on_progress(self, _: object) -> None:
        self._raise("on_progress")

    async def before_send(self, submission: Submission) -> None:
        self._seen.heard.append(submission)
        try:
            self._raise("before_send")
        except Exception as error:
            self._seen.gate.append(error)
            raise

    def feed(self, sources: Iterable[Any], how: Feeding = "plain") -> Any:
        if how == "iter":
            return _Sources(self._feed(sources))
        return self._feed(sources) if how == "plain" else self._feed_slowly(sources)

    async def _feed_slowly(self, sources: Iterable[Any]) -> AsyncIterator[Any]:
        for source in self._feed(sources):
            await asyncio.sleep(0)
            yield source

    def _feed(self, sources: Iterable[Any]) -> Iterator[Any]:
        for source in sources:
            try:
                self._raise("sources")
            except BaseException as error:
                self._seen.gate.append(error)
                raise
            yield source

    async def on_request_end(self, *_: object) -> None:
        self._raise("tracing")

    async def middleware(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> Any:
        response = await handler(request)
        try:
            self._raise("middleware")
        except Exception:
            response.close()
            raise
        return response

    def _raise(self, where: Where) -> None:
        raising = self._raising
        number = self._calls.get(where, 0)
        self._calls[where] = number + 1
        if raising is None or raising.where != where:
            return
        if raising.nth <= number < raising.nth + raising.times:
            kind = ERRORS.get(raising.error, asyncio.CancelledError)
            raise kind(f"{where} does not like this")


class _Sources:
    """Iterable, and its iterator is made by hand."""

    def __init__(self, sources: Iterator[Any]) -> None:
        self._sources = sources

    def __iter__(self) -> _Sources:
        return self

    def __next__(self) -> Any:
        return next(self._sources)
