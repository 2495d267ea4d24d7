"""The journal as a program sees it: what was written survives a kill, and the journal belongs to one key."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import ConfigurationError, JournalError, JournalLockedError, Submission
from aistemsplitter_async.journal.claims import Claim
from aistemsplitter_async.journal.journal import Journal
from aistemsplitter_async.journal.lock import is_locked
from aistemsplitter_async.journal.record import AudioId, State, Variant
from aistemsplitter_async.journal.rows import Sighting
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.models import DirectURL

URL = DirectURL("https://example.com")
OWNER = {"api": "https://api.test/v1", "key": "abc"}


async def opened(path: Path | None) -> Journal:
    return await Journal.open(path, owner=OWNER)


async def claim(journal: Journal, identity: str) -> Claim:
    return await journal.write(
        JournalStore.claim,
        Sighting(audio=AudioId(None, identity), source=identity, folder=identity, pattern="{stem}", split_input=URL),
        Variant(),
        dedupe=True,
    )


async def test_writes_that_come_together_are_made_durable_together(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await opened(None)
    commits, commit = 0, JournalStore.commit

    def count(store: JournalStore) -> None:
        nonlocal commits
        commits += 1
        commit(store)

    monkeypatch.setattr(JournalStore, "commit", count)
    claims = await asyncio.gather(*(claim(journal, str(number)) for number in range(500)))
    assert len({one.record.id for one in claims}) == 500
    assert commits <= 3
    await journal.aclose()


async def test_refused_writes_do_not_affect_the_others() -> None:
    journal = await opened(None)
    tracks = [(await claim(journal, str(number))).record.id for number in range(3)]
    same = Submission("the same key", b"{}")
    done, twice, illegal = await asyncio.gather(
        journal.write(JournalStore.intend, tracks[0], same, 1.0),
        journal.write(JournalStore.intend, tracks[1], same, 1.0),
        journal.write(JournalStore.uncertain, tracks[2]),
        return_exceptions=True,
    )
    assert not isinstance(done, BaseException)
    assert done.state is State.INTENT
    assert isinstance(twice, ConfigurationError)
    assert isinstance(illegal, JournalError)
    assert (await journal.write(JournalStore.get, tracks[0])).state is State.INTENT
    await journal.aclose()


async def test_a_write_is_done_even_if_its_caller_is_cancelled(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal")
    waiting = asyncio.create_task(claim(journal, "a"))
    await asyncio.sleep(0)
    waiting.cancel()
    await journal.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    again = await opened(tmp_path / "journal")
    assert (await claim(again, "a")).met == "known"
    await again.aclose()


async def test_closing_finishes_what_was_asked_for_and_refuses_what_comes_after(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal")
    waiting = [asyncio.create_task(claim(journal, str(number))) for number in range(20)]
    await asyncio.sleep(0)
    await journal.aclose()
    assert {one.met for one in await asyncio.gather(*waiting)} == {"new"}
    with pytest.raises(JournalError, match="closed"):
        await claim(journal, "late")
    await journal.aclose()  # once more does nothing
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("journal")]


async def test_a_journal_of_another_key_is_refused_and_let_go(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = await opened(path)
    track = (await claim(journal, "a")).record.id
    await journal.write(JournalStore.intend, track, Submission("key", b"{}"), 1.0)
    await journal.aclose()
    with pytest.raises(JournalError, match="another API key"):
        await Journal.open(path, owner=OWNER | {"key": "other"})
    await (await opened(path)).aclose()


async def test_a_second_one_in_this_process_is_refused(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal")
    with pytest.raises(JournalLockedError):
        await opened(tmp_path / "journal")
    await claim(journal, "a")
    await journal.aclose()


async def test_a_failing_disk_fails_all_waiting_writes_and_the_next_one_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = await opened(None)
    commit, failures = JournalStore.commit, 0

    def fail(store: JournalStore) -> None:
        nonlocal failures
        if failures < 2:
            failures += 1
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
        commit(store)

    monkeypatch.setattr(JournalStore, "commit", fail)
    results: list[Any] = await asyncio.gather(
        *(claim(journal, str(number)) for number in range(5)), return_exceptions=True
    )
    assert {(type(result), result.code) for result in results} == {(JournalError, "DISK")}
    with pytest.raises(JournalError):
        await claim(journal, "a")
    assert (await claim(journal, "a")).met == "new"
    await journal.aclose()


WRITER = """
    import asyncio, sys
    from pathlib import Path
    from aistemsplitter_async.journal.journal import Journal
    from aistemsplitter_async.journal.store import JournalStore

    async def main():
        journal = await Journal.open(Path(sys.argv[1]), owner={"api": "https://api.test/v1", "key": "abc"})
        number = 0
        while True:
            await journal.write(JournalStore.set_note, f"note {number}", "x")
            print(number, flush=True)
            number += 1

    asyncio.run(main())
