"""Songs on a cluster: a scheduler and workers on this event loop, against the sandbox."""

from __future__ import annotations

import asyncio
from typing import Any

from aistemsplitter_async import Done


async def test_plumbing(cluster: Any, run: Any, sandbox: Any, make_wav: Any, tmp_path: Any) -> None:
    songs = []
    for number in range(20):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(make_wav(0.1 + number / 100))
        songs.append(path)
    await cluster.add_worker()
    await cluster.add_worker()
    async with run(songs, into=str(tmp_path / "stems")) as outcomes:
        got = [outcome async for outcome in outcomes]
        report = await outcomes.report()
    print(report, got[:2])
    assert len(got) == 20
    assert all(isinstance(o, Done) for o in got), got
