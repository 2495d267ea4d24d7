"""Every public name, used as a user would. Nobody runs this: mypy and basedpyright read it, strictly.

`tests/core/test_surface.py` asks that no name is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, assert_never, assert_type

import aistemsplitter_async
from aistemsplitter_async import (
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncAIStemSplitter,
    AttemptStarted,
    AudioSource,
    AuthenticationError,
    Batch,
    BatchFinished,
    BatchItem,
    BatchProgress,
    BatchReport,
    BatchStarted,
    BatchStatus,
    BoughtBefore,
    Clock,
    ConfigurationError,
    CreateAbandoned,
    CreatedSplit,
    Credits,
    DirectURL,
    Done,
    DownloadError,
    Event,
    Failed,
    Gate,
    GateClosed,
    GateOpened,
    GateSnapshot,
    GateUnreachable,
    Inbox,
    IncompleteDownloadError,
    InsufficientCreditsError,
    Job,
    JournalError,
    JournalLockedError,
    LimitLearned,
    LostLeaseError,
    MemoryInbox,
    MixError,
    MixMade,
    Origin,
    Outcome,
    OutputFormat,
    PollMade,
    PollPlanned,
    PollPolicy,
    PostgresInbox,
    Priority,
    Progress,
    ProtocolError,
    RateLimit,
    RateLimitedError,
    RedisInbox,
    Reply,
    Request,
    RequestSent,
    Reservation,
    RetryPlanned,
    RetryPolicy,
    ServerError,
    Skipped,
    SlotGranted,
    Source,
    SourceChangedError,
    SourceUnreadableError,
    SpendLimitError,
    Split,
    SplitCreated,
    SplitErrorDetail,
    SplitFailedError,
    SplitFinished,
    SplitStarted,
    SplitStatus,
    SQLiteInbox,
    StageFinished,
    StageStarted,
    Station,
    StemModel,
    StemsExpiredError,
    StemStream,
    StreamedReply,
    Submission,
    SubmissionUncertainError,
    SystemClock,
    Throttled,
    Timeouts,
    TrackProgress,
    TransferFinished,
    Transport,
    UnsafeNameError,
    UnsafeURLError,
    Upload,
    UploadedFile,
    UploadError,
    ValidationError,
    WaitTimeoutError,
    WebhookError,
    WebhookEvent,
    WebhookReceiver,
    stream_source,
)
from aistemsplitter_async.config import Secret
from aistemsplitter_async.distributed import ClusterBatch, DaskLibrary
from aistemsplitter_async.events import OnEvent, SourceKind, StageOfSplit
from aistemsplitter_async.models import SplitInput
from aistemsplitter_async.otel import OTelListener
from aistemsplitter_async.sandbox import (
    BlockingSandbox,
    Instant,
    Lifetimes,
    Limits,
    Manual,
    Sandbox,
    SandboxKey,
    Timed,
    faults,
)
from aistemsplitter_async.shared import (
    GateStore,
    PostgresGateStore,
    RedisGateStore,
    SharedGate,
    SQLiteGateStore,
    Stored,
    StoreUnavailableError,
)
from aistemsplitter_async.testing import (
    Answer,
    Exchange,
    FakeClock,
    FakeTransport,
    Handler,
    PerCallTransport,
    build_quick_client,
    error_reply,
    json_reply,
)
from aistemsplitter_async.webhooks import SIGNATURE_HEADER, sign, verify

MODEL: StemModel = "6s"
FORMAT: OutputFormat = "wav"
PRIORITY: Priority = "bulk"


async def chunks() -> AsyncIterator[bytes]:
    yield b"RIFF"


async def one_song(path: Path) -> dict[str, Path]:
    async with AsyncAIStemSplitter() as client:
        source: AudioSource = stream_source(chunks, content_length=4, filename="song.wav")
        sources: list[Source] = [path, str(path), b"RIFF", source]
        done = await client.split(sources[0], into="stems", stem_model=MODEL, output_format=FORMAT, priority=PRIORITY)
        assert_type(done, Done)
        assert_type(done.files["vocals"], Path)
        job = await client.submit(source, on_progress=show_bytes)
        assert_type(job, Job)
        async for split in job.updates():
            assert_type(split, Split)
        finished = await job.wait(timeout=60)
        assert_type(finished.duration_seconds, float | None)
        return await job.download("stems", overwrite=True)


def show_bytes(progress: Progress) -> None:
    if progress.total_bytes is not None:
        print(f"{progress.name}: {progress.done_bytes / progress.total_bytes:.0%}")  # noqa: T201


async def step_by_step(client: AsyncAIStemSplitter, saved: list[Submission]) -> None:
    left: Credits = await client.get_credits()
    assert_type(left.balance, float)
    reservation: Reservation = await client.create_upload(
        filename="song.wav", content_type="audio/wav", content_length=4
    )
    assert_type(reservation.upload_headers, Mapping[str, str])
    upload: Upload = await client.upload_audio("song.wav")
    assert_type(upload.input, UploadedFile)
    inputs: list[SplitInput] = [DirectURL("https://example.com/song.mp3"), upload.input]

    async def before_send(submission: Submission) -> None:
        saved.append(submission)

    created: CreatedSplit = await client.create_split(inputs[0], before_send=before_send)
    assert_type(created.created_at, datetime | None)
    assert_type(await client.resubmit(saved[0]), Job)
    split = await client.wait_for_split(created.id, raise_on_failed=False)
    status: SplitStatus = split.status
    if status == "failed" and split.error is not None:
        detail: SplitErrorDetail = split.error
        assert_type(detail.code, str)
    async for one in client.updates(created.id):
        assert_type(one.stems, Mapping[str, str])
    files = await client.download_stems(await client.get_split(created.id), Path("stems"))
    assert_type(files, dict[str, Path])
    assert_type(client.job(created.id).id, str)
    async with client.open_stem(split, "vocals") as stem:
        assert_type(stem, StemStream)
        assert_type(stem.length, int | None)
        assert_type(await stem.read(4), bytes)


def name(outcome: Outcome) -> str:
    match outcome:
        case Done():
            return f"{outcome.split.id}: {sorted(outcome.files)}"
        case Failed():
            return f"{outcome.stage}: {outcome.error.code}"
        case Skipped():
            return outcome.same_as or outcome.reason
        case _:
            assert_never(outcome)


async def many_songs(client: AsyncAIStemSplitter, folder: Path) -> BatchReport:
    items = [BatchItem(source=path, folder=path.stem, seconds=180.0) for path in folder.iterdir()]
    batch: Batch = client.split_many(items, into="stems", journal="library.journal", max_credits=1000)
    async with batch:
        async for outcome in batch:
            name(outcome)
        progress: BatchProgress = batch.progress()
        tracks: tuple[TrackProgress, ...] = progress.active
        assert_type([track.seconds for track in tracks], list[float])
        batch.drain()
        assert_type(batch.stopped_by, BaseException | None)
        await batch.finish(within=10.0)
        return await batch.report()


async def many_callers(client: AsyncAIStemSplitter, folder: Path) -> str:
    async with Station(client, journal="library.journal", into=folder, stems=("vocals",), max_credits=1e4) as station:
        outcome: Outcome = await station.split("song.wav")
        station.drain()
        assert_type(station.stopped_by, BaseException | None)
        return name(outcome)


async def cluster(songs: list[Path]) -> BatchReport:
    library = DaskLibrary("tcp://scheduler:8786", journal="postgresql://db/library", rate_limit=RateLimit(60))
    run: ClusterBatch = library.run(songs, into="/mnt/stems", stems=("vocals",), max_credits=1000)
    async with run as outcomes:
        async for outcome in outcomes:
            name(outcome)
            outcomes.drain()
        assert_type(outcomes.taken, int)
        assert_type(outcomes.stopped_by, BaseException | None)
        return await outcomes.report()


def is_fresh(status: BatchStatus, now: float) -> bool:
    return not status.ended and now - status.at < 10 and status.progress.failed == 0


def policies(clock: Clock) -> AsyncAIStemSplitter:
    gate = Gate(RateLimit.parse("60/60"), clock=clock)
    snapshot: GateSnapshot = gate.snapshot()
    assert_type(snapshot.limit, int | None)
    return AsyncAIStemSplitter(
        "ast_key",
        gate=gate,
        retry=RetryPolicy(attempts=2).scaled(0.1),
        poll=PollPolicy(first=2.0),
        timeouts=Timeouts(call=10.0),
        on_event=show,
        clock=SystemClock(),
    )


def show(event: Event) -> None:  # noqa: C901  # one case per kind, and the last proves that there are no more
    match event:
        case RequestSent() | RetryPlanned() | Throttled():
            assert_type(event.stage, str)
        case GateClosed() | GateOpened() | GateUnreachable() | LimitLearned():
            assert_type(event.at, float)
        case PollPlanned() | PollMade() | SplitCreated():
            assert_type(event.split_id, str)
        case CreateAbandoned():
            assert_type(event.submission, Submission)
        case MixMade():
            assert_type(event.gain_db, float)
        case BoughtBefore() | AttemptStarted() | TransferFinished() | SplitFinished():
            assert_type(event.split_id, str | None)
        case SlotGranted():
            assert_type(event.limit, int | None)
        case BatchStarted() | BatchFinished():
            assert_type(event.at, float)
        case SplitStarted():
            assert_type(event.kind, SourceKind)
        case StageStarted() | StageFinished():
            assert_type(event.stage, StageOfSplit)
        case _:
            assert_never(event)


LISTENERS: list[OnEvent] = [show, OTelListener(details=True)]


async def failures(client: AsyncAIStemSplitter) -> str | None:  # noqa: C901, PLR0912  # the whole tree
    try:
        await client.split("song.wav", into="stems")
    except SubmissionUncertainError as error:
        return error.submission.idempotency_key
    except RateLimitedError as error:
        assert_type(error.retry_after, float | None)
    except (AuthenticationError, InsufficientCreditsError, ServerError) as error:
        assert_type(error.status_code, int | None)
    except ValidationError as error:
        return error.code
    except APIStatusError as error:
        return error.request_id
    except APITimeoutError as error:
        return str(error)
    except APIConnectionError as error:
        assert_type(error.may_have_arrived, bool)
    except ProtocolError as error:
        return str(error)
    except (SplitFailedError, WaitTimeoutError) as error:
        return error.split_id
    except (SourceUnreadableError, SourceChangedError) as error:
        return error.code
    except UploadError as error:
        return error.idempotency_key
    except (IncompleteDownloadError, UnsafeNameError, UnsafeURLError, StemsExpiredError) as error:
        return error.split_id
    except MixError as error:
        return f"{error.mix}: {error.stem}"
    except DownloadError as error:
        return error.code
    except (JournalLockedError, LostLeaseError) as error:
        return str(error)
    except (JournalError, SpendLimitError, ConfigurationError, WebhookError) as error:
        return error.code
    except AIStemSplitterError as error:
        return error.code
    return None


class Recorder:
    """A transport of one's own around another."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.sent: list[tuple[Origin, str]] = []

    async def send(self, request: Request, /) -> Reply:
        self.sent.append((request.origin, request.url))
        reply = await self.inner.send(request)
        return Reply(status=reply.status, headers=reply.headers, body=reply.body)

    @asynccontextmanager
    async def _stream(self, request: Request) -> AsyncGenerator[StreamedReply, None]:
        async with self.inner.stream(request) as reply:
            yield reply

    def stream(self, request: Request, /) -> AbstractAsyncContextManager[StreamedReply]:
        return self._stream(request)

    async def aclose(self) -> None:
        await self.inner.aclose()


