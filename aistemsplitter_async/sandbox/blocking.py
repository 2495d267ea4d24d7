"""A sandbox for code without an event loop of its own to spare: it runs in a thread, and every method blocks."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from aistemsplitter_async.clock import Clock
    from aistemsplitter_async.sandbox.faults.rules import Faults
    from aistemsplitter_async.sandbox.server import Sandbox
    from aistemsplitter_async.sandbox.service.account import SandboxKey
    from aistemsplitter_async.sandbox.service.ledger import Ledger
    from aistemsplitter_async.sandbox.service.state import Status

_T = TypeVar("_T")


class BlockingSandbox:
    """A `Sandbox` in a thread, with an event loop of its own, for the time of a `with`.

    It serves blocking clients, tests of any framework, and async code whose event loop comes and goes. Its attributes
    and methods are those of `Sandbox`, and may be used from any thread.

    Args:
        sandbox: What to run; it must not run already.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stopping = False

    @property
    def api_key(self) -> str:
        """The (first) key it accepts."""
        return self._sandbox.api_key

    @property
    def webhook_secret(self) -> str:
        """What signs the webhooks of the first key's splits."""
        return self._sandbox.webhook_secret

    @property
    def keys(self) -> tuple[SandboxKey, ...]:
        """All keys it accepts, as they were given."""
        return self._sandbox.keys

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL: `http://127.0.0.1:PORT/v1`."""
        return self._sandbox.base_url

    @property
    def worker_url(self) -> str:
        """Address of the upload worker."""
        return self._sandbox.worker_url

    @property
    def cdn_url(self) -> str:
        """Address of the CDN."""
        return self._sandbox.cdn_url

    @property
    def credits(self) -> int:
        """Balance of the first key in seconds of audio."""
        return self._sandbox.credits

    @property
    def clock(self) -> Clock:
        """The sandbox's time, to be read."""
        return self._sandbox.clock

    @property
    def ledger(self) -> Ledger:
        """What happened so far."""
        return self._sandbox.ledger

    @property
    def faults(self) -> Faults:
        """What shall go wrong."""
        return self._sandbox.faults

    def set_credits(self, balance: int, api_key: str | None = None) -> None:
        """Set the balance of a key, the first one where none is given.

        Raises:
            KeyError: There is no such key.
            ValueError: The balance is negative.
        """
        self._call(lambda: self._sandbox.set_credits(balance, api_key))

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once: windows move on, splits finish, reservations and addresses expire.

        Raises:
            ValueError: `seconds` is negative.
        """
        self._call(lambda: self._sandbox.advance(seconds))

    def step(self, split_id: str) -> Status:
        """Move a split of a `Manual` progression on by one status and return it.

        Raises:
            KeyError: There is no unfinished split with that id.
        """
        return self._run(self._sandbox.step(split_id))

    def start(self) -> None:
        """Start the thread and listen.

        Raises:
            OSError: The port is taken.
            RuntimeError: It runs already, or another sandbox uses the `data` folder.
        """
        if self._thread is not None:
            raise RuntimeError("this sandbox is running already")
        self._stopping = False
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(started,), name="sandbox", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop everything and wait for the thread's end; doing it twice does no harm."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping = True
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._stop.set)
        thread.join()
        self._loop = self._stop = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._main(started))
        except BaseException as error:  # it belongs to the thread that started this one
            if started.done():
                raise
            started.set_exception(error)

    async def _main(self, started: Future[None]) -> None:
        stop = asyncio.Event()
        async with self._sandbox:
            self._loop, self._stop = asyncio.get_running_loop(), stop
            started.set_result(None)
            if not self._stopping:  # somebody may have lost patience before there was an event to set
                await stop.wait()

    def _call(self, function: Callable[[], _T]) -> _T:
        async def call() -> _T:
            return function()

        return self._run(call())

    def _run(self, work: Coroutine[object, object, _T]) -> _T:
        loop = self._loop
        if loop is None:
            work.close()
            raise RuntimeError("this sandbox is not running: use `with BlockingSandbox(Sandbox()) as sandbox`")
        return asyncio.run_coroutine_threadsafe(work, loop).result()
