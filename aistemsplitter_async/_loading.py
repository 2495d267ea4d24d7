"""Modules that load off the event loop: what the first call needs takes a tenth of a second or two to import.

A thread that imports lets the event loop go on every few milliseconds. Whoever needs the same module meanwhile waits
for the same import, which Python makes once.
"""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module

_ROOT = __name__.partition(".")[0]


async def load(module: str, name: str) -> None:
    """Load a module of this package in a thread, unless it is loaded. A caller that is cancelled leaves it loading.

    Args:
        module: relative to the root package.
        name: what is needed of it. A module that another thread is still loading may not have it yet.
    """
    full = f"{_ROOT}.{module}"
    if not hasattr(sys.modules.get(full), name):
        await asyncio.get_running_loop().run_in_executor(None, import_module, full)
