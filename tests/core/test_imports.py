"""The shape of the package, read from its source: imports point down, nothing is circular, and what decides is pure.

Every import counts, wherever it stands: under `TYPE_CHECKING`, inside a function, or as text in a table of names that
load on first use. Only the parent packages that Python loads by itself are no edge.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import aistemsplitter_async

PACKAGE = "aistemsplitter_async"
ROOT = Path(aistemsplitter_async.__file__).parent

# Rooms from the ground up. A room is a folder, or a module of the root; it imports only from floors below its own.
FLOORS = (
    ("_addresses", "_lazy", "_loading", "_plain", "_version", "_web", "clock"),
    ("models",),
    ("_urls", "errors"),
    ("config", "events"),
    ("_logs",),
    ("_audio", "_files", "_listeners", "_sleep", "_tasks", "_wire"),
    ("_databases",),
    ("_gate",),
    ("_send",),
    ("_poll", "_transfer"),
    ("library", "shared", "webhooks"),
    ("_engine", "journal"),
    ("batch", "job"),
    ("client",),
    ("distributed",),
    ("sandbox.separation", "sandbox.faults"),
    ("sandbox.service",),
    ("sandbox.http",),
    ("sandbox.control",),
    ("sandbox",),
    ("otel", "testing"),
    ("pytest_plugin",),
    ("cli.screen",),
    ("cli.report",),
    ("cli",),
    ("cli.commands",),
    ("cli.journal_app",),
    ("cli.app",),
    ("cli.__init__",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LAZY = (
    "",
    "distributed",
    "sandbox",
    "shared",
    "webhooks",
)  # packages whose names load on first use: above what they offer
UPSTAIRS = frozenset({"__main__", "cli", "pytest_plugin", "testing"})
# Nothing that knows the wire.
SANDBOX_MAY_USE = frozenset({"_addresses", "_files", "_lazy", "_tasks", "_urls", "_version", "_web", "clock"})

# The modules, by folder, that may touch a loop, a clock, sockets, disk, threads, processes or chance.
SHELLS_OF = {
    "": "_engine _files _listeners _loading _sleep _tasks _web cli client clock testing",
    "_databases": "postgres redis sqlite",
    "_gate": "contact gate holding queues shared_gate timer",
    "_poll": "poller",
    "_send": "attempt connections connectors course create failures network pipeline transfer transport",
    "_transfer": (
        "answer audio collector downloader file_object file_source foreign manifest metered mixing partfile saver "
        "sound stem_stream stem_urls target uploader writer"
    ),
    "batch": (
        "batch bounds call capacity context course create feeder fleet item new_key patience progress runner "
        "shared_folder standing station steps ticker track"
    ),
    "cli": "app connect journal_app logs paths places run sources startup",
    "cli.commands": "batch cluster demo dry_run forecast journal listen lookup sandbox split status unrecognised",
    "cli.report": "report waveforms",
    "cli.screen": "live terminal",
    "distributed": "driver library link local_worker worker",
    "journal": "file file_end journal lease lock place postgres postgres_end postgres_errors postgres_reading reading "
    "session sqlite",
    "library": "folders lists names search tags",
    "otel": "metrics",
    "sandbox": "blocking origins server",
    "sandbox.control": "control overview page",
    "sandbox.http": "api cdn deliveries fetch injector leaks openapi origin sending stems worker",
    "sandbox.separation": "__main__ audio_files separate silence",
    "sandbox.service": "account core jobs persistence separator service sources splits storage timeline uploads",
    "shared": "boot calls postgres redis sqlite urls",
    "webhooks": "aiohttp_handler follower inbox postgres_inbox receiver redis_inbox server_inbox sqlite_inbox",
}
SHELLS = {f"{room}.{name}".lstrip(".") for room, names in SHELLS_OF.items() for name in names.split()}
IMPURE = frozenset(
    {
        *("aiohttp", "anyio", "asyncio", "concurrent", "multiprocessing", "signal", "subprocess", "threading"),
        *("fcntl", "msvcrt", "os", "shutil", "sqlite3", "tempfile"),
        *("psycopg", "redis"),
        *("select", "socket", "ssl"),
        *("random", "secrets", "time", "uuid"),
    }
)
PURE_NONETHELESS = frozenset(
    {"asyncio.CancelledError", "os.PathLike", "os.fsdecode", "os.fsencode", "os.sep", "random.Random"}
)
CLOCK_CALLS = frozenset({"monotonic", "now", "perf_counter", "today", "utcnow"})
READ_CALLS = frozenset(
    {"exists", "is_dir", "is_file", "is_symlink", "iterdir", "lstat", "resolve", "rglob", "samefile"}
)
FILE_CALLS = frozenset({"mkdir", "open", "read_bytes", "read_text", "rmdir", "stat", "touch", "unlink", "write_text"})
DISK_CALLS = READ_CALLS | FILE_CALLS

Graph = Mapping[str, set[str]]


def name_of(path: Path) -> str:
    """Return a module's name below the package, empty for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path.read_text("utf-8") for path in sorted(ROOT.rglob("*.py"))}
