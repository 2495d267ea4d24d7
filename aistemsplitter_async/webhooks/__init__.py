"""Webhook notifications: clients learn when a split is done without polling for it.

```python
receiver = WebhookReceiver(url="https://example.com/webhooks")  # secret: AISTEMSPLITTER_WEBHOOK_SECRET
app.router.add_post("/webhooks", receiver.aiohttp_handler)
client = AsyncAIStemSplitter(webhooks=receiver)
```
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aistemsplitter_async._wire.signature import (
        SIGNATURE_HEADER as SIGNATURE_HEADER,
        sign as sign,
        verify as verify,
    )
    from aistemsplitter_async.webhooks.event import WebhookEvent as WebhookEvent
    from aistemsplitter_async.webhooks.inbox import Inbox as Inbox, MemoryInbox as MemoryInbox
    from aistemsplitter_async.webhooks.receiver import WebhookReceiver as WebhookReceiver
    from aistemsplitter_async.webhooks.sqlite_inbox import SQLiteInbox as SQLiteInbox

_HOME = {
    "SIGNATURE_HEADER": "aistemsplitter_async._wire.signature",
    "sign": "aistemsplitter_async._wire.signature",
    "verify": "aistemsplitter_async._wire.signature",
    "WebhookEvent": f"{__name__}.event",
    "Inbox": f"{__name__}.inbox",
    "MemoryInbox": f"{__name__}.inbox",
    "WebhookReceiver": f"{__name__}.receiver",
    "SQLiteInbox": f"{__name__}.sqlite_inbox",
}

__all__ = [
    "SIGNATURE_HEADER",
    "Inbox",
    "MemoryInbox",
    "SQLiteInbox",
    "WebhookEvent",
    "WebhookReceiver",
    "sign",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load a name from the module it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
