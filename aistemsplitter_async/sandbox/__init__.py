"""The AIStemSplitter API on your own machine: keys, limits, credits, uploads, splits and stems over loopback HTTP.

It knows nothing of the client in this package (it takes only `clock`), so a misread wire name cannot agree with
itself. Names load on first use: importing this package costs neither aiohttp nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .account import SandboxKey
    from .blocking import BlockingSandbox
    from .limits import Lifetimes, Limits
    from .progress import Instant, Manual, Timed
    from .server import Sandbox

__all__ = ["BlockingSandbox", "Instant", "Lifetimes", "Limits", "Manual", "Sandbox", "SandboxKey", "Timed"]

_HOME = {
    "BlockingSandbox": "blocking",
    "Instant": "progress",
    "Lifetimes": "limits",
    "Limits": "limits",
    "Manual": "progress",
    "Sandbox": "server",
    "SandboxKey": "account",
    "Timed": "progress",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