PACKAGES = {name_of(path) for path in ROOT.rglob("__init__.py")}


def imported(module: str, source: str) -> Iterator[str]:
    """Yield the full name of everything `source` imports, wherever in it; of `from x import y`, `x.y`."""
    package = module.split(".") if module in PACKAGES else module.split(".")[:-1]
    base = [PACKAGE, *filter(None, package)]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy":  # a table of names that load on first use
            tables = [ast.literal_eval(arg) for arg in node.args if isinstance(arg, ast.Dict)]
            yield from (f"{PACKAGE}.{place}" for table in tables for place in table)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "load":  # in a thread
            yield from (f"{PACKAGE}.{arg.value!s}" for arg in node.args[:1] if isinstance(arg, ast.Constant))


def edges(module: str, source: str) -> set[str]:
    """Return the modules of this package that `source` imports, or whose names it imports."""
    found = set()
    for name in imported(module, source):
        if name.split(".")[0] == PACKAGE:
            inner = name.removeprefix(PACKAGE).removeprefix(".")
            found.add(inner if inner in SOURCES else inner.rpartition(".")[0])
    return found - {module}


def room_of(module: str) -> str:
    """Return the room a module is in: the longest name on a floor that it is, or is inside of."""
    room = module if module not in PACKAGES or f"{module}.__init__" not in FLOOR else f"{module}.__init__"
    while room not in FLOOR and "." in room:
        room = room.rpartition(".")[0]
    return room


def complaint(module: str, target: str) -> str | None:
    """Return what is wrong with an import of one of our modules by another, or `None`."""
    here, there = room_of(module), room_of(target)
    if not target:
        return "imports from the root package"
    if module in LAZY:
        return None
    if here not in FLOOR or there not in FLOOR:
        return "is in no room"
    if here != there and FLOOR[there] >= FLOOR[here]:
        return "imports upward"
    in_sandbox, of_sandbox = here.split(".")[0] == "sandbox", there.split(".")[0] == "sandbox"
    if in_sandbox and not of_sandbox and there not in SANDBOX_MAY_USE:
        return "knows the client"
    if of_sandbox and not in_sandbox and here.split(".")[0] not in UPSTAIRS:
        return "knows the sandbox"
    return None


def complaints(module: str, source: str) -> list[str]:
    """Return what is wrong with the imports of one module."""
    targets = sorted(edges(module, source))
    return [f"{module} -> {target}: {wrong}" for target in targets if (wrong := complaint(module, target))]


