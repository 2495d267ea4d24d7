"""A library of several hundred odd files, from the estimate to the report: every count is what the script expects.

The sandbox's stems are silent, but every upload is decoded to its end first, by the real decoder.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from aistemsplitter_async.sandbox import Sandbox
from aistemsplitter_async.sandbox.separation.audio_files import UndecodableAudioError, probe
from aistemsplitter_async.sandbox.service.separator import SeparationError, SilentSeparator
from tests.e2e.harness import CLI, Ended
from tests.odd_library.places import OddLibrary, build


async def decode(_: SilentSeparator, source: Path) -> float:
    """Measure a file as a real sandbox does, without a process of its own for each."""
    try:
        return (await asyncio.to_thread(probe, source)).seconds
    except UndecodableAudioError as error:
        raise SeparationError(str(error)) from None


@pytest.fixture
def library(cli: CLI, monkeypatch: pytest.MonkeyPatch) -> OddLibrary:
    monkeypatch.setattr(SilentSeparator, "probe", decode)
    return build(cli.folder)


async def stop(cli: CLI, sandbox: Sandbox, charges: int, by: int, *arguments: str) -> Ended:
    """Run a batch until so many splits are charged, and stop it then."""
    process = await cli.start("batch", *arguments)
    while len(sandbox.ledger.charges) < charges:
        assert process.returncode is None
        await asyncio.sleep(0.01)
    process.send_signal(by)
    return await cli.end(process)


async def test_the_library(cli: CLI, library: OddLibrary) -> None:
    async with Sandbox(separation="silent", requests_per_minute=None) as sandbox:
        cli = cli.using(sandbox)
        into = ("music", "--into", "out")
        await stop(cli, sandbox, 80, signal.SIGKILL, *into)
        ended = await cli.run("batch", *into, "--json")
        rows = ended.json
        print(len(sandbox.ledger.charges), ended.err[-3000:])
        print([r for r in rows if r["outcome"] == "failed"])
        assert 0
