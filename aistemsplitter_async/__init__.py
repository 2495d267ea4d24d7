"""Asyncio-first SDK for the AIStemSplitter API: split songs into stems.

```python
from aistemsplitter_async import AsyncAIStemSplitter

async with AsyncAIStemSplitter() as client:
    done = await client.split("song.wav", into="stems/")
```

The names below load on first use, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # the same names again, for type checkers: `as` marks a re-export
    from aistemsplitter_async._core.messages import Origin as Origin, Reply as Reply, Request as Request
    from aistemsplitter_async._core.transfer import Progress as Progress
    from aistemsplitter_async._net.gate import Gate as Gate, GateSnapshot as GateSnapshot, Priority as Priority
    from aistemsplitter_async._net.transport import StreamedReply as StreamedReply, Transport as Transport
    from aistemsplitter_async.audio import AudioSource as AudioSource, Source as Source, stream_source as stream_source
    from aistemsplitter_async.batch.outcome import Done as Done
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
        ProtocolError as ProtocolError,
        RateLimitedError as RateLimitedError,
        ServerError as ServerError,
        SourceChangedError as SourceChangedError,
        SourceUnreadableError as SourceUnreadableError,
        SplitFailedError as SplitFailedError,
        StemsExpiredError as StemsExpiredError,
        SubmissionUncertainError as SubmissionUncertainError,
        UnsafeNameError as UnsafeNameError,
        UnsafeURLError as UnsafeURLError,
        UploadError as UploadError,
        ValidationError as ValidationError,
        WaitTimeoutError as WaitTimeoutError,
    )
    from aistemsplitter_async.events import (
        Event as Event,
        GateClosed as GateClosed,
        RequestSent as RequestSent,
        RetryPlanned as RetryPlanned,
        SplitCreated as SplitCreated,
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

_MODULES = {
    "_core.messages": ("Origin", "Reply", "Request"),
    "_core.transfer": ("Progress",),
    "_net.gate": ("Gate", "GateSnapshot", "Priority"),
    "_net.transport": ("StreamedReply", "Transport"),
    "audio": ("AudioSource", "Source", "stream_source"),
    "batch.outcome": ("Done",),
    "client": ("AsyncAIStemSplitter",),
    "clock": ("Clock", "SystemClock"),
    "config": ("PollPolicy", "RateLimit", "RetryPolicy", "Timeouts"),
    "errors": (
        "APIConnectionError",
        "APIStatusError",
        "APITimeoutError",
        "AIStemSplitterError",
        "AuthenticationError",
        "ConfigurationError",
        "DownloadError",
        "IncompleteDownloadError",
        "InsufficientCreditsError",
        "ProtocolError",
        "RateLimitedError",
        "ServerError",
        "SourceChangedError",
        "SourceUnreadableError",
        "SplitFailedError",
        "StemsExpiredError",
        "SubmissionUncertainError",
        "UnsafeNameError",
        "UnsafeURLError",
        "UploadError",
        "ValidationError",
        "WaitTimeoutError",
    ),
    "events": ("Event", "GateClosed", "RequestSent", "RetryPlanned", "SplitCreated"),
    "job": ("Job",),
    "models": (
        "CreatedSplit",
        "Credits",
        "DirectURL",
        "OutputFormat",
        "Reservation",
        "Split",
        "SplitErrorDetail",
        "SplitStatus",
        "StemModel",
        "Submission",
        "Upload",
        "UploadedFile",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604  # every one is text


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
