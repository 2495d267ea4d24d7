"""Importing the sandbox costs nothing until its names are used."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_package_costs_neither_aiohttp_nor_numpy() -> None:
    code = (
        "import sys, aistemsplitter_async.sandbox as s; dir(s);"
        "print(sorted({'aiohttp', 'numpy', 'soundfile', 'attrs'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
