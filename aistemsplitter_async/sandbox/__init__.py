"""The AIStemSplitter API on your own machine: keys, limits, credits, uploads, splits and stems over loopback HTTP.

It shares no code with the client that knows the API, so a misread wire name cannot agree with itself. Names load on
first use: importing this package costs neither aiohttp nor numpy.
"""

from typing import TYPE_CHECKING

from aistemsplitter_async._lazy import lazy

if TYPE_CHECKING:  # what type checkers read: `as` marks a re-export
    from aistemsplitter_async.sandbox.blocking import BlockingSandbox as BlockingSandbox
    from aistemsplitter_async.sandbox.server import Sandbox as Sandbox
    from aistemsplitter_async.sandbox.service.account import SandboxKey as SandboxKey
    from aistemsplitter_async.sandbox.service.limits import Lifetimes as Lifetimes, Limits as Limits
    from aistemsplitter_async.sandbox.service.progression import Instant as Instant, Manual as Manual, Timed as Timed
else:
    lazy(
        __name__,
        {
            "sandbox.blocking": "BlockingSandbox",
            "sandbox.server": "Sandbox",
            "sandbox.service.account": "SandboxKey",
            "sandbox.service.limits": "Lifetimes Limits",
            "sandbox.service.progression": "Instant Manual Timed",
        },
    )