def cycle(graph: Graph) -> list[str]:
    """Return a cycle of imports, empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def impurities(source: str) -> set[str]:
    """Return what in a module touches the world."""
    full = set(imported("", source)) - PURE_NONETHELESS
    found = {name for name in full if name.split(".")[0] in IMPURE}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_CALLS | DISK_CALLS:
                found.add(f"{node.func.attr}()")
            elif isinstance(node.func, ast.Name) and node.func.id == "open":
                found.add("open()")
    return found


def folders_made(source: str) -> list[str]:
    """Return the calls in a module that make a folder without syncing its name, as `_files.make_folder` does."""
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call for call in calls if call.rpartition(".")[2] in ("mkdir", "makedirs")]


def test_imports_point_down() -> None:
    assert [found for module, source in SOURCES.items() for found in complaints(module, source)] == []


def test_every_room_is_on_a_floor_and_no_floor_is_empty() -> None:
    assert {room_of(module) for module in SOURCES if module} == set(FLOOR)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycle({module: edges(module, source) for module, source in SOURCES.items()}) == []


def test_what_is_not_a_shell_is_pure() -> None:
    assert {
        name: found for name, source in SOURCES.items() if name not in SHELLS and (found := impurities(source))
    } == {}


def test_every_shell_touches_something() -> None:
    assert {module for module in SHELLS if module not in SOURCES or not impurities(SOURCES[module])} == set()


def test_every_folder_that_is_made_survives_a_power_cut() -> None:
    """But for the sandbox's, which promises less, and writes it in its documentation."""
    made = {module: calls for module, source in SOURCES.items() if (calls := folders_made(source))}
    assert {module for module in made if not module.startswith("sandbox.")} == {"_files"}
    assert folders_made("os.makedirs(path)\npath.parent.mkdir(parents=True)") == ["os.makedirs", "path.parent.mkdir"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("errors", "from aistemsplitter_async._wire import codec"),
        ("errors", "import aistemsplitter_async._gate.gate"),
        ("config", "if TYPE_CHECKING:\n    from aistemsplitter_async.client import AsyncAIStemSplitter"),
        ("_wire.codec", "def late():\n    from aistemsplitter_async._gate.gate import Gate"),
        ("_wire.codec", "from .._gate import gate"),
        ("_wire.codec", "from .. import client"),
        ("_wire.codec", "from aistemsplitter_async import AsyncAIStemSplitter"),
        ("_audio.examine", "from aistemsplitter_async.library.tags import read_tags"),
        ("_gate.gate", "from importlib import import_module\nimport_module('aistemsplitter_async.client')"),
        ("_gate.gate", "from aistemsplitter_async._poll.poller import Poller"),
        ("_poll.poller", "from aistemsplitter_async._transfer.uploader import Uploader"),
        ("_poll.poller", "await load('client', 'AsyncAIStemSplitter')"),
        ("_engine", "lazy(__name__, {'client': ('AsyncAIStemSplitter',)})"),
        ("client", "from aistemsplitter_async.testing import FakeClock"),
        ("client", "from aistemsplitter_async.sandbox import Sandbox"),
        ("batch.runner", "from ..cli import main"),
        ("testing", "from aistemsplitter_async.cli import main"),
        ("cli.run", "from aistemsplitter_async import AsyncAIStemSplitter"),
        ("cli.screen.live", "from aistemsplitter_async.cli.run import run"),
        ("sandbox.server", "from aistemsplitter_async.models import Split"),
        ("sandbox.server", "from ..errors import ValidationError"),
        ("sandbox.service.splits", "from aistemsplitter_async.sandbox.http import encode"),
        ("helpers", "from aistemsplitter_async.errors import ProtocolError"),
    ],
)
def test_an_import_that_does_not_point_down_is_found(module: str, source: str) -> None:
    assert complaints(module, source)


def test_a_circle_is_found_wherever_its_imports_hide() -> None:
    sources = SOURCES | {
        "errors": "from aistemsplitter_async.models import Split",
        "models": "def late():\n    if TYPE_CHECKING:\n        from aistemsplitter_async import errors",
    }
    assert set(cycle({module: edges(module, source) for module, source in sources.items()})) == {"errors", "models"}


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio",
        "from random import random",
        "import aiohttp.web",
        "from datetime import datetime\ndatetime.now()",
        "def f(path):\n    return path.read_text()",
        "def f():\n    import os",
        "with open('x'):\n    pass",
    ],
)
def test_what_touches_the_world_is_found(source: str) -> None:
    assert impurities(source)
