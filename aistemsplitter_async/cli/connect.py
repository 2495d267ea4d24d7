"""A client for a command: from the options, or of a sandbox that lives as long as the command."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from aistemsplitter_async.cli.failures import UsageError
from aistemsplitter_async.cli.options import Common
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.config import API_KEY_VARIABLE, PollPolicy
from aistemsplitter_async.errors import ConfigurationError, JournalLockedError
from aistemsplitter_async.events import OnEvent

if TYPE_CHECKING:
    from aistemsplitter_async.sandbox import Sandbox

_KEY_CAP_BYTES = 4096  # no key is longer; a song given as the key file should not be read to its end
_SANDBOX_CREDITS = 10**8  # s: nobody's own machine should run out of play money
_SANDBOX_POLL = PollPolicy(first=0.2, shortest=0.2)  # looking at one's own machine costs nothing


@asynccontextmanager
async def connected(
    common: Common,
    terminal: Terminal,
    *,
    on_event: OnEvent | None = None,
    sandbox: bool = False,
    sandbox_data: Path | None = None,
) -> AsyncIterator[AsyncAIStemSplitter]:
    """Give a client that is closed, with its sandbox if it has one, at the end.

    With `sandbox_data`, a folder, the sandbox goes on where it was when the folder was used last.

    Raises:
        ConfigurationError: no key, or a URL that cannot be right.
        UsageError: options that exclude each other, or the sandbox's libraries are missing.
    """
    async with AsyncExitStack() as stack:
        poll = None
        key, base_url = None, common.base_url
        if sandbox:
            from aistemsplitter_async.sandbox import Sandbox  # noqa: PLC0415  # most commands do without

            check_sandbox_extra()
            own = Sandbox(credits=_SANDBOX_CREDITS, requests_per_minute=None, data=sandbox_data)
            running = await stack.enter_async_context(_of_one_process(own))
            key, base_url, poll = running.api_key, running.base_url, _SANDBOX_POLL
        elif common.api_key_file is not None:
            key = await asyncio.to_thread(_read_key, str(common.api_key_file))
        terminal.key = (key or os.environ.get(API_KEY_VARIABLE) or "").strip() or None
        client = AsyncAIStemSplitter(key, base_url=base_url, rate_limit=common.rate_limit, poll=poll, on_event=on_event)
        yield await stack.enter_async_context(client)


@asynccontextmanager
async def _of_one_process(sandbox: Sandbox) -> AsyncIterator[Sandbox]:
    """Run a sandbox, whose folder belongs to one process at a time just as the journal beside it does."""
    problem = None
    try:
        await sandbox.start()
    except RuntimeError as error:
        problem = str(error)
    if problem:
        raise JournalLockedError(f"{problem}; wait for it or stop it", code="LOCKED")
    try:
        yield sandbox
    finally:
        await sandbox.aclose()


def check_sandbox_extra() -> None:
    """Check that what the separation needs is installed.

    Raises:
        UsageError: it is not.
    """
    missing = [name for name in ("numpy", "scipy", "soundfile") if find_spec(name) is None]
    if missing:
        raise UsageError(f"the sandbox needs {', '.join(missing)}; pip install 'aistemsplitter-async[sandbox]'")


def _read_key(file: str) -> str:
    name, problem, data = ("standard input" if file == "-" else file), None, b""
    try:
        if file == "-":
            data = sys.stdin.buffer.read(_KEY_CAP_BYTES)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(_KEY_CAP_BYTES)
    except (OSError, ValueError) as error:
        problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if problem:
        raise ConfigurationError(f"cannot read the API key from {name} ({problem})", code="NO_API_KEY")
    key = data.decode("utf-8", "replace").strip()
    if not key:
        raise ConfigurationError(f"no API key in {name}", code="NO_API_KEY")
    return key