async def webhooks(body: bytes, headers: dict[str, str]) -> int:
    inboxes: list[Inbox] = [
        MemoryInbox(),
        SQLiteInbox("events.db"),
        PostgresInbox("postgresql://db/app?schema=hooks", capacity=100, keep=60.0),
        RedisInbox("redis://cache/0", capacity=100, keep=60.0),
    ]
    signature = sign(body, "whsec_1", 1_800_000_000)
    assert_type(verify(body, headers.get(SIGNATURE_HEADER, signature), Secret("whsec_1"), 1_800_000_000.0), int)

    async def on_event(event: WebhookEvent) -> None:
        await inboxes[1].put(event)

    receiver = WebhookReceiver("whsec_1", url="https://example.com/hooks", on_event=on_event, inbox=inboxes[0])
    async with AsyncAIStemSplitter(webhooks=receiver) as client:
        await client.get_credits()
    assert_type(await receiver.handle_lambda({"body": "{}"}), dict[str, Any])
    return await receiver.handle(body, headers)


class OwnStore:
    """A store of somebody's own."""

    async def load(self, key: str) -> Stored:
        if not key:
            raise StoreUnavailableError("there is no server", permanent=True)
        return Stored(None, 0, 1.0)

    async def swap(self, key: str, version: int, text: str, keep: float) -> bool:
        return bool(key and text and version + keep)

    async def aclose(self) -> None: ...


