"""A library of several hundred odd files, from the estimate to the report: every count is what the script expects.

The sandbox's stems are silence, but every upload is decoded to its end first, by the real decoder: what is no audio is
refused before it is charged.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


def sources(rows: Iterable[dict[str, Any]], library: OddLibrary) -> set[str]:
    """Return what rows of JSON are about: paths in the library, lines of lists, URLs."""
    return {row["source"].removeprefix(f"{library.folder}{os.sep}") for row in rows}


async def stop(cli: CLI, sandbox: Sandbox, charges: int, by: signal.Signals, *arguments: str) -> Ended:
    """Run a batch until so many splits are charged, and stop it then."""
    process = await cli.start("batch", *arguments)
    while len(sandbox.ledger.charges) < charges:
        assert process.returncode is None
        await asyncio.sleep(0.01)
    process.send_signal(by)
    return await cli.end(process)


async def test_every_song_is_split_once_and_nothing_is_dropped_in_silence(cli: CLI, library: OddLibrary) -> None:
    songs, copies, refused = library.songs, library.copies, library.refused
    assert len(songs | copies | refused) + library.ignored.total() > 300
    async with Sandbox(separation="silent", requests_per_minute=None) as sandbox:
        cli = cli.using(sandbox)
        into = (*library.arguments, "--into", "out")

        estimate = await cli.run("estimate", *library.arguments, "--json")
        (said,) = estimate.json
        assert estimate.code == 1
        assert estimate.err.count("error: ") == len(refused - library.undecodable)
        assert said["tracks"] == len(songs | copies | library.undecodable)
        assert said["ignored"] == library.ignored
        assert said["repeated"] == library.again

        dry = await cli.run("batch", *into, "--dry-run", "--json")
        *plans, said = dry.json
        kinds = Counter(plan["plan"] for plan in plans)
        assert dry.code == 1
        assert dry.err.count("error: ") == len(refused - library.undecodable)
        assert kinds == {"split": len(songs | library.undecodable), "duplicate": len(copies)}
        assert sources((plan for plan in plans if plan["plan"] == "split"), library) == songs | library.undecodable
        assert sources((plan for plan in plans if plan["plan"] == "duplicate"), library) == copies
        assert not sandbox.ledger.charges

        await stop(cli, sandbox, 90, signal.SIGKILL, *into)
        interrupted = await stop(cli, sandbox, 180, signal.SIGINT, *into)
        assert interrupted.code == 130
        ended = await cli.run("batch", *into, "--json")
        rows = ended.json
        assert ended.code == 1
        assert sources((row for row in rows if row["outcome"] == "failed"), library) == refused
        assert sources((row for row in rows if row["status"] == "duplicate"), library) == copies
        assert sources((row for row in rows if row["status"] in ("succeeded", "finished")), library) == songs
        assert len(sandbox.ledger.charges) == len(songs)

        in_ascii = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        again = await cli.with_(**in_ascii).run("batch", *into, "--report", "report.html")
        assert len(sandbox.ledger.charges) == len(songs)
        assert again.code == 1
        summary = f"0 split, {len(refused)} failed, {len(songs)} finished earlier, {len(copies)} duplicates"
        assert summary in again.err
        page = (cli.folder / "report.html").read_text()
        assert page.count('class="split"') == len(songs | refused | copies)
