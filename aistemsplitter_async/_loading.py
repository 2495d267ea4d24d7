"""Modules that load off the event loop: what the first call needs takes a tenth of a second or two to import.

A thread that imports lets the event loop go on every few milliseconds. It is a thread of its own: those of the loop may
all be busy with the program's work, and what a first call needs must not wait for that.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import Future
from importlib import import_module
from threading import Thread
from types import ModuleType
from typing import Final

_ROOT = __name__.partition(".")[0]
_IMPORTS: Final = dict[
    str, Future[ModuleType]
]()  # of this process, as `sys.modules`; all who need one wait for the same


async def load(module: str, name: str) -> None:
    """Load a module of this package in a thread, unless it is loaded. A caller that is cancelled leaves it loading.

    Args:
        module: relative to the root package.
        name: what is needed of it. A module that another thread is still loading may not have it yet.
    """
    full = f"{_ROOT}.{module}"
    if hasattr(sys.modules.get(full), name):
        return
    importing = _IMPORTS.get(full)
    if importing is None or importing.done():
        importing = _IMPORTS[full] = _import_in_thread(full)
    await asyncio.wrap_future(importing)


def _import_in_thread(module: str) -> Future[ModuleType]:
    importing = Future[ModuleType]()
    importing.set_running_or_notify_cancel()  # so that one who is cancelled does not cancel it for the others

    def run() -> None:
        try:
            importing.set_result(import_module(module))
        except BaseException as error:  # noqa: BLE001  # raised by those who wait
            importing.set_exception(error)

    Thread(target=run, name=f"import {module}").start()
    return importing
