"""The code in docs/sandbox.md and docs/tracing.md runs as written and prints what it says."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async.sandbox import Sandbox, faults
from aistemsplitter_async.sandbox.faults.rules import Faults

MakeWav = Callable[..., bytes]
DOC = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8765"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOC, re.MULTILINE | re.DOTALL)


async def run(*command: str, cwd: Path) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AISTEMSPLITTER_")}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


def first_call(code: str) -> str:
    return next(line.strip() for line in code.splitlines() if "with " in line)[:50]


@pytest.mark.parametrize("code", [code for code in blocks("python") if "def test_" not in code], ids=first_call)
def test_a_script_runs_and_prints_what_it_says(
    code: str,
    make_wav: MakeWav,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "song.wav").write_bytes(make_wav(3.0))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/sandbox.md", "exec"), {"__name__": "__main__"})  # noqa: S102  # our own docs
    gc.collect()  # unclosed resources warn here, and warnings are errors
    out, err = capsys.readouterr()
    assert not err
    for text in re.findall(r"print\(.*\)  # (\[.*\])$", code, re.MULTILINE):
        assert (text if "'" in text else text[1:-1]) in out.splitlines()


@pytest.mark.parametrize("code", [code for code in blocks("python") if "def test_" in code])
async def test_a_test_passes(code: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(code)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    status, out, err = await run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", cwd=tmp_path)
    assert status == 0, out + err


def rows() -> list[tuple[str, str, str]]:
    """The table of faults: name, values, text."""
    return re.findall(r"^\| `(\w+)` \|(.*?)\| `(\w+:\w+\S*)` \|$", DOC, re.MULTILINE)


def test_the_table_of_faults_has_every_kind_once_with_its_values_and_a_text_that_works() -> None:
    assert [name for name, _, _ in rows()] == [kind.__name__ for kind in faults.KINDS.values()]
    for name, values, text in rows():
        kind = getattr(faults, name)
        stated = dict(re.findall(r"`(\w+)=([^`]*)`", values))
        assert stated == {
            field.name: json.dumps(field.default) if isinstance(field.default, str) else str(field.default)
            for field in attrs.fields(kind)
        }
        rule = Faults().add_text(text)
        assert [type(fault) for fault in rule.faults] == [kind]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_every_curl_works(sandbox: Sandbox, tmp_path: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl")]
    assert len(lines) >= 8
    answers: list[Any] = []
    for line in lines:
        command = line.replace(ADDRESS, sandbox.base_url.removesuffix("/v1"))
        status, out, err = await run("sh", "-c", command, cwd=tmp_path)
        assert (status, err) == (0, "")
        answers.append(json.loads(out))
        assert answers[-1].get("success") is not False, (line, answers[-1])
    assert [rule["consumed"] for rule in answers[3]["rules"]] == [0, 0]
    assert answers[4]["rules"] == []
    assert sandbox.credits == 5


def test_every_call_of_the_control_endpoint_is_documented() -> None:
    from aistemsplitter_async.sandbox.control import control

    calls = re.compile(r"^\| (`(?:GET|POST|DELETE) /control/.*) \|$", re.MULTILINE)
    assert calls.findall(DOC) == calls.findall(control.__doc__ or "")


def test_the_code_of_docs_tracing_prints_the_spans_that_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/tracing.md", "exec"), {"__name__": "__main__"})  # noqa: S102  # our own docs
    (said,) = re.findall(r"# \[(\[.*\])\]$", code, re.MULTILINE)
    assert capsys.readouterr().out == f"{said}\n"
