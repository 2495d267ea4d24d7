"""`listen`: receives webhooks, checks them and shows them, for those who develop a receiver."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

import attrs
from aiohttp import web

from aistemsplitter_async._files import reason_of
from aistemsplitter_async.cli.connect import read_secret
from aistemsplitter_async.cli.failures import Exit, UsageError
from aistemsplitter_async.cli.results import print_json
from aistemsplitter_async.cli.screen.render import PROGRAM, columns, number, price, show
from aistemsplitter_async.cli.screen.terminal import BOLD, DIM, GREEN, RED, Terminal
from aistemsplitter_async.cli.server_options import Listening
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.config import API_KEY_VARIABLE, BASE_URL_VARIABLE, WEBHOOK_SECRET_VARIABLE
from aistemsplitter_async.errors import WebhookError
from aistemsplitter_async.sandbox import Sandbox, Timed
from aistemsplitter_async.webhooks import WebhookEvent, WebhookReceiver

_NAME_WIDTH: Final = len("refused")
_HOST: Final = "127.0.0.1"
_SONG: Final = "https://example.com/song.mp3?seconds=187"  # the silent sandbox fetches nothing
_GRACE: Final = 0.5  # s for requests in progress at the stop: nothing is lost, because senders try again
_NOTHING: Final = dict.fromkeys(attrs.fields_dict(WebhookEvent))
_ADVICE: Final = {
    "SIGNATURE_MISSING": "requests of the API have one; those of browsers and scanners do not",
    "SIGNATURE_MALFORMED": "it looks like t=1700000000,v1=64 hexadecimal digits",
    "SIGNATURE_MISMATCH": "check the secret, and that no proxy rewrites the body",
    "TIMESTAMP_STALE": "a recorded request that was sent again, or a wrong clock",
    "TIMESTAMP_FUTURE": "check the clock of this machine",
    "EVENT_MALFORMED": "it was signed with your secret, so its sender has the secret but sends something else",
    "BODY_ENCODED": "check that no proxy compresses the body",
    "METHOD": "events are sent with POST",
    "BODY_TOO_LARGE": "an event has about a hundred bytes",
}


async def listen(listening: Listening, terminal: Terminal) -> int:
    """Receive webhooks until cancelled.

    Raises:
        UsageError: there is no secret to check them with.
    """
    task, reader_gone = asyncio.current_task(), False

    def stop() -> None:
        nonlocal reader_gone
        reader_gone = True
        if task is not None:
            task.cancel()

    terminal.stopping_note = "requests in progress get a moment to finish"
    terminal.on_reader_gone = terminal.on_output_lost = stop
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(_watching_stdout(stop))
            sandbox = None
            if listening.sandbox:
                slow = Timed(base=1.5, per_second=0.0)  # slow enough to watch
                sandbox = Sandbox(separation="silent", requests_per_minute=None, progression=slow)
                await stack.enter_async_context(sandbox)
            view = View(terminal, as_json=listening.json)
            secrets = [sandbox.webhook_secret] if sandbox is not None else _read_secrets(listening.secret_file)
            receiver = await stack.enter_async_context(_serving(secrets, listening.port, view))
            view.introduce(receiver.url, sandbox)
            if sandbox is not None:
                await _show_round_trip(sandbox, receiver, view)
            await asyncio.Event().wait()
    except _PortError as error:
        terminal.error(f"cannot listen on port {listening.port}: {error}; leave out --port to use any free one")
        return Exit.FAILED
    except asyncio.CancelledError:
        if not listening.json and not reader_gone:
            terminal.say("stopped")
    return Exit.DONE


class _PortError(Exception):
    """The port cannot be listened on; the text says why."""


class View:
    """Shows what arrives: events, and requests that were refused with the reason."""

    def __init__(self, terminal: Terminal, *, as_json: bool) -> None:
        self._terminal = terminal
        self._as_json = as_json
        self.shown: int = 0

    def introduce(self, url: str, sandbox: Sandbox | None) -> None:
        """Show the address that receives webhooks, and how to cause one."""
        if self._as_json:
            extra = {} if sandbox is None else {"base_url": sandbox.base_url, "api_key": sandbox.api_key}
            print_json({"listening": url, **extra}, self._terminal)
            return
        say = self._terminal.result
        say(self._terminal.paint("Listening for webhooks", BOLD))
        say(f"\n  {url}\n")
        if sandbox is None:
            self._terminal.paragraph("Point a tunnel there, and give its address as the webhook URL of your splits.")
        else:
            for line in columns([("page", sandbox.base_url.removesuffix("v1")), ("base URL", sandbox.base_url)]):
                say(line)
            say("\nIn another terminal; the webhooks of your own splits are shown here too:\n")
            say(f"  export {BASE_URL_VARIABLE}={sandbox.base_url}")
            say(f"  export {API_KEY_VARIABLE}={sandbox.api_key}")
            say(f"  {PROGRAM} split song.mp3 --webhook-url {url}")
        say("\nCtrl-C stops it.\n")

    def accepted(self, event: WebhookEvent) -> None:
        """Show an event with a valid signature."""
        self.shown += 1
        if self._as_json:
            print_json(attrs.asdict(event) | {"error": None}, self._terminal)
            return
        status = self._terminal.paint(show(event.status), GREEN if event.status == "succeeded" else RED)
        self._line("event", f"{show(event.event)}  {show(event.split_id)}  {status}")

    def refused(self, error: WebhookError) -> None:
        """Show why a request was refused; the answer does not say it."""
        self.shown += 1
        if self._as_json:
            print_json(_NOTHING | {"error": {"code": error.code, "message": str(error)}}, self._terminal)
            return
        advice = _ADVICE.get(str(error.code), "")
        self._line("refused", f"{show(error)}; {advice}", style=RED)

    def nothing_new(self) -> None:
        """Show that a validly signed event had no effect."""
        if self._as_json:
            print_json(_NOTHING | {"error": None}, self._terminal)
        else:
            self._line("ignored", "a repeated event, or one that is not about a split")

    def step(self, name: str, text: str, **facts: object) -> None:
        """Show a step of the round trip: a text for people, or facts for scripts."""
        if self._as_json:
            print_json({"step": name} | facts, self._terminal)
        else:
            self._line(name, text)

    def _line(self, name: str, text: str, *, style: str = DIM) -> None:
        name = self._terminal.paint(name.ljust(_NAME_WIDTH), style)
        self._terminal.result(f"{time.strftime('%H:%M:%S')}  {name}  {text}")


@asynccontextmanager
async def _serving(secrets: list[str], port: int, view: View) -> AsyncIterator[WebhookReceiver]:
    """Serve a receiver at every path: tunnels may rewrite paths."""
    receivers: list[WebhookReceiver] = []

    async def handle(request: web.Request) -> web.Response:
        shown = view.shown
        response = await receivers[0].aiohttp_handler(request)
        if view.shown == shown:
            if response.status == HTTPStatus.METHOD_NOT_ALLOWED:
                view.refused(WebhookError(f"a {request.method} request", code="METHOD"))
            else:
                view.nothing_new()
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, _HOST, port).start()
        except OverflowError as error:
            raise _PortError(str(error)) from error
        except OSError as error:
            raise _PortError(reason_of(error)) from error
        url = f"http://{_HOST}:{runner.addresses[0][1]}/"
        receivers.append(WebhookReceiver(secrets, url=url, on_event=view.accepted, on_refused=view.refused))
        yield receivers[0]
    finally:
        await runner.cleanup()


@contextmanager
def _watching_stdout(gone: Callable[[], object]) -> Iterator[None]:
    """Call `gone` when the reader of a pipe is gone, which would otherwise be noticed only at the next event."""
    loop, out = asyncio.get_running_loop(), _stdout_pipe()
    if out is not None:
        # The writing end of a pipe becomes readable only when the reading end is closed.
        loop.add_reader(out, lambda: (loop.remove_reader(out), gone()))
    try:
        yield
    finally:
        if out is not None:
            loop.remove_reader(out)


def _stdout_pipe() -> int | None:
    """Return the descriptor of stdout, if that is a pipe."""
    try:
        out = sys.stdout.fileno()
        return out if stat.S_ISFIFO(os.fstat(out).st_mode) else None
    except (OSError, ValueError):  # closed, or not a stream of the system
        return None


async def _show_round_trip(sandbox: Sandbox, receiver: WebhookReceiver, view: View) -> None:
    """Show a split from its creation to its stems, with the few requests it takes."""
    async with AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url, webhooks=receiver) as client:
        job = await client.submit(_SONG)
        charged = job.created.credits_used if job.created is not None else None
        cost = price(charged) if charged is not None else ""
        view.step("created", f"{job.id}  {cost}, webhookUrl {receiver.url}", split_id=job.id, webhook_url=receiver.url)
        split = await job.wait()
        view.step("fetched", f"{split.id}  {', '.join(split.stems)}", split_id=split.id, stems=list(split.stems))
        requests = sandbox.ledger.count()
        summary = f"{number(requests)} requests to the API: with a webhook, no poll is wasted"
        view.step("done", summary, split_id=split.id, requests=requests)


def _read_secrets(file: Path | None) -> list[str]:
    """Return the secrets in a file, or in the environment."""
    if file is None:
        secrets = os.environ.get(WEBHOOK_SECRET_VARIABLE, "").split()
        if not secrets:
            raise UsageError(
                f"no webhook secret: set {WEBHOOK_SECRET_VARIABLE} or give --secret-file; or try --sandbox"
            )
        return secrets
    try:
        secrets, problem = read_secret(file).split(), "it is empty"
    except (OSError, ValueError) as error:
        secrets, problem = [], reason_of(error)
    if not secrets:
        raise UsageError(f"cannot read the webhook secret from {file} ({problem})")
    return secrets
