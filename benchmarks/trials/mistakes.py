"""Mistakes to build into the package, each of which a kind of trouble must find: the negative controls of `kinds`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import Callable
from typing import Any

import attrs

from benchmarks.trials.breaking import mistake, replace


def _ambiguity(says: Callable[[Any, bool], bool]) -> None:
    """Let `says` decide whether a create that ended in an error may have happened."""
    replace("_send.retry:is_ambiguous", lambda judge: lambda error: says(error, judge(error)))


@mistake("5xx-definite", "status", first=20)
def trust_server_errors() -> None:
    """A create answered with 5xx counts as one that did not happen."""
    _ambiguity(lambda error, ambiguous: ambiguous and type(error).__name__ != "ServerError")


@mistake("small-headers", "headers")
def limit_headers() -> None:
    """Reply heads are limited as aiohttp does by itself."""
    replace("_send.transport:REPLY_HEADER_BYTES", lambda _: 8190)
    replace("_send.transport:REPLY_HEADER_LINES", lambda _: 128)


@mistake("strict-decode", "bodies")
def decode_strictly() -> None:
    """A reply is plain UTF-8, or it cannot be read."""
    from aistemsplitter_async.errors import ProtocolError

    def decode(body: bytes, _: object) -> str:
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise ProtocolError("not UTF-8") from None

    replace("_wire.codec:decode_text", lambda _: decode)


@mistake("unreadable-definite", "unreadable", first=21)
def trust_unreadable_answers() -> None:
    """An answer that cannot be read counts as a create that did not happen."""
    _ambiguity(lambda error, ambiguous: ambiguous and type(error).__name__ != "ProtocolError")


@mistake("refusal-retried", "refusal")
def ignore_refusals() -> None:
    """A refusal with status 200 is taken for an answer that cannot be read."""
    replace("_wire.operations:build_refusal", lambda _: lambda *_, **__: None)


@mistake("cut-definite", "cut", first=10)
def trust_broken_connections() -> None:
    """A broken connection counts as a create that did not arrive."""
    _judge_connections(lambda _, __: False)


@mistake("proxy-ambiguous", "proxy")
def doubt_proxies() -> None:
    """A proxy's refusal counts as a create that may have happened."""
    _judge_connections(lambda error, arrived: arrived or type(error).__name__ == "ClientHttpProxyError")


@mistake("valueerror-definite", "session")
def trust_foreign_errors() -> None:
    """What is raised by other people's code in a session counts as raised before anything was sent."""
    foreign = (ValueError, RuntimeError, LookupError, TypeError, AssertionError)
    _judge_connections(lambda error, arrived: arrived and not isinstance(error, foreign), permanent=foreign)


def _judge_connections(says: Callable[[Exception, bool], bool], *, permanent: tuple[type[Exception], ...] = ()) -> None:
    def build(convert: Callable[..., Any]) -> Callable[..., Any]:
        def judged(error: Exception, *args: Any, **kwargs: Any) -> Any:
            failure = convert(error, *args, **kwargs)
            failure.may_have_arrived = says(error, failure.may_have_arrived)
            failure.permanent = failure.permanent or isinstance(error, permanent)
            return failure

        return judged

    replace("_send.transport:convert_error", build)


@mistake("endless-uploads", "clock", first=8)
def trust_the_clock() -> None:
    """An upload that has expired by this machine's clock is made again, however often."""
    replace("batch.standing:Standing.plan", lambda _: lambda standing, record: standing.context.plan(record))


@mistake("cancel-once", "cancel")
def survive_one_cancellation() -> None:
    """A create under way outlives one cancellation of its caller, and no second one."""

    async def run(owned: Any, work: Any) -> Any:
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            try:
                with contextlib.suppress(TimeoutError):
                    async with owned._clock.timeout_at(owned._clock.monotonic() + owned._grace):
                        await asyncio.wait([task])
            finally:
                task.cancel()
                await asyncio.wait([task])
                task.cancelled() or task.exception()
            raise
        return task.result()

    replace("_tasks:OwnedTasks.run", lambda _: run)
    forget_what_was_given_up()


@mistake("unshielded", "anyio")
def wait_unshielded() -> None:
    """What is waited out in a cancelled scope is waited for at every turn of the loop."""
    replace("_tasks:CancelScope", lambda _: lambda **_: contextlib.nullcontext())


@mistake("silent", "leave")
def forget_what_was_given_up() -> None:
    """A create that is given up although it may have happened leaves no trace."""
    from aistemsplitter_async.errors import AIStemSplitterError

    replace("_send.create:Create._abandon", lambda _: lambda *_: AIStemSplitterError("it was given up"))