"""


OUTLIVING = """
    import asyncio, sys, threading
    from pathlib import Path
    from aistemsplitter_async.journal import journal as module
    from aistemsplitter_async.journal.journal import Journal
    from aistemsplitter_async.journal.store import JournalStore

    if sys.argv[2] == "pool":  # the negative control: what a batch would use without a thread of its own
        from concurrent.futures import ThreadPoolExecutor
        module.OneThread = lambda name: ThreadPoolExecutor(1, name)

    async def main(main_thread):
        journal = await Journal.open(Path(sys.argv[1]), owner={"api": "https://api.test/v1", "key": "abc"})
        opened.set()
        while main_thread.is_alive():
            await asyncio.sleep(0.01)
        await journal.write(JournalStore.set_note, "paid", "split_1")
        print("written", flush=True)

    opened = threading.Event()
    threading.Thread(target=lambda: asyncio.run(main(threading.main_thread()))).start()
    opened.wait()
"""


@pytest.mark.parametrize(("executor", "written"), [("own", "written\n"), ("pool", "")])
def test_a_loop_in_a_thread_still_writes_down_what_it_paid_for_once_the_main_thread_has_ended(
    tmp_path: Path, executor: str, written: str
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(OUTLIVING), str(tmp_path / "journal"), executor]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.stdout == written


BROKEN = """
    JournalStore.commit = lambda self: None
    begin = JournalStore.begin
    JournalStore.begin = lambda self: None if self._db.in_transaction else begin(self)

    async def main():
"""


def kill_a_writer(path: Path, script: str) -> list[int]:
    """Let a process write until it has reported twenty writes, kill it, and return all it reported."""
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        reported = [int(writer.stdout.readline()) for _ in range(20)]
        assert is_locked(path) is not False  # Windows cannot say
        began = time.monotonic()
        with pytest.raises(JournalLockedError, match=str(path)):
            JournalStore(path)
        assert time.monotonic() - began < 10  # it does not wait for the lock
        os.kill(writer.pid, signal.SIGKILL)
        reported += [int(line) for line in writer.stdout if line.endswith("\n")]
    assert not is_locked(path)
    return reported


async def count_notes(path: Path, reported: list[int]) -> int:
    journal = await opened(path)
    found = [await journal.write(JournalStore.note, f"note {number}") for number in reported]
    await journal.aclose()
    return sum(note == "x" for note in found)


async def test_what_was_written_survives_a_kill_and_the_next_one_may_go_on_at_once(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for _ in range(3):
        reported = await asyncio.to_thread(kill_a_writer, path, WRITER)
        assert await count_notes(path, reported) == len(reported)


async def test_without_the_commit_a_kill_would_be_noticed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    script = textwrap.dedent(WRITER).replace("async def main():\n", textwrap.dedent(BROKEN).lstrip("\n"))
    reported = await asyncio.to_thread(kill_a_writer, path, script)
    assert await count_notes(path, reported) == 0
