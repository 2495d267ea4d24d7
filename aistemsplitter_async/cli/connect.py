"""A client for a command: built from its options, or for a sandbox that lives as long as the command."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from aistemsplitter_async._files import reason_of
from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async._send.certificates import find_problem
from aistemsplitter_async._tasks import cancel_and_wait
from aistemsplitter_async._transfer.meter import OnProgress
from aistemsplitter_async.cli.failures import UsageError
from aistemsplitter_async.cli.options import Common
from aistemsplitter_async.cli.screen.board import DONE, STARTING, Activity, Board
from aistemsplitter_async.cli.screen.live import shown
from aistemsplitter_async.cli.screen.render import describe_again, show
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.config import API_KEY_VARIABLE, PollPolicy, RateLimit
from aistemsplitter_async.errors import ConfigurationError, JournalError, JournalLockedError
from aistemsplitter_async.events import BoughtBefore, Event, GateUnreachable, OnEvent
from aistemsplitter_async.journal.file import UNUSABLE

if TYPE_CHECKING:
    from aistemsplitter_async.sandbox import Sandbox

_SECRET_CAP_BYTES = 4096  # no key or secret is longer; a song given as its file must not be read to the end
_CERTIFICATES_CAP_BYTES = 16 * 1024 * 1024  # all the world's issuers have less than one
_ENVIRONMENT = "env"  # the value of --proxy that stands for the environment's variables
_SANDBOX_CREDITS = 10**8  # s: more than any library needs
_SANDBOX_POLL = PollPolicy(first=0.2, shortest=0.2)  # polls of a local sandbox cost nothing


@asynccontextmanager
async def connected(
    common: Common,
    terminal: Terminal,
    *,
    on_event: OnEvent | None = None,
    sandbox: bool = False,
    sandbox_data: Path | None = None,
) -> AsyncIterator[AsyncAIStemSplitter]:
    """Yield a client that is closed at the end, together with its sandbox if it has one.

    With `sandbox_data`, a folder, the sandbox continues from its last state in the folder.

    Raises:
        ConfigurationError: no key, an invalid URL or proxy, or certificates that cannot be read.
        JournalLockedError: another process uses the sandbox's folder.
        UsageError: the sandbox's libraries are missing.
    """
    async with AsyncExitStack() as stack:
        poll, context, gate = None, None, None
        key, base_url, proxy = None, common.base_url, common.proxy
        if sandbox:
            from aistemsplitter_async.sandbox import Sandbox  # noqa: PLC0415  # most commands do without

            check_sandbox_extra()
            own = Sandbox(credits=_SANDBOX_CREDITS, requests_per_minute=None, data=sandbox_data)
            running = await stack.enter_async_context(_exclusive(own))
            key, base_url, poll = running.api_key, running.base_url, _SANDBOX_POLL
            proxy = None  # it is on this machine
            gate = Gate(common.rate_limit or RateLimit(), on_event=on_event)  # and nobody else's
        elif common.api_key_file is not None:
            key = await read_key(common)
        terminal.key = (key or os.environ.get(API_KEY_VARIABLE) or "").strip() or None
        if common.ca_file is not None and not sandbox:
            context = await asyncio.to_thread(_read_certificates, common.ca_file)

        def tell(event: Event) -> None:
            if isinstance(event, GateUnreachable):
                terminal.log(show(event.reason))
            if on_event is not None:
                on_event(event)

        client = AsyncAIStemSplitter(
            key,
            base_url=base_url,
            rate_limit=None if gate is not None else common.rate_limit,
            gate=gate,
            shared=None if gate is not None else common.shared,
            poll=poll,
            allow_hosts=common.allow_host or (),
            proxy=None if proxy == _ENVIRONMENT else proxy,
            trust_env=proxy == _ENVIRONMENT,
            ssl=context,
            on_event=tell,
        )
        yield await stack.enter_async_context(client)


@asynccontextmanager
async def connected_board(
    board: Board, common: Common, terminal: Terminal, *, sandbox: bool = False
) -> AsyncIterator[AsyncAIStemSplitter]:
    """Yield a client as `connected` does, and show its events and the states of its splits on `board`."""
    following = set[asyncio.Task[None]]()

    def note(event: Event) -> None:
        if isinstance(event, BoughtBefore):
            terminal.say(describe_again(event))
        board.on_event(event)

    async with connected(common, terminal, on_event=note, sandbox=sandbox) as client, shown(board, terminal):

        def follow(activity: Activity, since: float | None) -> None:
            # It shares the polls of the call that waits for the split, so it costs no requests.
            updates = client.updates(activity.split_id or "", since=since)
            following.add(asyncio.create_task(board.follow(activity, updates)))

        board.follow_split = follow
        board.queue_length = lambda: sum(client.gate.snapshot().waiting.values())
        board.trouble = lambda: client.gate.trouble
        try:
            yield client
        finally:
            await cancel_and_wait(*following)


@asynccontextmanager
async def working(
    activity: Activity, common: Common, terminal: Terminal, *, follow: bool = False, sandbox: bool = False
) -> AsyncIterator[tuple[AsyncAIStemSplitter, OnProgress]]:
    """Yield a client whose work is shown as `activity`, and a callback for the progress of its transfers.

    With `follow`, the states of its split are shown too.
    """
    board = Board([activity], now=time.monotonic, log=terminal.log)
    async with connected_board(board, common, terminal, sandbox=sandbox) as client:
        board.enter(activity, STARTING)
        if follow:
            board.follow_split(activity, None)
        try:
            yield client, partial(board.note_bytes, activity)
        finally:
            board.enter(activity, DONE)


@asynccontextmanager
async def _exclusive(sandbox: Sandbox) -> AsyncIterator[Sandbox]:
    """Run a sandbox; its folder belongs to one process at a time, like the journal next to it."""
    try:
        await sandbox.start()
    except RuntimeError as error:
        raise JournalLockedError(f"{error}; wait for it or stop it", code="LOCKED") from None
    except OSError as error:
        raise JournalError(
            f"cannot keep the sandbox's state: {error.filename}: {reason_of(error)}", code=UNUSABLE
        ) from None
    try:
        yield sandbox
    finally:
        await sandbox.aclose()


def check_sandbox_extra() -> None:
    """Check that the libraries for the separation are installed.

    Raises:
        UsageError: they are not.
    """
    missing = [name for name in ("numpy", "scipy", "soundfile") if find_spec(name) is None]
    if missing:
        raise UsageError(f"the sandbox needs {', '.join(missing)}; pip install 'aistemsplitter-async[sandbox]'")


async def read_key(common: Common) -> str | None:
    """Return the API key of `--api-key-file`, or of the environment, if there is one.

    Raises:
        ConfigurationError: there is none in the file.
    """
    if common.api_key_file is not None:
        return await asyncio.to_thread(_read_key, common.api_key_file)
    return os.environ.get(API_KEY_VARIABLE)


def _read_key(file: Path) -> str:
    is_stdin = str(file) == "-"
    name = "standard input" if is_stdin else str(file)
    try:
        key = read_secret(None if is_stdin else file)
    except (OSError, ValueError) as error:
        problem = f"cannot read the API key from {name} ({reason_of(error)})"
    else:
        if key:
            return key
        problem = f"no API key in {name}"
    raise ConfigurationError(problem, code="NO_API_KEY")


def _read_certificates(file: Path) -> ssl.SSLContext:
    """Return a context that trusts the certificates in a file, and those of the system.

    Raises:
        ConfigurationError: there are none in it.
    """
    problem = None
    context = ssl.create_default_context()
    try:
        with file.open("rb") as opened:
            content = opened.read(_CERTIFICATES_CAP_BYTES)
        problem = find_problem(content)
        if problem is None:
            context.load_verify_locations(cadata=content.decode("ascii", "ignore"))  # names in comments may be any
    except ssl.SSLError as error:
        problem = f"its certificate cannot be decoded ({(error.reason or 'no reason given').lower().replace('_', ' ')})"
    except OSError as error:
        problem = reason_of(error)
    if problem is not None:
        raise ConfigurationError(f"cannot use the certificates of --ca-file {file}: {problem}")
    return context


def read_secret(file: Path | None) -> str:
    """Return the text of a small file, or of standard input if there is none, without the space around it.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    with nullcontext(sys.stdin.buffer) if file is None else file.open("rb") as opened:
        return opened.read(_SECRET_CAP_BYTES).decode("utf-8", "surrogateescape").strip()
