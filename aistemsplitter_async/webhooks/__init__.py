"""Webhook notifications: clients are notified when a split is done, without polling for it.

```python
receiver = WebhookReceiver(url="https://example.com/webhooks")  # secret: AISTEMSPLITTER_WEBHOOK_SECRET
app.router.add_post("/webhooks", receiver.aiohttp_handler)
client = AsyncAIStemSplitter(webhooks=receiver)
```
"""

from typing import TYPE_CHECKING

from aistemsplitter_async._lazy import lazy

if TYPE_CHECKING:  # what type checkers read: `as` marks a re-export
    from aistemsplitter_async._wire.signature import (
        SIGNATURE_HEADER as SIGNATURE_HEADER,
        sign as sign,
        verify as verify,
    )
    from aistemsplitter_async.webhooks.event import WebhookEvent as WebhookEvent
    from aistemsplitter_async.webhooks.inbox import Inbox as Inbox, MemoryInbox as MemoryInbox
    from aistemsplitter_async.webhooks.postgres_inbox import PostgresInbox as PostgresInbox
    from aistemsplitter_async.webhooks.receiver import WebhookReceiver as WebhookReceiver
    from aistemsplitter_async.webhooks.redis_inbox import RedisInbox as RedisInbox
    from aistemsplitter_async.webhooks.sqlite_inbox import SQLiteInbox as SQLiteInbox
else:
    lazy(
        __name__,
        {
            "_wire.signature": "sign SIGNATURE_HEADER verify",
            "webhooks.event": "WebhookEvent",
            "webhooks.inbox": "Inbox MemoryInbox",
            "webhooks.postgres_inbox": "PostgresInbox",
            "webhooks.receiver": "WebhookReceiver",
            "webhooks.redis_inbox": "RedisInbox",
            "webhooks.sqlite_inbox": "SQLiteInbox",
        },
    )
