"""What is logged, with real handlers: silence unless somebody listens, and no handler that matters to the work."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import APIConnectionError, AsyncAIStemSplitter, Gate, RateLimit
from aistemsplitter_async._files import sync_folder
from aistemsplitter_async._listeners import Emitter
from aistemsplitter_async._logs.setup import StderrHandler, set_up_logging
from aistemsplitter_async._transfer.partfile import PartFile, part_path
from aistemsplitter_async.batch.patience import Patience
from aistemsplitter_async.testing import error_reply, json_reply
from aistemsplitter_async.webhooks import MemoryInbox, WebhookReceiver
from aistemsplitter_async.webhooks.event import WebhookEvent
from tests.io.fakes import World, reset

pytestmark = pytest.mark.usefixtures("inline_threads")
ROOT = logging.getLogger("aistemsplitter_async")
SONG = bytes(range(256)) * 600


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the loggers."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut here
    loggers = [ROOT, *(logging.getLogger(f"{ROOT.name}.{child}") for child in ("http", "gate", "split"))]
    before = [(logger, logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    yield
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Refusing(logging.Handler):
    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error or OSError("no room")

    def handle(self, record: logging.LogRecord) -> bool:  # noqa: ARG002  # as that of logging
        raise self.error


async def split(world: World, folder: Path, **options: Any) -> None:
    world.api.script("reserve", error_reply(429, "RATE_LIMITED", headers={"retry-after": "3", "x-request-id": "r-1"}))
    world.api.script("create", reset())
    async with world.client(**({"on_event": None} | options)) as client:
        await client.split(SONG, filename="song.wav", into=folder)


async def test_a_split_is_logged_by_subject_and_level_with_fields(world: World, tmp_path: Path) -> None:
    kept = Kept()
    ROOT.addHandler(kept)
    ROOT.setLevel(logging.DEBUG)
    await split(world, tmp_path)
    told = {
        (record.name.rpartition(".")[2], record.levelname): record.getMessage()
        for record in kept.records
        if record.levelno > logging.DEBUG
    }
    assert told.keys() == {("gate", "INFO"), ("http", "WARNING"), ("http", "INFO"), ("split", "INFO")}
    assert told["split", "INFO"].startswith("song.wav (split_1): done after ")
    sent = [record for record in kept.records if getattr(record, "event_type", "") == "RequestSent"]
    fields = [(vars(one)["operation"], vars(one)["status"], vars(one)["request_id"]) for one in sent]
    assert fields[:3] == [("create_upload", 429, "r-1"), ("create_upload", 200, None), ("upload", 200, None)]
    assert {record.levelname for record in sent} == {"DEBUG"}
    assert all("aistemsplitter_async" in Path(record.pathname).parts for record in kept.records)
    assert not {Path(record.pathname).name for record in kept.records} & {"_listeners.py", "loggers.py"}


async def test_a_level_that_changes_takes_effect_at_once(world: World) -> None:
    kept = Kept()
    ROOT.addHandler(kept)
    async with world.client(on_event=None) as client:
        for level, expected in ((logging.WARNING, 0), (logging.DEBUG, 3), (logging.WARNING, 3)):
            ROOT.setLevel(level)
            await client.get_credits()
            assert len(kept.records) == expected


async def test_handlers_and_filters_that_raise_change_nothing(world: World, tmp_path: Path) -> None:
    def refuse(_: logging.LogRecord) -> bool:
        raise ValueError

    ROOT.addHandler(Refusing())
    ROOT.addFilter(refuse)
    logging.getLogger(f"{ROOT.name}.http").addFilter(refuse)
    ROOT.setLevel(logging.DEBUG)
    try:
        await split(world, tmp_path)
    finally:
        ROOT.removeFilter(refuse)
        logging.getLogger(f"{ROOT.name}.http").removeFilter(refuse)
    assert len(list(tmp_path.rglob("*.mp3"))) == 4


async def test_the_check_above_would_notice_records_that_are_logged_directly(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    make = Emitter.__init__

    def careless(emitter: Emitter, *args: Any) -> None:
        make(emitter, *args)
        emitter._log = emitter._log._function  # type: ignore[assignment]

    monkeypatch.setattr(Emitter, "__init__", careless)
    ROOT.addHandler(Refusing())
    with pytest.raises(OSError, match="no room"):
        await split(world, tmp_path)
    world.api._scripts.clear()


@pytest.mark.parametrize("error", [OSError("no room"), asyncio.CancelledError()])
async def test_a_warning_of_the_gate_survives_a_handler_that_raises(world: World, error: BaseException) -> None:
    ROOT.addHandler(Refusing(error))
    world.api.script("credits", error_reply(429, "RATE_LIMITED", headers={"retry-after": "3000"}))
    gate = Gate(RateLimit(5), clock=world.clock)
    async with world.client(on_event=None, gate=gate) as client:
        with pytest.raises(Exception, match="429"):
            await client.get_credits()
    assert gate.snapshot().closed_for > 2900


def test_what_the_environment_asks_for_goes_to_stderr_once(capsys: pytest.CaptureFixture[str]) -> None:
    ROOT.propagate = False  # pytest's own handlers are those of the root
    for _ in range(3):
        set_up_logging({"AISTEMSPLITTER_LOG": "warning,http=debug"})
    logging.getLogger(f"{ROOT.name}.http").debug("one")
    logging.getLogger(f"{ROOT.name}.gate").info("two")
    logging.getLogger(f"{ROOT.name}.gate").warning("three")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" aistemsplitter_async.")[2] for line in lines] == ["http: one", "gate: three"]


def test_a_level_that_the_program_has_set_stays_as_it_is() -> None:
    ROOT.setLevel(logging.WARNING)
    set_up_logging({"AISTEMSPLITTER_LOG": "debug,http=info"})
    assert ROOT.level == logging.WARNING
    assert logging.getLogger(f"{ROOT.name}.http").level == logging.INFO


def test_a_program_that_configures_logging_gets_no_line_twice(capsys: pytest.CaptureFixture[str]) -> None:
    ROOT.propagate, kept = False, Kept()
    set_up_logging({"AISTEMSPLITTER_LOG": "debug"})
    ROOT.addHandler(kept)  # later than ours
    logging.getLogger(f"{ROOT.name}.http").debug("one")
    assert capsys.readouterr().err == ""
    assert [record.getMessage() for record in kept.records] == ["one"]


def test_a_value_that_cannot_be_read_is_a_warning_and_no_more() -> None:
    with pytest.warns(RuntimeWarning, match=r"AISTEMSPLITTER_LOG: 'loud' is no level; use one of debug, info"):
        set_up_logging({"AISTEMSPLITTER_LOG": "loud"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_up_logging({"AISTEMSPLITTER_LOG": " "})
        set_up_logging({})
    assert not any(isinstance(handler, StderrHandler) for handler in ROOT.handlers)


@pytest.mark.parametrize(
    "make", [lambda: AsyncAIStemSplitter("ast_key"), lambda: WebhookReceiver("s", url="https://a.b/")]
)
def test_a_client_or_a_receiver_reads_the_environment(
    make: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AISTEMSPLITTER_LOG", "http=loud")
    with pytest.warns(RuntimeWarning, match="'loud' is no level") as told:
        make()
    assert told[0].filename == __file__
    monkeypatch.setenv("AISTEMSPLITTER_LOG", "http=debug")
    make()
    assert logging.getLogger(f"{ROOT.name}.http").level == logging.DEBUG
    assert any(isinstance(handler, StderrHandler) for handler in ROOT.handlers)


@pytest.mark.parametrize(("configured", "lines"), [("", 0), ("logging.basicConfig()", 1)])
def test_nothing_configured_means_silence(configured: str, lines: int) -> None:
    """In a fresh process: a warning is printed by a program that configures logging, and by no other."""
    code = (
        "import logging; from aistemsplitter_async._logs.loggers import Log; from aistemsplitter_async import Gate\n"
        f"{configured}\nLog('gate').warning('held back')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "AISTEMSPLITTER_LOG"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert ended.stderr.count("held back") == lines
    assert ended.stdout == ""


# --- what falls back on something else says so, once


def warnings_of(kept: Kept) -> list[str]:
    return [record.getMessage() for record in kept.records if record.levelno == logging.WARNING]


async def test_rate_headers_that_are_not_understood_are_told_once(world: World) -> None:
    ROOT.addHandler(kept := Kept())
    understood = json_reply({"balance": 1, "unit": "seconds"}, headers={"x-ratelimit-limit": "60"})
    odd = json_reply({"balance": 1, "unit": "seconds"}, headers={"x-ratelimit-budget": "many"})
    world.api.script("credits", understood, odd, odd)
    async with world.client(on_event=None) as client:
        for _ in range(3):
            await client.get_credits()
    assert warnings_of(kept) == ["rate headers not understood (x-ratelimit-budget): the limit is learned from 429s"]


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_a_folder_without_locks_or_syncs_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    ROOT.addHandler(kept := Kept())
    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    for name in ("vocals", "drums"):
        PartFile(part_path(tmp_path, name)).close()
        sync_folder(tmp_path)
    assert [message.partition(str(tmp_path))[0] for message in warnings_of(kept)] == ["files in ", "names in "]


@pytest.mark.parametrize("comes", [False, True])
async def test_a_webhook_that_does_not_come_is_told(world: World, *, comes: bool) -> None:
    ROOT.addHandler(kept := Kept())
    inbox = MemoryInbox()
    receiver = WebhookReceiver("secret", url="https://me.example/hook", inbox=inbox)
    world.api.statuses["split_1"] = ["processing", "succeeded"]
    async with world.client(on_event=None, webhooks=receiver) as client:
        job = await client.submit("https://a.example/x.wav")
        wait = asyncio.create_task(job.wait())
        await world.clock.sleep(0.5)
        if comes:
            await inbox.put(WebhookEvent(event="audio.split.completed", split_id="split_1", status="succeeded"))
        await wait
    assert [message.partition(",")[0] for message in warnings_of(kept)] == ["no webhook came for split_1"] * (not comes)


async def test_the_pause_of_a_batch_is_told(world: World) -> None:
    ROOT.addHandler(kept := Kept())
    failures = [APIConnectionError("no network"), APIConnectionError("no network"), None]
    patience = Patience(clock=world.clock, random=lambda: 0.5, on_give_up=lambda _: None)

    async def attempt() -> str:
        if (failure := failures.pop(0)) is not None:
            raise failure
        return "done"

    assert await patience.retry_through_outage(attempt) == "done"
    assert [message.partition(", and")[0] for message in warnings_of(kept)] == ["the batch pauses"]


def test_the_code_in_the_documentation_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISTEMSPLITTER_API_KEY", "ast_key")
    document = (Path(__file__).parents[2] / "docs" / "logging.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    for code in blocks:
        exec(compile(code, "docs/logging.md", "exec"), {})  # noqa: S102  # our own docs
    assert len(blocks) == 2
    assert logging.getLogger(f"{ROOT.name}.http").level == logging.DEBUG
