"""The work on one source, and its stages, as listeners hear of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from os import PathLike
from types import TracebackType
from typing import Literal, Self

import attrs

from aistemsplitter_async._listeners import Emitter, describe_error
from aistemsplitter_async._plain import to_plain
from aistemsplitter_async._wire.urls import is_url
from aistemsplitter_async.errors import AIStemSplitterError
from aistemsplitter_async.events import (
    SourceKind,
    SplitCreated,
    SplitFinished,
    SplitStarted,
    StageFinished,
    StageOfSplit,
    StageStarted,
)
from aistemsplitter_async.models import CreatedSplit, DirectURL, Split

Ending = Literal["done", "failed", "skipped", "elsewhere", "cancelled"]


@attrs.define(eq=False)
class Course:
    """The work on one source: a context manager around it, which tells how it begins and ends.

    While it is entered, the stages that run in its context count towards it.

    Args:
        source: the caller's.
        emit: tells the listeners.
        filename: what the caller calls it, if that is not its own name.
        stem_model: as asked for.
        output_format: as asked for.

    Attributes:
        split_id: the split, once there is one.
        credits_used: what it cost, once that is known.
    """

    source: object
    emit: Emitter
    filename: str | None = None
    stem_model: str | None = None
    output_format: str | None = None
    split_id: str | None = None
    credits_used: float | None = None
    _began: float = attrs.field(default=0.0, init=False)
    _seconds: dict[str, float] = attrs.field(factory=dict[str, float], init=False)  # by stage
    _ending: Ending = attrs.field(default="done", init=False)
    _error: BaseException | None = attrs.field(default=None, init=False)
    _in_stage: bool = attrs.field(default=False, init=False)
    _around: Course | None = attrs.field(default=None, init=False)

    def __enter__(self) -> Self:
        self._began = self.emit.clock.monotonic()
        self._around = _current.get()
        _current.set(self)
        self.emit(SplitStarted, self._describe_start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error)
        self.emit(SplitFinished, self._describe)
        if _current.get() is self:  # not where an abandoned call is collected: that is in whatever context
            _current.set(self._around)

    def note(self, split: CreatedSplit | Split) -> None:
        """Note the split, in whatever state."""
        self.split_id = split.id
        if split.credits_used is not None:
            self.credits_used = split.credits_used

    def skip(self) -> None:
        """Note that there is nothing to do."""
        self._ending = "skipped"

    def leave(self) -> None:
        """Note that another worker has the song in hand."""
        self._ending = "elsewhere"

    def fail(self, error: BaseException) -> None:
        """Note why there are no stems."""
        self._ending = "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
        self._error = error
        if isinstance(error, AIStemSplitterError):
            self.split_id = self.split_id or error.split_id
            if isinstance(split := getattr(error, "split", None), Split):
                self.note(split)

    def _describe_start(self) -> SplitStarted:
        return SplitStarted(
            source=name_source(self.source, self.filename),
            kind=kind_of_source(self.source),
            stem_model=self.stem_model,
            output_format=self.output_format,
            at=self._began,
        )

    def _describe(self) -> SplitFinished:
        now, error = self.emit.clock.monotonic(), self._error
        return SplitFinished(
            source=name_source(self.source, self.filename),
            outcome=self._ending,
            split_id=self.split_id,
            credits_used=self.credits_used,
            seconds=now - self._began,
            stages=dict(self._seconds),
            **describe_error(error),
            reason=str(error) if isinstance(error, AIStemSplitterError) else None,
            at=now,
        )

    def begin_stage(self) -> bool:
        """Note that a stage begins; return whether it is one of this work, and not of a call made inside of a stage."""
        begins, self._in_stage = not self._in_stage, True
        return begins

    def end_stage(self, stage: StageOfSplit, seconds: float) -> None:
        """Note that a stage that `begin_stage` took for one of this work has ended."""
        self._in_stage = False
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds


_current: ContextVar[Course | None] = ContextVar("aistemsplitter_async.course", default=None)


def name_source(source: object, filename: str | None = None) -> str:
    """Return what a source is called in events: what it says of itself, without anything that grants access."""
    plain = filename or to_plain(source, shown=True)
    return str(plain.get("url", "audio") if isinstance(plain, dict) else plain)


def kind_of_source(source: object) -> SourceKind:
    """Return what a source is, from the look of it."""
    if isinstance(source, DirectURL | Mapping) or (isinstance(source, str) and is_url(source)):
        return "url"
    if isinstance(source, str | PathLike):
        return "file"
    return "bytes" if isinstance(source, bytes | bytearray | memoryview) else "stream"


def tell_created(emit: Emitter, created: CreatedSplit, key: str) -> None:
    """Tell that a split was created under an idempotency key, and note it for the work that it is a part of."""
    if (course := _current.get()) is not None:
        course.note(created)
    emit(
        SplitCreated,
        lambda: SplitCreated(
            split_id=created.id,
            source=None if course is None else name_source(course.source, course.filename),
            idempotency_key=key,
            credits_used=created.credits_used,
            at=emit.clock.monotonic(),
        ),
    )


@attrs.define(eq=False)
class Stage:
    """A stage under way. `split_id` may be set once it is known."""

    split_id: str | None = None


@contextmanager
def stage(emit: Emitter, name: StageOfSplit, split_id: str | None = None) -> Iterator[Stage]:
    """Tell how a stage begins and ends, and count its time."""
    began, course, run = emit.clock.monotonic(), _current.get(), Stage(split_id)
    counts = course is not None and course.begin_stage()
    failure: BaseException | None = None
    emit(StageStarted, lambda: StageStarted(stage=name, split_id=run.split_id, at=began))
    try:
        yield run
    except BaseException as error:
        failure = error
        raise
    finally:
        now = emit.clock.monotonic()
        if course is not None and counts:
            course.end_stage(name, now - began)
        told = describe_error(failure)
        emit(
            StageFinished,
            lambda: StageFinished(stage=name, split_id=run.split_id, seconds=now - began, **told, at=now),
        )
        failure = None  # or its traceback and this frame would hold each other
