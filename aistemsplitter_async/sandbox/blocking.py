"""A sandbox for blocking code: it runs in a thread with an event loop of its own, and every method blocks."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from aistemsplitter_async.clock import Clock
from aistemsplitter_async.sandbox.faults.rules import Faults
from aistemsplitter_async.sandbox.server import Sandbox
from aistemsplitter_async.sandbox.service.account import SandboxKey
from aistemsplitter_async.sandbox.service.ledger import Ledger
from aistemsplitter_async.sandbox.service.state import Status


class BlockingSandbox:
    """A `Sandbox` in a thread with its own event loop, for the duration of a `with`.

    It serves blocking clients, tests of any framework, and async code with an event loop per test. Its attributes and
    methods are those of `Sandbox`, and may be used from any thread.

    Args:
        sandbox: The sandbox to run; it must not be running.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._portal: BlockingPortal | None = None
        self._opened = ExitStack()

    @property
    def api_key(self) -> str:
        """The first key it accepts."""
        return self._sandbox.api_key

    @property
    def webhook_secret(self) -> str:
        """The secret that signs the webhooks of the first key's splits."""
        return self._sandbox.webhook_secret

    @property
    def keys(self) -> tuple[SandboxKey, ...]:
        """All keys it accepts, as they were given."""
        return self._sandbox.keys

    @property
    def base_url(self) -> str:
        """The base URL for a client: `http://127.0.0.1:PORT/v1`."""
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
        """The sandbox's time, for reading only."""
        return self._sandbox.clock

    @property
    def ledger(self) -> Ledger:
        """The record of what has happened so far."""
        return self._sandbox.ledger

    @property
    def faults(self) -> Faults:
        """The fault rules of the sandbox."""
        return self._sandbox.faults

    def set_credits(self, balance: int, api_key: str | None = None) -> None:
        """Set the balance of a key, the first one if none is given.

        Raises:
            KeyError: There is no such key.
            ValueError: The balance is negative.
        """
        self._running.call(self._sandbox.set_credits, balance, api_key)

    def rotate_key(self, api_key: str | None = None, *, revoke: bool = False) -> str:
        """Give the account of a key, the first one if none is given, a further key, and return that.

        Args:
            api_key: One of the account's keys.
            revoke: Whether its keys before stop working.

        Raises:
            KeyError: There is no such key.
        """
        return self._running.call(partial(self._sandbox.rotate_key, api_key, revoke=revoke))

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once: windows move on, splits finish, reservations and addresses expire.

        Raises:
            ValueError: `seconds` is negative.
        """
        self._running.call(self._sandbox.advance, seconds)

    def step(self, split_id: str) -> Status:
        """Advance a split of a `Manual` progression by one status and return the status.

        Raises:
            KeyError: There is no unfinished split with that id.
        """
        return self._running.call(self._sandbox.step, split_id)

    def start(self) -> None:
        """Start the thread and listen.

        Raises:
            OSError: The port is taken.
            RuntimeError: It is running already, or another sandbox uses the `data` folder.
        """
        if self._portal is not None:
            raise RuntimeError("this sandbox is running already")
        with ExitStack() as opened:
            portal = opened.enter_context(start_blocking_portal("asyncio"))
            # A `step` that another thread waits for must not delay the end: cancel it, do not wait for it.
            opened.callback(portal.call, portal.stop, True)
            opened.enter_context(portal.wrap_async_context_manager(self._sandbox))
            self._portal, self._opened = portal, opened.pop_all()

    def close(self) -> None:
        """Stop everything and wait for the thread's end; closing twice is fine."""
        self._portal = None
        self._opened.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _running(self) -> BlockingPortal:
        if self._portal is None:
            raise RuntimeError("this sandbox is not running: use `with BlockingSandbox(Sandbox()) as sandbox`")
        return self._portal
