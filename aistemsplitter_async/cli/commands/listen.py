"""`listen`: webhooks received, checked and shown while somebody develops the thing that is to receive them."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import attrs
from aiohttp import web

from aistemsplitter_async.cli.failures import Exit, UsageError
from aistemsplitter_async.cli.results import hand_out_json
from aistemsplitter_async.cli.screen.render import PROGRAM, columns, number, price, show
from aistemsplitter_async.cli.screen.terminal import BOLD, DIM, GREEN, RED, Terminal
from aistemsplitter_async.client import AsyncAIStemSplitter
from aistemsplitter_async.config import API_KEY_VARIABLE, BASE_URL_VARIABLE, WEBHOOK_SECRET_VARIABLE
from aistemsplitter_async.errors import WebhookError
from aistemsplitter_async.sandbox import Sandbox, Timed
from aistemsplitter_async.webhooks import WebhookEvent, WebhookReceiver

_NO_POST: Final = 405
_NAME_WIDTH: Final = len("refused")
_HOST: Final = "127.0.0.1"
_SONG: Final = "https://example.com/song.mp3?seconds=187"  # the silent sandbox fetches nothing
_SECRET_CAP_BYTES: Final = 4096
_GRACE: Final = 0.5  # s for requests under way once it is told to stop: nothing is lost, as senders try again
_NOTHING: Final = dict.fromkeys(attrs.fields_dict(WebhookEvent))
_ADVICE: Final = {
    "SIGNATURE_MISSING": "requests of the API have one; those of browsers and scanners do not",
    "SIGNATURE_MALFORMED": "it looks like t=1700000000,v1=64 hexadecimal digits",
    "SIGNATURE_MISMATCH": "is the secret the right one, and does nothing on the way rewrite the body?",
    "TIMESTAMP_STALE": "a request that was recorded and sent again, or a clock that is wrong",
    "TIMESTAMP_FUTURE": "is the clock of this machine right?",
    "EVENT_MALFORMED": "it was signed with your secret, so whoever has that sends something else",
    "BODY_ENCODED": "does something on the way compress it?",
    "METHOD": "events come with POST",
    "BODY_TOO_LARGE": "an event has a hundred",
}


@attrs.frozen(kw_only=True)
class Listening:
    """What the command was asked to do."""

    port: int
    secret_file: Path | None
    sandbox: bool
    json: bool


async def listen(listening: Listening, terminal: Terminal) -> int:
    """Receive webhooks until cancelled.

    Raises:
        UsageError: there is no secret to check them with.
    """
    task, unheard = asyncio.current_task(), False

    def stop() -> None:
        nonlocal unheard
        unheard = True
        if task is not None:
            task.cancel()

    terminal.patience = "requests under way are given a moment"
    terminal.unheard = stop
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(_watching_reader(stop))
            sandbox = None
            if listening.sandbox:
                slow_enough_to_watch = Timed(base=1.5, per_second=0.0)
                sandbox = Sandbox(separation="silent", requests_per_minute=None, progression=slow_enough_to_watch)
                await stack.enter_async_context(sandbox)
            view = View(terminal, as_json=listening.json)
            secrets = [sandbox.webhook_secret] if sandbox is not None else _read_secrets(listening.secret_file)
            receiver = await stack.enter_async_context(_serving(secrets, listening.port, view))
            view.introduce(receiver.url, sandbox)
            if sandbox is not None:
                await _go_round(sandbox, receiver, view)
            await asyncio.Event().wait()
    except _PortError as error:
        terminal.error(f"cannot listen on port {listening.port}: {error}; leave --port out for any free one")
        return Exit.FAILED
    except asyncio.CancelledError:
        if not listening.json and not unheard:
            terminal.say("stopped")
    return Exit.DONE


class _PortError(Exception):
    """A port cannot be listened on; the text says why."""


class View:
    """Shows what arrives: events on stdout, and why others were refused."""

    def __init__(self, terminal: Terminal, *, as_json: bool) -> None:
        self._terminal = terminal
        self._as_json = as_json
        self.shown = 0

    def introduce(self, url: str, sandbox: Sandbox | None) -> None:
        """Say where webhooks are received, and how to make one come."""
        if self._as_json:
            extra = {} if sandbox is None else {"base_url": sandbox.base_url, "api_key": sandbox.api_key}
            hand_out_json({"listening": url, **extra}, self._terminal)
            return
        say = self._terminal.result
        say(self._terminal.paint("Listening for webhooks", BOLD))
        say(f"\n  {url}\n")
        if sandbox is None:
            self._terminal.paragraph("Let a tunnel lead there, and give its address with your splits as webhook_url.")
        else:
            for line in columns([("page", sandbox.base_url.removesuffix("v1")), ("base URL", sandbox.base_url)]):
                say(line)
            say("\nIn another terminal, splits of your own are announced here too:\n")
            say(f"  export {BASE_URL_VARIABLE}={sandbox.base_url}")
            say(f"  export {API_KEY_VARIABLE}={sandbox.api_key}")
            say(f"  {PROGRAM} split song.mp3 --webhook-url {url}")
        say("\nCtrl-C stops it.\n")

    def took(self, event: WebhookEvent) -> None:
        """Show a genuine event."""
        self.shown += 1
        if self._as_json:
            hand_out_json(attrs.asdict(event) | {"error": None}, self._terminal)
            return
        status = self._terminal.paint(show(event.status), GREEN if event.status == "succeeded" else RED)
        self._line("event", f"{show(event.event)}  {show(event.split_id)}  {status}")

    def refused(self, error: WebhookError) -> None:
        """Show why a request was refused; the sender is not told."""
        self.shown += 1
        if self._as_json:
            hand_out_json(_NOTHING | {"error": {"code": error.code, "message": str(error)}}, self._terminal)
            return
        advice = _ADVICE.get(str(error.code), "")
        self._line("refused", f"{show(error)}; {advice}", style=RED)

    def nothing_new(self) -> None:
        """Show that a genuine event had no effect."""
        if self._as_json:
            hand_out_json(_NOTHING | {"error": None}, self._terminal)
        else:
            self._line("ignored", "an event that came before, or about something else than a split")

    def step(self, name: str, text: str, **facts: object) -> None:
        """Show a step of the round trip: a text for people, or facts for scripts."""
        if self._as_json:
            hand_out_json({"step": name} | facts, self._terminal)
        else:
            self._line(name, text)

    def _line(self, name: str, text: str, *, style: str = DIM) -> None:
        name = self._terminal.paint(name.ljust(_NAME_WIDTH), style)
        self._terminal.result(f"{time.strftime('%H:%M:%S')}  {name}  {text}")


@asynccontextmanager
async def _serving(secrets: list[str], port: int, view: View) -> AsyncIterator[WebhookReceiver]:
    """Serve a receiver at every path, since nobody knows what a tunnel makes of paths."""
    receivers: list[WebhookReceiver] = []

    async def handle(request: web.Request) -> web.Response:
        shown = view.shown
        response = await receivers[0].aiohttp_handler(request)
        if view.shown == shown:
            if response.status == _NO_POST:
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
        except (OSError, OverflowError) as error:
            raise _PortError((error.strerror if isinstance(error, OSError) else None) or str(error)) from error
        url = f"http://{_HOST}:{runner.addresses[0][1]}/"
        receivers.append(WebhookReceiver(secrets, url=url, on_event=view.took, on_refused=view.refused))
        yield receivers[0]
    finally:
        await runner.cleanup()


@contextmanager
def _watching_reader(gone: Callable[[], object]) -> Iterator[None]:
    """Call `gone` when a pipe's reader has left, which would only be noticed with the next event."""
    loop, out = asyncio.get_running_loop(), _pipe_out()
    if out is not None:
        # All there is to be read at the end that is for writing is that the other one was closed.
        loop.add_reader(out, lambda: (loop.remove_reader(out), gone()))
    try:
        yield
    finally:
        if out is not None:
            loop.remove_reader(out)


