"""Asyncio-first SDK for the AIStemSplitter API: split songs into stems.

```python
from aistemsplitter_async import AsyncAIStemSplitter

async with AsyncAIStemSplitter() as client:
    done = await client.split("song.wav", into="stems/")
```

The names below load on first use, so that importing the package costs next to nothing.
"""

from typing import TYPE_CHECKING

from aistemsplitter_async._lazy import lazy

if TYPE_CHECKING:  # what type checkers read: `as` marks a re-export
    from aistemsplitter_async._gate.gate import Gate as Gate
    from aistemsplitter_async._gate.lanes import Priority as Priority
    from aistemsplitter_async._gate.snapshot import GateSnapshot as GateSnapshot
    from aistemsplitter_async._send.transport import StreamedReply as StreamedReply, Transport as Transport
    from aistemsplitter_async._transfer.audio import (
        AudioSource as AudioSource,
        Source as Source,
        stream_source as stream_source,
    )
    from aistemsplitter_async._transfer.meter import Progress as Progress
    from aistemsplitter_async._transfer.stem_stream import StemStream as StemStream
    from aistemsplitter_async._version import __version__ as __version__
    from aistemsplitter_async._wire.messages import Origin as Origin, Reply as Reply, Request as Request
    from aistemsplitter_async.batch.batch import Batch as Batch
    from aistemsplitter_async.batch.item import BatchItem as BatchItem
    from aistemsplitter_async.batch.outcome import (
        BatchReport as BatchReport,
        Done as Done,
        Failed as Failed,
        Outcome as Outcome,
        Skipped as Skipped,
    )
    from aistemsplitter_async.batch.progress import (
        BatchProgress as BatchProgress,
        BatchStatus as BatchStatus,
        TrackProgress as TrackProgress,
    )
    from aistemsplitter_async.client import AsyncAIStemSplitter as AsyncAIStemSplitter
    from aistemsplitter_async.clock import Clock as Clock, SystemClock as SystemClock
    from aistemsplitter_async.config import (
        PollPolicy as PollPolicy,
        RateLimit as RateLimit,
        RetryPolicy as RetryPolicy,
        Timeouts as Timeouts,
    )
    from aistemsplitter_async.errors import (
        AIStemSplitterError as AIStemSplitterError,
        APIConnectionError as APIConnectionError,
        APIStatusError as APIStatusError,
        APITimeoutError as APITimeoutError,
        AuthenticationError as AuthenticationError,
        ConfigurationError as ConfigurationError,
        DownloadError as DownloadError,
        IncompleteDownloadError as IncompleteDownloadError,
        InsufficientCreditsError as InsufficientCreditsError,
        JournalError as JournalError,
        JournalLockedError as JournalLockedError,
        MixError as MixError,
        ProtocolError as ProtocolError,
        RateLimitedError as RateLimitedError,
        ServerError as ServerError,
        SourceChangedError as SourceChangedError,
        SourceUnreadableError as SourceUnreadableError,
        SpendLimitError as SpendLimitError,
        SplitFailedError as SplitFailedError,
        StemsExpiredError as StemsExpiredError,
        SubmissionUncertainError as SubmissionUncertainError,
        UnsafeNameError as UnsafeNameError,
        UnsafeURLError as UnsafeURLError,
        UploadError as UploadError,
        ValidationError as ValidationError,
        WaitTimeoutError as WaitTimeoutError,
        WebhookError as WebhookError,
    )
    from aistemsplitter_async.events import (
        AttemptStarted as AttemptStarted,
        BatchFinished as BatchFinished,
        BatchStarted as BatchStarted,
        BoughtBefore as BoughtBefore,
        CreateAbandoned as CreateAbandoned,
        Event as Event,
        GateClosed as GateClosed,
        GateOpened as GateOpened,
        GateUnreachable as GateUnreachable,
        LimitLearned as LimitLearned,
        MixMade as MixMade,
        PollMade as PollMade,
        PollPlanned as PollPlanned,
        RequestSent as RequestSent,
        RetryPlanned as RetryPlanned,
        SlotGranted as SlotGranted,
        SplitCreated as SplitCreated,
        SplitFinished as SplitFinished,
        SplitStarted as SplitStarted,
        StageFinished as StageFinished,
        StageStarted as StageStarted,
        Throttled as Throttled,
        TransferFinished as TransferFinished,
    )
    from aistemsplitter_async.job import Job as Job
    from aistemsplitter_async.models import (
        CreatedSplit as CreatedSplit,
        Credits as Credits,
        DirectURL as DirectURL,
        OutputFormat as OutputFormat,
        Reservation as Reservation,
        Split as Split,
        SplitErrorDetail as SplitErrorDetail,
        SplitStatus as SplitStatus,
        StemModel as StemModel,
        Submission as Submission,
        Upload as Upload,
        UploadedFile as UploadedFile,
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
            "_gate.gate": "Gate",
            "_gate.lanes": "Priority",
            "_gate.snapshot": "GateSnapshot",
            "_send.transport": "StreamedReply Transport",
            "_transfer.audio": "AudioSource Source stream_source",
            "_transfer.meter": "Progress",
            "_transfer.stem_stream": "StemStream",
            "_version": "__version__",
            "_wire.messages": "Origin Reply Request",
            "batch.item": "BatchItem",
            "batch.outcome": "BatchReport Done Failed Outcome Skipped",
            "batch.progress": "BatchProgress BatchStatus TrackProgress",
            "batch.batch": "Batch",
            "client": "AsyncAIStemSplitter",
            "clock": "Clock SystemClock",
            "config": "PollPolicy RateLimit RetryPolicy Timeouts",
            "errors": (
                "AIStemSplitterError APIConnectionError APIStatusError APITimeoutError AuthenticationError "
                "ConfigurationError DownloadError IncompleteDownloadError InsufficientCreditsError JournalError "
                "JournalLockedError MixError ProtocolError RateLimitedError ServerError SourceChangedError "
                "SourceUnreadableError SpendLimitError SplitFailedError StemsExpiredError SubmissionUncertainError "
                "UnsafeNameError UnsafeURLError UploadError ValidationError WaitTimeoutError WebhookError"
            ),
            "events": (
                "AttemptStarted BatchFinished BatchStarted BoughtBefore CreateAbandoned Event GateClosed GateOpened "
                "GateUnreachable LimitLearned MixMade PollMade PollPlanned RequestSent RetryPlanned SlotGranted "
                "SplitCreated SplitFinished SplitStarted StageFinished StageStarted Throttled TransferFinished"
            ),
            "job": "Job",
            "models": (
                "CreatedSplit Credits DirectURL OutputFormat Reservation Split SplitErrorDetail SplitStatus StemModel "
                "Submission Upload UploadedFile"
            ),
            "webhooks.event": "WebhookEvent",
            "webhooks.inbox": "Inbox MemoryInbox",
            "webhooks.postgres_inbox": "PostgresInbox",
            "webhooks.receiver": "WebhookReceiver",
            "webhooks.redis_inbox": "RedisInbox",
            "webhooks.sqlite_inbox": "SQLiteInbox",
        },
    )
