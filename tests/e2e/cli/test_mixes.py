"""`--instrumental` and `--mix` on every command that downloads, with real stems of the sandbox."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from aistemsplitter_async.cli.batch_options import Batching
from aistemsplitter_async.cli.commands import dry_run, lookup, split
from aistemsplitter_async.cli.commands.batch import batch
from aistemsplitter_async.cli.failures import Exit
from aistemsplitter_async.cli.options import Common, Selecting, Splitting
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.cli.values import parse_mixes
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.harness import MakeWav


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(requests_per_minute=None) as running:  # its stems add up
        yield running


async def test_every_command_makes_the_mix_without_vocals_and_says_its_gain(
    sandbox: Sandbox,
    tmp_path: Path,
    make_wav: MakeWav,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AISTEMSPLITTER_API_KEY", sandbox.api_key)
    song = tmp_path / "song.wav"
    song.write_bytes(make_wav(1.0))
    selecting = Selecting(stems=("vocals",), instrumental=True, mix=("rhythm=drums,bass",))
    common = Common(base_url=sandbox.base_url, json=True)
    options: dict[str, Any] = {"selecting": selecting, "common": common}

    def printed() -> Any:
        (line,) = capsys.readouterr().out.splitlines()
        return json.loads(line)

    into = tmp_path / "batch"
    assert await batch([str(song)], Batching(into=into, output_format="wav", **options), Terminal()) == 0
    first = printed()
    assert list(first["stems"]) == ["vocals", "instrumental", "rhythm"]
    whole, vocals, made = (soundfile.read(path, always_2d=True)[0] for path in (song, *[*first["stems"].values()][:2]))
    undone = made * 10 ** (-first["gain_db"]["instrumental"] / 20)
    assert np.sqrt(np.mean((undone - (whole - vocals)) ** 2)) < 10 ** (-90 / 20)
    assert sorted(path.name for path in into.rglob("*") if path.is_file() and "journal" not in path.name) == [
        ".stems.json", "instrumental.wav", "rhythm.wav", "vocals.wav",
    ]  # fmt: skip

    run = partial(lookup.download, first["id"], common, Terminal(), into=str(tmp_path / "get"), name=None)
    assert await run(selecting=selecting, overwrite=False, timeout=None) == 0
    assert printed()["gain_db"] == first["gain_db"]

    quiet = Common(base_url=sandbox.base_url)
    arguments = Splitting(into=into, output_format="wav", selecting=selecting, common=quiet)
    monkeypatch.setattr("aistemsplitter_async.batch.track.list_gains", lambda *_: {"rhythm": -1.5})
    assert await split.split([str(song)], arguments, Terminal()) == 0
    assert "rhythm.wav  (rhythm -1.50 dB, not to clip)" in capsys.readouterr().out
    assert sandbox.ledger.count("create") == 1


def test_a_command_that_continues_names_the_same_mixes() -> None:
    selecting = Selecting(stems=(), instrumental=True, mix=("rhythm=drums, bass",))
    assert selecting.given == {"--stems": "none", "--mix": ["instrumental=-vocals", "rhythm=drums,bass"]}
    assert selecting.find_problem() is None
    assert Selecting(mix=("vocals=drums",)).find_problem() == "the mix 'vocals' must not be called like a stem"
    assert Selecting(mix=("a=piano",)).find_problem("4s") is not None
    for wrong in ("drums,bass", "=drums", "a=", "a=drums,"):
        with pytest.raises(ConfigurationError, match="write it like rhythm=drums,bass"):
            parse_mixes([wrong])
    with pytest.raises(ConfigurationError, match="two mixes are called 'a'"):
        parse_mixes(["a=drums", "a=bass"])


async def test_without_the_extra_every_command_says_so_before_it_asks_for_anything(
    tmp_path: Path, make_wav: MakeWav, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AISTEMSPLITTER_API_KEY", "ast_1")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    song = tmp_path / "song.wav"
    song.write_bytes(make_wav(1.0))
    asked = list[str]()

    def refuse(_: object, writer: asyncio.StreamWriter) -> None:
        asked.append("a request")
        writer.close()

    nobody = await asyncio.start_server(refuse, "127.0.0.1")
    async with nobody:
        base_url = f"http://127.0.0.1:{nobody.sockets[0].getsockname()[1]}/v1"
        options: dict[str, Any] = {"selecting": Selecting(instrumental=True), "common": Common(base_url=base_url)}
        into, terminal = tmp_path / "into", Terminal()
        for run in (
            batch([str(song)], Batching(into=into, **options), terminal),
            dry_run.plan_library([str(song)], Batching(into=into, **options), terminal),
            split.split([str(song)], Splitting(into=into, **options), terminal),
            lookup.download(
                "split_1", terminal=terminal, into=str(into), name=None, overwrite=False, timeout=1, **options
            ),
        ):
            assert await run == Exit.USAGE
            assert "a mix needs numpy and soundfile" in capsys.readouterr().err
    assert not asked
    assert not into.exists()