def _pipe_out() -> int | None:
    """Return the descriptor of stdout, if that is a pipe."""
    try:
        out = sys.stdout.fileno()
        return out if stat.S_ISFIFO(os.fstat(out).st_mode) else None
    except (OSError, ValueError):  # closed, or none of the system's
        return None


async def _go_round(sandbox: Sandbox, receiver: WebhookReceiver, view: View) -> None:
    """Show a split from its creation to its stems, with the two requests it takes."""
    async with AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url, webhooks=receiver) as client:
        job = await client.submit(_SONG)
        cost = price(job.created.credits_used) if job.created is not None else ""
        view.step("created", f"{job.id}  {cost}, webhookUrl {receiver.url}", split_id=job.id, webhook_url=receiver.url)
        split = await job.wait()
        view.step("fetched", f"{split.id}  {', '.join(split.stems)}", split_id=split.id, stems=list(split.stems))
        requests = sandbox.ledger.count()
        told = f"{number(requests)} requests to the API, and none of them asked in vain"
        view.step("done", told, split_id=split.id, requests=requests)


def _read_secrets(file: Path | None) -> list[str]:
    """Return the secrets in a file, or in the environment."""
    if file is None:
        secrets = os.environ.get(WEBHOOK_SECRET_VARIABLE, "").split()
        if not secrets:
            raise UsageError(
                f"no webhook secret: set {WEBHOOK_SECRET_VARIABLE} or give --secret-file; or try --sandbox"
            )
        return secrets
    problem, data = "there is none in it", b""
    try:
        with file.open("rb") as opened:
            data = opened.read(_SECRET_CAP_BYTES)
    except (OSError, ValueError) as error:
        problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
    secrets = data.decode("utf-8", "surrogateescape").split()
    if not secrets:
        raise UsageError(f"cannot read the webhook secret from {file} ({problem})")
    return secrets
