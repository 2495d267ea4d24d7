"""`batch --on`: hands a library out to the workers of a cluster of Dask, or of one that is started on this machine."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aistemsplitter_async._loading import load
from aistemsplitter_async._logs.records import ROOT
from aistemsplitter_async.cli.batch_options import Batching
from aistemsplitter_async.cli.connect import read_key
from aistemsplitter_async.cli.failures import UsageError
from aistemsplitter_async.cli.logs import TerminalHandler
from aistemsplitter_async.cli.places import spell
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.config import API_KEY_VARIABLE, BASE_URL_VARIABLE, JOURNAL_VARIABLE, KEY_AGE, SHARED_VARIABLE
from aistemsplitter_async.distributed.library import ClusterBatch, DaskLibrary

_LOCAL: Final = re.compile(r"local:([1-9]\d{0,2})")
_ADDRESS: Final = re.compile(r"[a-z]+://\S+")
_BATCH: Final = f"{ROOT}.batch"
_LOGGERS: Final = ("distributed", "distributed.client", "tornado.application")  # that Dask gives handlers of their own


def find_problem(arguments: Batching) -> str | None:
    """Return why a library cannot be split on a cluster with these options, `None` if it perhaps can."""
    on = arguments.on or ""
    if not (_LOCAL.fullmatch(on) or _ADDRESS.fullmatch(on)):
        return (
            f"--on is the address of a Dask scheduler, like tcp://scheduler:8786, or local:4 for four workers, not {on}"
        )
    if arguments.sandbox:
        return "--sandbox is one process, and --on several; give one of them"
    if arguments.report is not None:
        return "--report is written by one process: run the same without --on afterwards, which costs nothing"
    if arguments.common.proxy is not None or arguments.common.ca_file is not None:
        return "--proxy and --ca-file are for this process, and its workers are others; set them up there"
    return None


def describe_start(on: str) -> str:
    """Return what is done first on the cluster that `--on` names."""
    local = _LOCAL.fullmatch(on)
    return f"connecting to {on}" if local is None else f"starting {local[1]} worker{'s' * (local[1] != '1')}"


class _Warnings(logging.Handler):
    """Says what a run waits for, unless the log is shown anyway."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        if not any(isinstance(one, TerminalHandler) for one in logging.getLogger(ROOT).handlers):
            self._terminal.say(record.getMessage())


@asynccontextmanager
async def handed_out(arguments: Batching, items: Any, terminal: Terminal) -> AsyncIterator[ClusterBatch]:
    """Yield the running batch on the cluster that `--on` names.

    Raises:
        ConfigurationError: no key, no journal that workers can share, or the extra is missing.
        APIConnectionError: there is no scheduler.
    """
    common = arguments.common
    key = await read_key(common)
    library: dict[str, Any] = {
        "journal": str(spell(arguments.place)),
        "api_key": key,
        "base_url": common.base_url,
        "rate_limit": common.rate_limit,
        "allow_hosts": common.allow_host or (),
    }
    options: dict[str, Any] = {
        "stem_model": arguments.stem_model,
        "output_format": arguments.output_format,
        "stems": arguments.selecting.stems,
        "mixes": arguments.selecting.mixes,
        "in_flight": arguments.in_flight,
        "uploads": arguments.uploads,
        "downloads": arguments.downloads,
        "priority": arguments.priority,
        "max_credits": arguments.max_credits,
        "webhook_url": arguments.webhook_url,
        "key_age": arguments.key_age or KEY_AGE,
        "retry_failed": arguments.retry_failed,
        "changed": arguments.changed,
        "new_key": arguments.new_key,
        "resend": arguments.resend,
    }
    DaskLibrary(arguments.on or "", **library)  # refused before anything is started
    await _load_dask()
    environment = {
        API_KEY_VARIABLE: key or "",
        BASE_URL_VARIABLE: common.base_url or os.environ.get(BASE_URL_VARIABLE, ""),
        JOURNAL_VARIABLE: library["journal"],
        SHARED_VARIABLE: common.shared or os.environ.get(SHARED_VARIABLE) or "host",  # one key, several processes
    }
    logger, warnings = logging.getLogger(_BATCH), _Warnings(terminal)
    logger.addHandler(warnings)
    try:
        async with (
            _started(arguments.on or "", environment) as address,
            DaskLibrary(address, **library).run(items, into=arguments.into, **options) as outcomes,
        ):
            yield outcomes
    finally:
        logger.removeHandler(warnings)


@asynccontextmanager
async def _started(on: str, environment: dict[str, str]) -> AsyncIterator[str]:
    """Yield the address of the scheduler; `local:N` is started, with N worker processes."""
    local = _LOCAL.fullmatch(on)
    if local is None:
        yield on
        return
    from distributed import LocalCluster  # noqa: PLC0415  # it is loaded now

    cluster: Any = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=int(local[1]),
        threads_per_worker=1,
        processes=True,
        asynchronous=True,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # it serves HTTP all the same, elsewhere than at 8787
        silence_logs=logging.CRITICAL,
        preload=[f"{DaskLibrary.__module__.rpartition('.')[0]}.local_worker"],
        env={name: value for name, value in environment.items() if value},
    )
    async with cluster:
        yield str(cluster.scheduler_address)


async def _load_dask() -> None:
    """Load Dask, and silence it: it shows tracebacks of what is an error or an outcome here."""
    try:
        await load("distributed.driver", "Driver")
    except ImportError as error:
        raise UsageError(f"--on needs Dask: pip install 'aistemsplitter-async[dask]' ({error})") from None
    for name in _LOGGERS:  # loading has set their levels
        logging.getLogger(name).setLevel(logging.CRITICAL)
