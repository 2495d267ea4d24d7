"""Imports point down: read from the source, so that no import hides behind a condition."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import aistemsplitter_async

PACKAGE = "aistemsplitter_async"
ROOT = Path(aistemsplitter_async.__file__).parent

# The first part of a module's name below the package, and the layer it lives in.
LAYERS = {
    "errors": 0,
    "models": 0,
    "config": 0,
    "clock": 0,
    "events": 0,
    "_core": 1,
    "_net": 2,
    "audio": 3,
    "uploader": 3,
    "poller": 3,
    "downloader": 3,
    "stages": 3,
    "partfile": 3,
    "job": 3,
    "client": 3,
    "batch": 3,
    "webhooks": 3,
    "testing": 4,
    "pytest_plugin": 4,
    "cli": 5,
    "__main__": 6,
}
SANDBOX = "sandbox"
IMPURE = frozenset(
    {
        "aiohttp",
        "anyio",
        "asyncio",
        "concurrent",
        "multiprocessing",
        "os",
        "pathlib.Path",
        "random",
        "secrets",
        "select",
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "uuid",
    }
)
CLOCK_READS = frozenset({"now", "utcnow", "today", "monotonic", "time"})


def imports(source: str, module: str) -> set[str]:
    """Return the full names of everything `source` imports, wherever in it, relative imports resolved."""
    found = set()
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            found |= {str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)}
    return found


def part(name: str) -> str | None:
    """Return the part of the package that a full name belongs to, or `None` if it is not ours."""
    parts = name.split(".")
    if parts[0] != PACKAGE or len(parts) == 1:
        return None
    home = aistemsplitter_async._HOME.get(parts[1], parts[1]) if len(parts) == 2 else parts[1]
    return home.split(".")[0]


def complaints(module: str, source: str) -> list[str]:
    """Return what is wrong with the imports of one module."""
    here = part(module)
    if here in (None, "__init__"):
        return []  # its names load on first use: another test
    names = sorted(imports(source, module))
    found = [f"{module} imports {name}: {wrong}" for name in names if (wrong := complaint(here, part(name), name))]
    if here == "_core":
        calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        reads = [call for call in calls if isinstance(call, ast.Attribute) and call.attr in CLOCK_READS]
        found += [f"{module} reads a clock: {ast.unparse(call)}" for call in reads]
    return found


def complaint(here: str, there: str | None, name: str) -> str | None:
    """Return what is wrong with one import, or `None`."""
    if here == "_core" and not IMPURE.isdisjoint({name, name.split(".", maxsplit=1)[0]}):
        return "the core only decides"
    if there in (None, "__version__", here):
        return None
    if here == SANDBOX:
        return None if there == "clock" else "the sandbox does not know the client"
    if there == SANDBOX:
        return None if here in ("testing", "pytest_plugin", "cli") else "the client does not know the sandbox"
    if there not in LAYERS or here not in LAYERS:
        return "in no layer"
    if there == "cli":
        return None if here == "__main__" else "nobody imports the command line"
    return None if LAYERS[there] <= LAYERS[here] else "upward"


def modules() -> dict[str, Path]:
    return {
        ".".join([PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]): path for path in sorted(ROOT.rglob("*.py"))
    }


def test_imports_point_down() -> None:
    assert [found for module, path in modules().items() for found in complaints(module, path.read_text("utf-8"))] == []


def test_every_layer_that_has_files_was_looked_at() -> None:
    looked_at = {part(module) for module in modules()}
    assert looked_at >= {"errors", "_core", "_net", "client", SANDBOX, "cli", "testing"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("errors", "from aistemsplitter_async._core import wire"),
        ("errors", "import aistemsplitter_async._net.gate"),
        ("config", "if False:\n    from aistemsplitter_async.client import AsyncAIStemSplitter"),
        ("_core.wire", "def late():\n    from aistemsplitter_async._net.gate import Gate"),
        ("_core.wire", "from .._net import gate"),
        ("_core.wire", "from .. import client"),
        ("_core.wire", "from aistemsplitter_async import AsyncAIStemSplitter"),
        ("_core.naming", "from pathlib import Path"),
        ("_core.window", "import asyncio"),
        ("_core.window", "import time"),
        ("_core.window", "from random import random"),
        ("_core.window", "import aiohttp.web"),
        ("_core.window", "from datetime import datetime\ndatetime.now()"),
        ("_net.gate", "from aistemsplitter_async.poller import Poller"),
        ("_net.gate", "from importlib import import_module\nimport_module('aistemsplitter_async.client')"),
        ("client", "from aistemsplitter_async.testing import FakeClock"),
        ("client", "from aistemsplitter_async.sandbox import Sandbox"),
        ("client", "from . import sandbox"),
        ("batch.runner", "from ..cli import main"),
        ("testing", "from aistemsplitter_async.cli import main"),
        ("sandbox.server", "from aistemsplitter_async.models import Split"),
        ("sandbox.server", "from aistemsplitter_async._core.wire import decode"),
        ("sandbox.server", "from ..errors import ValidationError"),
        ("sandbox.__init__", "from ..client import AsyncAIStemSplitter"),
        ("helpers", "from aistemsplitter_async.errors import ProtocolError"),
        ("client", "from aistemsplitter_async.helpers import anything"),
    ],
)
def test_an_import_that_does_not_point_down_is_found(module: str, source: str) -> None:
    assert complaints(f"{PACKAGE}.{module}", source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sandbox.server", "from ..clock import Clock\nfrom .state import State\nimport asyncio"),
        ("sandbox.__init__", "from .server import Sandbox"),
        ("testing", "from aistemsplitter_async.sandbox import Sandbox"),
        (
            "cli.__init__",
            "from aistemsplitter_async.testing import FakeClock\nfrom aistemsplitter_async import __version__",
        ),
        ("__main__", "from aistemsplitter_async.cli import main"),
        ("_core.wire", "from aistemsplitter_async.errors import ProtocolError\nimport json"),
    ],
)
def test_an_import_that_points_down_is_not_complained_of(module: str, source: str) -> None:
    assert complaints(f"{PACKAGE}.{module}", source) == []