@mistake("hasty-close", "close", first=7)
def close_without_a_trace() -> None:
    """Closing the client aborts creates in progress, which leave no trace."""

    async def drain(_: object) -> None: ...

    replace("_tasks:OwnedTasks.drain", lambda _: drain)
    forget_what_was_given_up()


@mistake("feeder-dropped", "feeder")
def drop_the_feeders_error() -> None:
    """What the iterable of sources raises only ends it."""

    def build(feed: Callable[..., Any]) -> Callable[..., Any]:
        async def quiet(feeder: Any, first: Any) -> None:
            with contextlib.suppress(Exception):
                await feed(feeder, first)

        return quiet

    replace("batch.feeder:Feeder._feed", build)


@mistake("listener-raises", "listener")
def let_listeners_raise() -> None:
    """What a listener raises ends the work it listens to."""
    replace("_listeners:Listener.__call__", lambda _: lambda listener, value: listener._function(value))


@mistake("gate-ignored", "gate")
def ignore_the_gate() -> None:
    """What `before_send` raises does not keep the create from being sent."""

    def build(run: Callable[..., Any]) -> Callable[..., Any]:
        async def ignoring(*args: Any) -> None:
            with contextlib.suppress(Exception):
                await run(*args)

        return ignoring

    replace("_send.create:_run_hook", build)


@mistake("hasty", "kill", first=36)
def post_hastily() -> None:
    """The POST does not wait until the intent is on disk."""
    from benchmarks.kill import post_hastily as build_in

    build_in()


@mistake("log-beside", "wal")
def keep_a_log_beside() -> None:
    """The journal's newest commits are in a file beside it."""

    def build(claim: Callable[..., None]) -> Callable[..., None]:
        def with_log(db: Any, path: Any) -> None:
            claim(db, path)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA wal_autocheckpoint = 0")

        return with_log

    replace("journal.file:_claim_and_migrate", build)


@mistake("no-lock", "owner")
def lock_nothing() -> None:
    """Only SQLite's own lock says who owns the journal."""

    class NoLock:
        def __init__(self, _: object) -> None: ...
        def release(self) -> None: ...
        def discard(self) -> None: ...

    replace("journal.file:JournalLock", lambda _: NoLock)


@mistake("journal-as-song", "sources")
def split_the_journal() -> None:
    """The journal's own files are sources like any other, and so is what is no audio."""
    replace("batch.item:find_same", lambda _: lambda *_: None)
    replace("_transfer.file_source:what_else", lambda _: lambda *_, **__: None)


@mistake("journal-unwatched", "journal")
def watch_nothing() -> None:
    """Whether the journal still is where it was is not checked."""
    replace("journal.file:JournalFile.check_in_place", lambda _: lambda _: None)


@mistake("whole-file-identity", "retag")
def tell_songs_by_all_bytes() -> None:
    """A song is what all bytes of its file say."""

    def build(examine: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def examined(file: Any) -> Any:
            found = examine(file)
            return attrs.evolve(found, identity=found.content)

        return examined

    replace("batch.item:examine", build)


@mistake("literal-options", "options")
def compare_literally() -> None:
    """What was delivered does not count, only what was asked for."""
    replace("journal.matching:_compare", lambda _: lambda wanted, asked, _: wanted == asked)


@mistake("tinytag-length", "spend", first=9)
def trust_the_name() -> None:
    """A song is as long as a reader of tags believes, who goes by the name of the file."""

    def build(measure: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def by_name(path: Any) -> Any:
            from tinytag import TinyTag

            seconds = TinyTag.get(path).duration
            return attrs.evolve(measure(path), seconds=seconds, at_most=seconds)

        return by_name

    replace("batch.item:_measure_file", build)


@mistake("refund-trusted", "refund")
def trust_refunds() -> None:
    """A negative price gives the run more to spend."""
    replace("_wire.operations:_not_negative", lambda _: lambda number: number)
    replace("batch.bounds:charged", lambda _: lambda used, reserved: (reserved or 0.0) if used is None else used)


@mistake("same-id-shared", "same-id")
def share_ids() -> None:
    """Two songs with one id share its stems."""
    replace("journal.store:is_same_song", lambda _: lambda *_: True)


@mistake("age-ignored", "old-key")
def trust_old_keys() -> None:
    """A create is sent again however old its key is."""
    replace(
        "batch.context:plan_step", lambda plan: lambda record, **given: plan(record, **given | {"key_age": math.inf})
    )


@mistake("fresh-key", "cut", first=10)
def take_fresh_keys() -> None:
    """Whoever sends a create again takes a fresh idempotency key."""

    def build(create: Callable[..., Any]) -> Callable[..., Any]:
        return lambda base, submission: create(base, attrs.evolve(submission, idempotency_key=str(uuid.uuid4())))

    replace("_wire.operations:create_split", build)
