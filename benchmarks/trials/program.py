"""The program of a user, which a trial is about: it has a client, callbacks that may raise, and makes one call."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import attrs

from aistemsplitter_async import AsyncAIStemSplitter, BatchItem, Gate, RateLimit
from aistemsplitter_async.errors import AIStemSplitterError
from aistemsplitter_async.models import DirectURL, Split, Submission
from benchmarks.trials.callbacks import Callbacks
from benchmarks.trials.misfits import MISFITS
from benchmarks.trials.scenario import Trial
from benchmarks.trials.seen import Seen
from benchmarks.trials.service import API_KEY, Service
from benchmarks.trials.songs import MIX, Song
from benchmarks.trials.timeline import LoopClock
from benchmarks.trials.watchdog import Watchdog

_PIECE = 10_007  # bytes
_REST = 3700.0  # s (virtual) after which a user tries again: no wait is longer than an hour


@attrs.define
class Program:
    """One run of the user's program.

    Attributes:
        trial: says what it does.
        folder: with the songs in `music` and the stems in `stems`.
        service: what it talks to.
        clock: its time.
        seen: filled as it runs.
        watchdog: is told what comes of it.
        journal: of a batch.
        healthy: nothing goes wrong: the run after the trouble.
        known: what an earlier run got to know.
        options: of a batch.
        sources: of a batch, besides the songs.
        api_key: that it uses.
    """

    trial: Trial
    folder: Path
    service: Service
    clock: LoopClock
    seen: Seen
    watchdog: Watchdog
    journal: Path
    healthy: bool = False
    known: frozenset[str | Submission] = frozenset()
    options: dict[str, Any] = attrs.field(factory=dict[str, Any])
    sources: tuple[Path, ...] = ()
    api_key: str = API_KEY
    gate: Gate = attrs.field(init=False)
    _client: AsyncAIStemSplitter | None = attrs.field(default=None, init=False)
    _scope: anyio.CancelScope | None = attrs.field(default=None, init=False)

    async def run(self) -> None:
        """Make the call, and close the client, unless the program forgets to."""
        self.gate = Gate(RateLimit(self.trial.limit), clock=self.clock)
        callbacks = Callbacks(self.trial, self.seen, healthy=self.healthy)
        cancel = None if self.healthy else self.trial.cancel
        async with self._session(callbacks) as session:
            client = self._build_client(callbacks, session)
            self._client = client
            if cancel is not None and cancel.how == "leave":
                await self._note(client, callbacks)
                await client.aclose()
                return
            async with client:
                if cancel is None or cancel.how != "scope":
                    await self._note(client, callbacks)
                    return
                self._scope = anyio.CancelScope()
                with self._scope:
                    await self._note(client, callbacks)

    def cancel(self) -> None:
        """Cancel the scope of the call, if it is entered."""
        if self._scope is not None:
            self._scope.cancel()

    async def close(self) -> None:
        """Close the client while the call is in progress, as another part of a program may."""
        if self._client is not None:
            await self._client.aclose()

    async def _note(self, client: AsyncAIStemSplitter, callbacks: Callbacks) -> None:
        began = self.clock.monotonic()
        try:
            await self._make_call(client, callbacks)
        finally:
            self.seen.ended = self.clock.monotonic()
            self.seen.took = self.seen.ended - began
        if self.trial.again and not self.healthy and self.seen.errors:
            await self._make_again(client, callbacks)

    async def _make_again(self, client: AsyncAIStemSplitter, callbacks: Callbacks) -> None:
        """Rest for an hour, and go on with the same client."""
        self.watchdog.resting = True
        await self.clock.sleep(_REST)
        self.watchdog.resting = False
        try:
            await self._recover(client, callbacks)
        except AIStemSplitterError as error:
            self.seen.again.append(error)
        else:
            self.seen.again.append(None)

    async def _make_call(self, client: AsyncAIStemSplitter, callbacks: Callbacks) -> None:
        try:
            if self.trial.call == "batch":
                await self._split_many(client, callbacks)
            elif self.healthy:
                await self._recover(client, callbacks)
            else:
                await self._call(client, callbacks)
        except BaseException as error:
            self.seen.errors.append(error)
            if not isinstance(error, Exception):
                raise

    def _build_client(self, callbacks: Callbacks, session: aiohttp.ClientSession | None) -> AsyncAIStemSplitter:
        refusing = self.trial.proxy_status and not self.healthy
        base = self.service.base.replace("http:", "https:") if refusing else self.service.base
        return AsyncAIStemSplitter(
            self.api_key,
            base_url=f"{base}/v1",
            clock=self.clock,
            gate=self.gate,
            proxy=self.service.base if refusing or self.trial.proxied else None,
            session=session,
            on_event=callbacks.on_event,
        )

    def _session(self, callbacks: Callbacks) -> Any:
        where = self.trial.raising.where if self.trial.raising is not None else ""
        if where not in ("tracing", "middleware"):
            return _Nothing()
        tracing = aiohttp.TraceConfig()
        tracing.on_request_end.append(callbacks.on_request_end)
        return aiohttp.ClientSession(trace_configs=[tracing], middlewares=[callbacks.middleware])

    async def _split_many(self, client: AsyncAIStemSplitter, callbacks: Callbacks) -> None:
        sources: list[Any] = []
        for song in self.trial.songs:
            source = self._source(song)
            raising = self.trial.raising is not None and self.trial.raising.where == "on_progress"
            listener, timeout = callbacks.on_progress if raising else None, self._timeout
            plain = listener is None and timeout is None
            sources.append(source if plain else BatchItem(source=source, on_progress=listener, timeout=timeout))
        sources[1:1] = self.sources
        sources[:0] = [] if self.healthy else [MISFITS[name]() for name in self.trial.misfits]
        batch = client.split_many(
            callbacks.feed(sources, self.trial.feeding),
            into=self.folder / "stems",
            journal=self.journal,
            in_flight=self.trial.in_flight,
            **self._selection | self.options,
        )
        async with batch as outcomes:
            self.watchdog.reasons = lambda: outcomes.progress().notices
            async for outcome in outcomes:
                self.seen.outcomes.append(outcome)
                self.watchdog.note_progress(("outcome", len(self.seen.outcomes)))
            self.seen.stopped_by = (await outcomes.report()).stopped_by

    @property
    def _timeout(self) -> float | None:
        return None if self.healthy else self.trial.timeout

    async def _call(self, client: AsyncAIStemSplitter, callbacks: Callbacks) -> None:
        song, name = self.trial.songs[0], self.trial.call
        gate = callbacks.before_send if self._stores else None
        if name == "split":
            into = self.folder / "stems"
            done = await client.split(
                self._source(song),
                into=into,
                on_progress=callbacks.on_progress,
                before_send=gate,
                timeout=self._timeout,
                **self._selection,
            )
            self.seen.results.append(done)
        elif name == "open":
            job = await client.submit(self._source(song))
            self.seen.results.append(job)
            await self._stream(client, await job.wait())
        elif name == "submit":
            self.seen.results.append(await client.submit(self._source(song), before_send=gate, timeout=self._timeout))
        elif name == "create":
            audio = DirectURL(song.url)
            if song.format != "url":
                audio = (await client.upload_audio(self._source(song))).input  # type: ignore[assignment]
            self.seen.results.append(await client.create_split(audio, before_send=gate))
        else:
            submission = Submission("key-of-resubmit", _body_of(song))
            self.seen.heard.append(submission)
            self.seen.results.append(await client.resubmit(submission, before_send=gate))

    async def _stream(self, client: AsyncAIStemSplitter, split: Split) -> None:
        """Take each stem as it comes, in pieces of some size, or of any."""
        for number, stem in enumerate(split.stems):
            async with client.open_stem(split, stem) as stream:
                held = self.seen.streams.setdefault(stem, bytearray())
                if number:
                    async for piece in stream:
                        held += piece
                while piece := await stream.read(_PIECE):
                    held += piece
                self.seen.whole.append(stem)

    @property
    def _selection(self) -> dict[str, Any]:
        stems = self.trial.stems
        return {"stems": stems[:1], "mixes": {MIX: stems[1:]}} if self.trial.mixes else {}

    @property
    def _stores(self) -> bool:
        return self.trial.raising is not None and self.trial.raising.where == "before_send"

    async def _recover(self, client: AsyncAIStemSplitter, callbacks: Callbacks) -> None:
        """Do what a careful user does: go on from an id, else from a submission, else begin again."""
        into = self.folder / "stems"
        known = self.known | self.seen.known()
        split_ids = {charge.split_id for charge in self.service.account.charges} & known
        submissions = [value for value in known if isinstance(value, Submission)]
        if split_ids:
            job = client.job(str(min(map(str, split_ids))))
        elif submissions:
            job = await client.resubmit(submissions[0])
        else:
            job = await client.submit(self._source(self.trial.songs[0]))
        self.seen.results.append(await job.download(into, name=self.trial.songs[0].name, **self._selection))
        del callbacks

    def _source(self, song: Song) -> Any:
        return song.url if song.format == "url" else self.folder / "music" / song.filename


class _Nothing:
    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)


def _body_of(song: Song) -> bytes:
    return b'{"input":{"type":"direct_url","url":"%b"}}' % song.url.encode()