async def several_processes(path: Path) -> Gate:
    async with AsyncAIStemSplitter(shared="host", rate_limit=RateLimit(60)) as client:
        assert_type(client.gate.snapshot().holders, int)
    stores: list[GateStore] = [
        *(
            OwnStore(),
            SQLiteGateStore(path),
            RedisGateStore("redis://cache.example.com"),
            PostgresGateStore("postgresql://db/x"),
        ),
    ]
    gate = SharedGate(stores[0], RateLimit(60), lease=15.0, patience=60.0)
    async with gate, AsyncAIStemSplitter(gate=gate) as client:
        assert_type(client.gate.snapshot().trouble, str | None)
    return gate


async def fakes() -> None:
    def answer(exchange: Exchange) -> Answer:
        return error_reply(500, "BUSY") if exchange.request.method == "POST" else json_reply({"balance": 1})

    handler: Handler = answer
    transport = Recorder(FakeTransport(handler))
    clock = FakeClock(autojump=True)
    async with AsyncAIStemSplitter("ast_key", transport=transport, clock=clock) as client:
        await client.get_credits()
    await clock.advance(5)
    assert_type(clock.monotonic(), float)
    per_call: Transport = PerCallTransport("ast_key", "http://127.0.0.1:1/v1")
    await per_call.aclose()


