"""A station against the sandbox: a hundred callers at once, and what `docs/station.md` shows."""

from __future__ import annotations

import asyncio
import gc
import re
from collections import Counter
from pathlib import Path

import pytest

from aistemsplitter_async import AsyncAIStemSplitter, Failed, Outcome, Skipped, Station
from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.harness import MakeWav

DOC = Path(__file__).parents[3] / "docs" / "station.md"


async def test_a_hundred_callers_at_once(sandbox: Sandbox, tmp_path: Path, make_wav: MakeWav) -> None:
    """Twenty songs, each asked for five times; twenty callers leave at some moment."""
    songs = [tmp_path / f"{number}.wav" for number in range(20)]
    for number, song in enumerate(songs):
        song.write_bytes(make_wav(0.1 + number / 100))
    async with (
        AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url) as client,
        Station(client, journal=tmp_path / "journal", into=tmp_path / "stems") as station,
    ):
        callers = [asyncio.create_task(station.split(songs[number % 20])) for number in range(100)]
        for number, caller in enumerate(callers[80:]):
            asyncio.get_running_loop().call_later(number * 7 % 20 / 40, caller.cancel)
        outcomes: list[Outcome] = await asyncio.gather(*callers[:80])
        await asyncio.wait(callers[80:])
        later = await station.split(songs[0])
    kinds = Counter(getattr(outcome, "reason", type(outcome).__name__) for outcome in outcomes)
    assert kinds.keys() <= {"Done", "duplicate", "finished"}
    assert kinds["Done"] <= 20
    assert all(len(outcome.files) == 4 for outcome in outcomes if not isinstance(outcome, Failed))
    assert isinstance(later, Skipped)
    assert len(sandbox.ledger.charges) == 20


def test_the_page_runs_as_written(
    tmp_path: Path, make_wav: MakeWav, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "song.wav").write_bytes(make_wav(1.0))
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", DOC.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    exec(compile(code, str(DOC), "exec"), {"__name__": "__main__"})  # noqa: S102  # our own docs
    gc.collect()  # unclosed resources warn here, and warnings are errors
    assert capsys.readouterr().out == "stems/song/vocals.mp3\n"
