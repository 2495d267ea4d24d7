"""A decoder that crashes or hangs: its split fails and is refunded, or its create is refused; others go on."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from aistemsplitter_async.sandbox import Limits
from aistemsplitter_async.sandbox.service import separator
from tests.e2e.harness import BareAPI, Connect, build_wav

QUICK = Limits(probe_timeout=1.0, separation_timeout=1.0, separation_pace=0.1, probe_workers=2)
CRASH, HANG, GARBAGE = "kill -SEGV $$", "exec sleep 600", "echo garbage"


def break_decoder(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, breakage: str) -> None:
    """Let `command` of the child process do something else, as long as the file `broken` is there."""
    broken = folder / "broken"
    broken.touch()
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *"stdin {command} "*) if [ -e {broken} ]; then {breakage}; exit 1; fi;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(separator, "sys", SimpleNamespace(executable=str(python)))


async def end(api: BareAPI, audio: bytes, **about: str) -> tuple[str, str]:
    """Split; return how it ended, and why."""
    async with asyncio.timeout(20):
        source = await api.upload(audio, **about)
        created = await api.create(source)
        if created.status == 422:
            return "refused", created.json["error"]["message"]
        assert created.status == 200, created
        split_id = created.json["data"]["id"]
        while (split := await api.get(split_id))["status"] not in ("succeeded", "failed"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return split["status"], (split["error"] or {}).get("message", "")


@pytest.mark.parametrize(("breakage", "reason"), [(CRASH, "crashed"), (HANG, "longer than"), (GARBAGE, "crashed")])
async def test_a_separation_that_breaks_fails_its_split_alone(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breakage: str, reason: str
) -> None:
    break_decoder(tmp_path, monkeypatch, "separate", breakage)
    async with connect(separation="real", limits=QUICK) as api:
        status, message = await end(api, build_wav(2.0))
        assert status == "failed"
        assert reason in message
        assert api.sandbox.credits == 36_000
        (tmp_path / "broken").unlink()
        assert (await end(api, build_wav(1.0)))[0] in (
            "succeeded",
            "failed",
        )  # a second may be short for a busy machine
        assert api.sandbox.ledger.count(status=500) == 0


@pytest.mark.parametrize(("breakage", "reason"), [(CRASH, "crashed"), (HANG, "longer than"), (GARBAGE, "crashed")])
async def test_a_probe_that_breaks_refuses_its_create(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breakage: str, reason: str
) -> None:
    break_decoder(tmp_path, monkeypatch, "probe", breakage)
    async with connect(separation="real", limits=QUICK) as api:
        status, message = await end(api, b"fLaC", filename="song.flac")
        assert status == "refused"
        assert reason in message
        assert str(tmp_path) not in message
        assert api.sandbox.credits == 36_000


async def test_many_creates_at_once_start_few_processes(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = tmp_path / "running"
    running.mkdir()
    count = f"mkdir {running}/$$; ls {running} | wc -l >> {tmp_path}/most; sleep 0.1; rmdir {running}/$$"
    break_decoder(tmp_path, monkeypatch, "probe", count)
    async with connect(separation="real", limits=QUICK) as api:
        ends = await asyncio.gather(*(end(api, b"fLaC%d" % n, filename="song.flac") for n in range(12)))
    assert {status for status, _ in ends} == {"refused"}
    numbers = [int(line) for line in (tmp_path / "most").read_text().split()]
    assert len(numbers) == 12
    assert max(numbers) <= 2


async def test_what_a_decoder_says_of_damage_does_not_fill_the_memory(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mp3"
    damaged.write_bytes((b"\xff\xfb\x90\x64" + b"\x55" * 413) * 200)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aistemsplitter_async.sandbox.separation", "probe", damaged,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert b'"ok": true' in out
    assert not err
