"""The sandbox knows nothing of the client, and loading its names costs nothing until they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import aistemsplitter_async.sandbox as package

FOLDER = Path(package.__file__ or "").parent
SHARED = {f"aistemsplitter_async.{name}" for name in ("_files", "_lazy", "_tasks", "_version", "_web", "clock")}


def imports_of(source: str) -> set[str]:
    """Return the modules of this project that a sandbox module imports from outside its own package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level != 1:
            found.add("." * node.level + (node.module or ""))
    return {
        name
        for name in found
        if name.startswith((".", "aistemsplitter_async")) and not name.startswith("aistemsplitter_async.sandbox")
    }


def test_the_sandbox_imports_nothing_of_the_client() -> None:
    modules = sorted(FOLDER.rglob("*.py"))
    assert len(modules) > 50
    for module in modules:
        assert imports_of(module.read_text(encoding="utf-8")) <= SHARED, module


def test_an_import_of_the_client_would_be_noticed() -> None:
    assert imports_of("from aistemsplitter_async.models import Split") == {"aistemsplitter_async.models"}
    assert imports_of("def f():\n    from ..config import X") == {"..config"}
    assert imports_of("from .state import Split\nfrom aistemsplitter_async.sandbox import masks") == set()


def test_importing_the_package_costs_neither_aiohttp_nor_numpy() -> None:
    code = (
        "import sys, aistemsplitter_async.sandbox as s; dir(s);"
        "print(sorted({'aiohttp', 'numpy', 'soundfile', 'attrs'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
