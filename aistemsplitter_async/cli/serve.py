"""`sandbox`: the API on this machine, until somebody stops it."""

from __future__ import annotations

import asyncio
from typing import Any

from aistemsplitter_async.config import API_KEY_VARIABLE, BASE_URL_VARIABLE
from aistemsplitter_async.sandbox import Sandbox

from .connect import check_sandbox_extra
from .failures import Exit, UsageError
from .render import PROGRAM, columns, number, words
from .results import hand_out_json
from .terminal import BOLD, Terminal


async def serve(
    terminal: Terminal,
    *,
    port: int,
    api_key: str | None,
    credits_given: int | None,
    requests_per_minute: int | None,
    minute: float | None,
    as_json: bool,
) -> int:
    """Serve until cancelled; `requests_per_minute=0` is no limit, `None` the sandbox's own.

    Raises:
        UsageError: an argument is out of its range.
    """
    check_sandbox_extra()
    given = {"credits": credits_given, "minute": minute, "requests_per_minute": requests_per_minute}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if requests_per_minute == 0:
        options["requests_per_minute"] = None
    try:
        sandbox = Sandbox(port=port, api_key=api_key, **options)
    except ValueError as error:
        raise UsageError(str(error)) from None
    try:
        await sandbox.start()
    except (OSError, OverflowError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        terminal.error(f"cannot listen on port {port}: {reason}; leave --port out for any free one")
        return Exit.FAILED
    try:
        if as_json:
            hand_out_json({"base_url": sandbox.base_url, "api_key": sandbox.api_key, **_facts(sandbox)}, terminal)
        else:
            _introduce(sandbox, terminal, minute)
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if not as_json:
            terminal.say("stopped")
        return Exit.DONE
    finally:
        await sandbox.aclose()
    return Exit.DONE


def _facts(sandbox: Sandbox) -> dict[str, object]:
    return {"credits": sandbox.credits, "requests_per_minute": sandbox.keys[0].requests_per_minute}


def _introduce(sandbox: Sandbox, terminal: Terminal, minute: float | None) -> None:
    limit = sandbox.keys[0].requests_per_minute
    window = "a minute" if minute is None or minute == 60 else f"every {minute:g} s"  # noqa: PLR2004  # a minute is 60 s
    rows = [
        ("base URL", sandbox.base_url),
        ("API key", sandbox.api_key),
        ("credits", f"{number(sandbox.credits)} ({words(sandbox.credits)} of audio)"),
        ("limit", f"{limit} requests {window}" if limit else "none"),
    ]
    terminal.result(terminal.paint("AIStemSplitter sandbox", BOLD))
    terminal.paragraph("The API on this machine, with a local preview separation; not the hosted model.")
    terminal.result("")
    for line in columns(rows):
        terminal.result(line)
    terminal.result("\nIn another terminal:\n")
    terminal.result(f"  export {BASE_URL_VARIABLE}={sandbox.base_url}")
    terminal.result(f"  export {API_KEY_VARIABLE}={sandbox.api_key}")
    terminal.result(f"  {PROGRAM} split song.mp3\n")
    terminal.result("Ctrl-C stops it; what it holds is gone then.")
