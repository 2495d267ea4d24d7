"""The AIStemSplitter API on your own machine: keys, limits, credits, uploads, splits and stems over loopback HTTP.

It knows nothing of the client in this package (it takes only `clock`), so a misread wire name cannot agree with
itself. Names load on first use: importing this package costs neither aiohttp nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aistemsplitter_async.sandbox.blocking import BlockingSandbox
    from aistemsplitter_async.sandbox.server import Sandbox
    from aistemsplitter_async.sandbox.service.account import SandboxKey
    from aistemsplitter_async.sandbox.service.limits import Lifetimes, Limits
    from aistemsplitter_async.sandbox.service.progression import Instant, Manual, Timed

__all__ = ["BlockingSandbox", "Instant", "Lifetimes", "Limits", "Manual", "Sandbox", "SandboxKey", "Timed"]

_HOME = {
    "BlockingSandbox": "blocking",
    "Instant": "service.progression",
    "Lifetimes": "service.limits",
    "Limits": "service.limits",
    "Manual": "service.progression",
    "Sandbox": "server",
    "SandboxKey": "service.account",
    "Timed": "service.progression",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
