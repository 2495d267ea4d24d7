"""The shape of the package, read from its source: imports point down, nothing is circular, and what decides is pure.

Every import counts, wherever it stands: under `TYPE_CHECKING`, inside a function, or as text in a table of names that
load on first use. Only the parent packages that Python loads by itself are no edge.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

import aistemsplitter_async

PACKAGE = "aistemsplitter_async"
ROOT = Path(aistemsplitter_async.__file__).parent

# Rooms from the ground up: a folder, or a module of the root. Each imports only from floors below its own.
FLOORS = (
    ("_lazy", "_version", "_web", "clock", "models"),
    ("errors",),
    ("config", "events"),
    ("_files", "_tasks", "_wire"),
    ("_gate",),
    ("_send",),
    ("_poll", "_transfer"),
    ("library", "webhooks"),
    ("_engine", "journal"),
    ("batch", "job"),
    ("client",),
    ("__init__",),
    ("sandbox.separation", "sandbox.faults"),
    ("sandbox.service",),
    ("sandbox.http",),
    ("sandbox.control",),
    ("sandbox",),
    ("testing",),
    ("pytest_plugin",),
    ("cli.screen",),
    ("cli.report",),
    ("cli",),
    ("cli.commands",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
SANDBOX_MAY_USE = frozenset({"_lazy", "_version", "_web", "clock"})  # of the client's side

# The modules that may touch a loop, a clock, sockets, disk, threads, processes or chance. All others only decide.
SHELLS = frozenset({})
IMPURE = frozenset(
    {
        *("aiohttp", "anyio", "asyncio", "concurrent", "multiprocessing", "subprocess", "threading", "signal"),
        *("fcntl", "msvcrt", "os", "shutil", "sqlite3", "tempfile"),
        *("select", "socket", "ssl"),
        *("random", "secrets", "time", "uuid"),
    }
)
PURE_ALL_THE_SAME = frozenset({"os.PathLike", "os.fsencode", "os.fsdecode", "random.Random"})
CLOCK_CALLS = frozenset({"now", "utcnow", "today", "monotonic", "perf_counter"})
DISK_CALLS = frozenset(
    {
        *("exists", "is_dir", "is_file", "is_symlink", "iterdir", "lstat", "mkdir", "open", "read_bytes", "read_text"),
        *(
            "resolve",
            "rglob",
            "rmdir",
            "samefile",
            "stat",
            "symlink_to",
            "touch",
            "unlink",
            "write_bytes",
            "write_text",
        ),
    }
)

Edges = Mapping[str, frozenset[str]]
