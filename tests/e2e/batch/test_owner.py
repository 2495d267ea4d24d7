"""Two processes on one journal that lies among its songs: one runs, one is refused, and each song is paid for once."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from pathlib import Path

import pytest

from tests.e2e.batch.bare_service import BareService, serving

RUN = """
    import asyncio, sys
    from pathlib import Path
    from aistemsplitter_async import AsyncAIStemSplitter, JournalLockedError, PollPolicy, RateLimit
    from aistemsplitter_async.batch import runner
    from aistemsplitter_async.journal import file

    class NoLock:
        def __init__(self, journal): pass
        def release(self): pass
        discard = release

    music, base_url, build = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if build in ("no lock file", "neither"):
        file.JournalLock = NoLock
    if build in ("journal among the songs", "neither"):
        runner.own_files = lambda journal: ()

    async def main():
        poll = PollPolicy().scaled(0.3)
        async with AsyncAIStemSplitter(
            "ast_test", base_url=base_url, rate_limit=RateLimit(10_000), poll=poll
        ) as client:
            journal = music / "library.journal"
            if not journal.exists():
                journal.touch()  # so that the search of the first run finds it
            sources = sorted(music.iterdir())
            try:
                async with client.split_many(sources, journal=journal, in_flight=1) as batch:
                    print(await batch.report())
            except JournalLockedError:
                sys.exit(75)

    asyncio.run(main())
"""


async def start(service: BareService, music: Path, build: str) -> asyncio.subprocess.Process:
    arguments = ["-c", textwrap.dedent(RUN), str(music), service.base_url, build]
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.DEVNULL)


@pytest.mark.parametrize("build", ["as it is", "no lock file", "journal among the songs", "neither"])
async def test_a_second_process_is_refused_and_every_song_is_paid_once(build: str, tmp_path: Path) -> None:
    music = tmp_path / "music"
    music.mkdir()
    for number in range(12):
        (music / f"song {number:02}.wav").write_bytes(f"song {number}".encode() * 50)
    async with asyncio.timeout(60), serving(processing=0.1) as service:
        first = await start(service, music, build)
        while len(service.charged) < 4:  # noqa: ASYNC110  # the other process makes it so
            await asyncio.sleep(0.01)
        service.held, before = True, service.connections  # nothing depends on which of them is quicker
        second = await start(service, music, build)
        refused = None if build == "neither" else await second.wait()
        while build == "neither" and service.connections == before:  # noqa: ASYNC110  # until it is at work, too
            await asyncio.sleep(0.01)
        service.held = False
        codes = await first.wait(), refused or await second.wait()
    if build == "neither":  # the negative control: as it was without a lock file
        assert codes[1] != 75
        assert len(service.charged) > 13  # one more may be the journal itself
        return
    assert codes == (0, 75)
    if build != "journal among the songs":
        assert len(service.uploads) == len(service.charged) == 12
