"""Importing the sandbox costs nothing until its names are used; arguments of the wrong kind are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aistemsplitter_async.sandbox import Instant, Sandbox


def test_importing_the_package_costs_neither_aiohttp_nor_numpy() -> None:
    code = (
        "import sys, aistemsplitter_async.sandbox as s; dir(s);"
        "print(sorted({'aiohttp', 'numpy', 'soundfile', 'attrs'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_progression_that_is_none_is_refused() -> None:
    for progression in ("instant", Instant, 0):
        with pytest.raises(TypeError, match="Instant"):
            Sandbox(progression=progression)  # type: ignore[arg-type]
