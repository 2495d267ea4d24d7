"""Asks a CDN for the stems of one split: URLs that are refused are renewed, and every hop of a redirect is vetted."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import urljoin

import attrs

from aistemsplitter_async._send.attempt import Attempt, Call, Counted
from aistemsplitter_async._send.pipeline import Pipeline
from aistemsplitter_async._send.reactions import Action, action_for
from aistemsplitter_async._send.transport import StreamedReply
from aistemsplitter_async._transfer.ranges import Held, Incoming, build_range_headers, read_incoming
from aistemsplitter_async._wire.error_replies import build_status_error
from aistemsplitter_async._wire.messages import Origin, Reply, Request, Stage
from aistemsplitter_async._wire.urls import URLPolicy
from aistemsplitter_async.config import MOST_PAUSES, REDIRECT_HOPS
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIStatusError,
    IncompleteDownloadError,
    StemsExpiredError,
    UnsafeURLError,
)
from aistemsplitter_async.models import Split

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK = 200
_RANGE_NOT_SATISFIABLE = 416

MAY_PASS = (StemsExpiredError, IncompleteDownloadError)  # a CDN that does not have the stems yet, or answers with pages
Refresh = Callable[[str], Awaitable[Split]]
T = TypeVar("T")


class StemURLs:
    """The stem URLs of one split. All its stems, and all calls that download them, share the requests that renew them.

    Attributes:
        split_id: whose stems they are.
        renewals: how often the URLs were renewed.
    """

    def __init__(self, split: Split, refresh: Refresh, pipeline: Pipeline, allowed: URLPolicy) -> None:
        self.split_id = split.id
        self.renewals = 0
        self._split = split
        self._refresh = refresh
        self._pipeline = pipeline
        self._allowed = allowed
        self._renewed_at = -math.inf  # monotonic seconds
        self._turn = asyncio.Lock()

    def call(self, stem: str) -> Call:
        """Return the call that downloads a stem."""
        return Call("download_stem", Stage.DOWNLOAD, self.split_id, stem)

    def attempt(self, call: Call, url: str) -> Attempt:
        """Return an attempt of `call` at `url`, for `open`."""
        return self._pipeline.attempt(call, Request(origin=Origin.CDN, method="GET", url=url))

    def of(self, stem: str) -> str:
        return self._split.stems[stem]

    async def run(self, stem: str, attempt: Callable[[str], Awaitable[T]]) -> T:
        """Return the result of `attempt`, called with the URL of `stem`, and with a fresh one while that is refused.

        Raises:
            StemsExpiredError: a fresh one was refused as well.
            UnsafeURLError: it must not be requested.
        """
        while True:
            renewals = self.renewals
            try:
                return await attempt(self._allowed.vet(self.of(stem)))
            except (APIStatusError, UnsafeURLError) as error:
                if action_for(Stage.DOWNLOAD, error) is not Action.REFRESH:
                    raise
                refusal = error
            if not await self._renew(renewals):
                break
        if isinstance(refusal, UnsafeURLError):
            raise refusal
        raise StemsExpiredError(
            f"the URL of stem {stem!r} was refused (HTTP {refusal.status_code}), and so was a fresh one",
            split_id=self.split_id,
            status_code=refusal.status_code,
        )

    async def _renew(self, renewals: int) -> bool:
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
                fresh = await self._refresh(self.split_id)
            except AIStemSplitterError as error:
                if not 0 < pipeline.wait_time(error, is_known=True) < math.inf:
                    raise
                return False  # the API is as late as the CDN
            self._split = attrs.evolve(fresh, stems={**self._split.stems, **fresh.stems})
            self._renewed_at = pipeline.clock.monotonic()
            self.renewals += 1
            return True

    @asynccontextmanager
    async def open(
        self, stem: str, url: str, held: Held, attempt: Attempt, *, forget: Callable[[], None]
    ) -> AsyncIterator[tuple[StreamedReply, Incoming]]:
        """Ask for what is missing of a stem, and hand over the answer and what it has.

        Args:
            stem: its name.
            url: where it is; redirects from there are followed.
            held: what is here already.
            attempt: which is told what comes.
            forget: called if that does not fit the server's file, so that the next attempt asks for all of it.

        Raises:
            APIStatusError: it was refused.
            IncompleteDownloadError: it does not fit what is here, or its length is unknown.
        """
        async with self._follow(url, build_range_headers(held)) as reply:
            attempt.note_head(reply.status, reply.headers)
            if reply.status == _RANGE_NOT_SATISFIABLE:
                forget()
                raise IncompleteDownloadError(f"what is here of {stem} no longer fits the server's file")
            if not 200 <= reply.status < 300:  # noqa: PLR2004
                raise await self._status_error(reply, stem)
            try:
                incoming = read_incoming(reply.status, reply.headers, held)
            except IncompleteDownloadError:
                if reply.status != _OK:  # one that begins at the beginning says nothing of what is here
                    forget()
                raise
            yield Counted(reply, attempt), incoming

    @asynccontextmanager
    async def _follow(self, url: str, headers: dict[str, str]) -> AsyncIterator[StreamedReply]:
        """Open a URL, following a few vetted redirects."""
        for hops_left in range(REDIRECT_HOPS, -1, -1):
            request = Request(origin=Origin.CDN, method="GET", url=url, headers=headers)
            async with self._pipeline.transport.stream(request) as reply:
                location = reply.headers.get("location")
                if reply.status not in _REDIRECTS or location is None or not hops_left:
                    yield reply
                    return
            url = self._allowed.vet(_join(url, location))

    async def _status_error(self, reply: StreamedReply, stem: str) -> APIStatusError:
        body = b""
        async for chunk in reply.chunks():
            body = chunk
            break  # the first bytes of a refusal are enough to show
        answer = Reply(status=reply.status, headers=reply.headers, body=body)
        now = self._pipeline.clock.now()
        return build_status_error(answer, what=f"download {stem}", now=now, origin=Origin.CDN)


def _join(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise UnsafeURLError(f"refused to visit {location[:200]!r}: not a URL") from None
