"""The code in docs/webhooks.md runs as written and prints what it says."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from aistemsplitter_async.sandbox import Limits, faults
from aistemsplitter_async.webhooks.verdict import OK, REFUSED, TOO_LARGE, TRY_AGAIN

MakeWav = Callable[..., bytes]
DOC = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", DOC, re.MULTILINE | re.DOTALL)


def on_a_free_port(code: str) -> str:
    """Two tests may run at once, and a port is taken by one."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return re.sub(r"\b80(89|90)\b", str(probe.getsockname()[1]), code)


@pytest.mark.parametrize("code", BLOCKS, ids=[str(n) for n in range(len(BLOCKS))])
async def test_a_script_runs_and_prints_what_it_says(code: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", on_a_free_port(code), cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b""), err.decode()
    stated = re.findall(r"print\(.*\)  # (\[.*\])$", code, re.MULTILINE)
    assert stated
    for text in stated:
        assert {text, text[1:-1]} & set(out.decode().splitlines()), out.decode()


def test_the_table_of_faults_has_every_one_with_its_values() -> None:
    stated = re.findall(r"^\| `(\w+)\((.*?)\)` \|", DOC, re.MULTILINE)
    assert stated == [
        (kind.__name__, ", ".join(f"{field.name}={field.default}" for field in attrs.fields(kind)))
        for kind in faults.OF_WEBHOOKS
    ]


def test_the_table_of_answers_has_every_one() -> None:
    assert re.findall(r"^\| (\d{3}) \|", DOC, re.MULTILINE) == [str(OK), str(REFUSED), str(TOO_LARGE), str(TRY_AGAIN)]


def test_the_figures_about_trying_again_are_those_of_the_sandbox() -> None:
    limits = Limits()
    stated = f"({limits.webhook_backoff:g}, 2, 4, ... {limits.webhook_backoff_cap:g} seconds of its clock, "
    assert f"{stated}{limits.webhook_attempts} times)" in " ".join(DOC.split())
