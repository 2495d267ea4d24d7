"""`sandbox`: serves the API on this machine, until it is stopped."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aistemsplitter_async._files import reason_of
from aistemsplitter_async.cli.connect import check_sandbox_extra
from aistemsplitter_async.cli.failures import Exit, UsageError
from aistemsplitter_async.cli.results import print_json
from aistemsplitter_async.cli.screen.render import PROGRAM, columns, number, show, words
from aistemsplitter_async.cli.screen.terminal import BOLD, Terminal
from aistemsplitter_async.cli.server_options import Serving
from aistemsplitter_async.config import API_KEY_VARIABLE, BASE_URL_VARIABLE
from aistemsplitter_async.sandbox import Instant, Manual, Sandbox, Timed

_PASSED_ON: Final = ("minute", "requests_per_minute", "window", "burst", "rate_headers", "separation", "data", "seed")
_PROGRESSIONS: Final = {"instant": Instant, "timed": Timed, "manual": Manual}


async def serve(serving: Serving, terminal: Terminal) -> int:
    """Serve until cancelled.

    Raises:
        UsageError: an option is out of its range, or the separation's libraries are missing.
    """
    if serving.separation != "silent":
        check_sandbox_extra()
    sandbox = build_sandbox(serving)
    task = asyncio.current_task()
    terminal.on_output_lost = task.cancel if task is not None else None  # address and key are unknown then
    try:
        await sandbox.start()
    except (OSError, OverflowError, RuntimeError) as error:
        terminal.error(_explain(error, serving))
        return Exit.FAILED
    try:
        if serving.json:
            facts = {
                "base_url": sandbox.base_url,
                "api_key": sandbox.api_key,
                "credits": sandbox.credits,
                "requests_per_minute": sandbox.keys[0].requests_per_minute,
                "webhook_secret": sandbox.webhook_secret,
            }
            print_json(facts, terminal)
        else:
            _introduce(sandbox, terminal, serving)
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if not serving.json and not terminal.is_output_lost:
            terminal.say("stopped")
        return Exit.DONE
    finally:
        await sandbox.aclose()
    return Exit.DONE


def build_sandbox(serving: Serving) -> Sandbox:
    """Return the sandbox with its faults queued.

    Raises:
        UsageError: an option is out of its range.
    """
    options: dict[str, Any] = {name: value for name in _PASSED_ON if (value := getattr(serving, name)) is not None}
    if serving.credits_given is not None:
        options["credits"] = serving.credits_given
    if serving.requests_per_minute == 0:
        options["requests_per_minute"] = None
    if serving.progression is not None:
        options["progression"] = _PROGRESSIONS[serving.progression]()
    try:
        sandbox = Sandbox(port=serving.port, api_key=serving.api_key, control=not serving.no_control, **options)
    except ValueError as error:
        raise UsageError(str(error).replace("rate_headers", "--rate-headers")) from None
    for line in serving.fault or ():
        try:
            sandbox.faults.add_text(line)
        except ValueError as error:
            raise UsageError(f"--fault {line}: {error}") from None
    return sandbox


def _explain(error: Exception, serving: Serving) -> str:
    if isinstance(error, RuntimeError):
        return str(error)
    if not isinstance(error, OSError):  # the port is out of range
        return f"cannot listen on port {serving.port}: {error}; leave out --port to use any free one"
    if error.filename is not None:
        return f"cannot use {error.filename}: {reason_of(error)}"
    return f"cannot listen on port {serving.port}: {reason_of(error)}; leave out --port to use any free one"


def _introduce(sandbox: Sandbox, terminal: Terminal, serving: Serving) -> None:
    limit = sandbox.keys[0].requests_per_minute
    usual = serving.minute is None or serving.minute == 60  # noqa: PLR2004  # a minute is 60 s
    window = "a minute" if usual else f"every {serving.minute:g} s"
    rows = [
        ("page", sandbox.base_url.removesuffix("v1")),
        ("base URL", sandbox.base_url),
        ("API key", sandbox.api_key),
        ("webhook secret", sandbox.webhook_secret),
        ("credits", f"{number(sandbox.credits)} ({words(sandbox.credits)} of audio)"),
        ("limit", f"{limit} requests {window}" if limit else "none"),
    ]
    if sandbox.faults.rules:
        rows.append(("faults", ", ".join(f"{rule.operation} {rule.name}" for rule in sandbox.faults.rules)))
    if serving.data is not None:
        rows.append(("data", show(serving.data)))
    silent = serving.separation == "silent"
    kind = "with stems of silence" if silent else "with a local preview separation; not the hosted model"
    terminal.result(terminal.paint("AIStemSplitter sandbox", BOLD))
    terminal.paragraph(f"The API on this machine, {kind}.")
    terminal.result("")
    for line in columns(rows):
        terminal.result(line)
    terminal.result("\nIn another terminal:\n")
    terminal.result(f"  export {BASE_URL_VARIABLE}={sandbox.base_url}")
    terminal.result(f"  export {API_KEY_VARIABLE}={sandbox.api_key}")
    terminal.result(f"  {PROGRAM} split song.mp3\n")
    kept = "is then lost" if serving.data is None else f"is kept in {show(serving.data)}"
    terminal.result(f"Ctrl-C stops it; what it holds {kept}.")