async def sandboxes() -> None:
    options: list[Instant | Manual | Timed] = [Instant(), Manual(), Timed(base=1.0)]
    keys = [SandboxKey("ast_second", credits=60)]
    async with Sandbox(progression=options[0], keys=keys, limits=Limits(), lifetimes=Lifetimes(stem_url=60)) as sandbox:
        rule = sandbox.faults.add("create", *REQUEST_FAULTS, *WEBHOOK_FAULTS, times=2)
        assert_type(rule.consumed, int)
        client = build_quick_client(sandbox.api_key, sandbox.base_url)
        await client.get_credits()
    assert_type(sandbox.ledger.throttled, int)


def blocking() -> int:
    with BlockingSandbox(Sandbox(separation="silent")) as sandbox:
        assert_type(asyncio.run(build_quick_client(sandbox.api_key, sandbox.base_url).get_credits()), Credits)
        return sandbox.credits


def test_with_fixtures(stem_client: AsyncAIStemSplitter, stem_sandbox: BlockingSandbox) -> None:
    """As in a user's tests."""
    done = asyncio.run(stem_client.split("song.wav", into="stems"))
    assert stem_sandbox.credits < done.split.credits_used if done.split.credits_used else True


BODY: faults.BodyKind = "html"
HOW: faults.CutKind = "reset"
FRAMING: faults.Framing = "chunked"
REQUEST_FAULTS: list[faults.Fault] = [
    *(faults.Status(503, retry_after=2), faults.Body(BODY), faults.Header("X-A", "b"), faults.ContentType("text/html")),
    *(faults.ChangedETag(), faults.ChangedField("data.id", 7), faults.MissingField(), faults.ExtraFields()),
    *(faults.Cut(9, how=HOW, framing=FRAMING), faults.Drip(), faults.Stall(), faults.StopReading(), faults.Reset()),
    *(faults.Latency(0.1), faults.WrongContentRange(), faults.ExpiredReservation(), faults.ExpiredURL()),
    *(faults.FailedSplit(), faults.NeverFinishing(), faults.HostileStems(names=faults.HOSTILE_NAMES)),
    faults.HostileStems(urls=faults.HOSTILE_URLS),
    faults.KINDS["latency"](),
]
WEBHOOK_FAULTS: list[faults.Fault] = [
    *(faults.Lost(), faults.Duplicated(2), faults.Late(1.0), faults.Stale(), faults.Forged(), faults.OutOfOrder()),
    *(kind() for kind in faults.OF_WEBHOOKS),
]
VERSION: str = aistemsplitter_async.__version__
