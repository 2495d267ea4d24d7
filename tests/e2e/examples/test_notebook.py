# mypy: allow-untyped-calls
"""The notebook, cell by cell in an IPython shell, as a kernel runs them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from aistemsplitter_async.sandbox import Sandbox, faults
from tests.e2e.examples.conftest import until
from tests.e2e.harness import MakeWav

if TYPE_CHECKING:
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

NOTEBOOK = Path(__file__).parents[3] / "examples" / "notebook.py"


def read_cells() -> list[str]:
    """Return the code of each cell, as jupytext and VS Code tell them apart."""
    _, *parts = re.split(r"^# %%(.*)\n", NOTEBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [code for kind, code in zip(parts[::2], parts[1::2], strict=True) if "[markdown]" not in kind]


@attrs.frozen
class Shell:
    """What is in a kernel: it runs one cell after the other in one namespace, and awaits them on one event loop."""

    ipython: InteractiveShell
    shown: CapturingDisplayPublisher

    def start(self, cell: str) -> asyncio.Task[ExecutionResult]:
        code = self.ipython.transform_cell(cell)
        return asyncio.create_task(self.ipython.run_cell_async(code, transformed_cell=code))

    async def run(self, cell: str) -> None:
        (await self.start(cell)).raise_error()


@pytest.fixture
def shell(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.history import HistoryManager
    from IPython.core.interactiveshell import InteractiveShell

    monkeypatch.setenv("AISTEMSPLITTER_API_KEY", sandbox.api_key)
    monkeypatch.setenv("AISTEMSPLITTER_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setattr(HistoryManager, "enabled", False)
    monkeypatch.chdir(tmp_path)
    ipython = InteractiveShell.instance()
    ipython.display_pub = shown = CapturingDisplayPublisher()
    yield Shell(ipython, shown)
    ipython.restore_sys_module_state()  # `__main__` among others
    InteractiveShell.clear_instance()


async def test_a_cell_that_is_interrupted_is_run_again_and_pays_for_no_song_twice(
    shell: Shell, sandbox: Sandbox, tmp_path: Path, make_wav: MakeWav
) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "one.wav").write_bytes(make_wav(1.0))
    first, split, play, close = read_cells()
    await shell.run(first)

    sandbox.faults.add("create", faults.Drip(piece_bytes=10, every=0.02))
    cell = shell.start(split)
    await until(lambda: sandbox.ledger.charges)  # it is paid for, and the answer is on its way
    cell.cancel()  # what a kernel does with a cell that awaits when it gets the signal
    assert isinstance((await cell).error_in_exec, asyncio.CancelledError)

    for _ in range(2):
        await shell.run(split)
    assert len(sandbox.ledger.charges) == 1
    await shell.run(play)
    players = [output["data"]["text/html"] for output in shell.shown.outputs]
    assert len([player for player in players if 'src="data:audio/mpeg;base64,' in player]) == 4
    await shell.run(close)
