"""One track's record in the journal, and the step it calls for next. Nothing here reads a clock or a file.

```
found -> uploaded -> intent -> created -> succeeded -> downloaded
                       |          ^
                       v          |
            uncertain or needs_review (a create that is too old, or was sent with another key, to resend unconfirmed)
```

A new track and one found after a crash are treated alike: `plan_step` decides from the record what to do, the batch
does it, records the result, and asks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Literal, Self

import attrs

import aistemsplitter_async.errors
from aistemsplitter_async._send.reactions import classify, is_ambiguous, is_refused
from aistemsplitter_async._transfer.selection import ALL_STEMS, Selection
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIStatusError,
    DownloadError,
    SpendLimitError,
    SplitFailedError,
    SubmissionUncertainError,
    UnsafeNameError,
    UploadError,
)
from aistemsplitter_async.models import DirectURL, Split, SplitInput, Submission

NEEDS_REVIEW = "NEEDS_REVIEW"  # the code of a create that is too old to resend without confirmation
SENT_BY_OTHER_KEY = "SENT_BY_OTHER_KEY"  # that of one that was sent with another API key
SAME_SPLIT = "SAME_SPLIT"  # the code of a create that was answered with the split of another song
_RESTORED = (APIStatusError, DownloadError, SpendLimitError, UploadError)  # kinds of which the record keeps everything
StageName = Literal["prepare", "upload", "create", "wait", "download", "mix"]
RetryFailed = bool | Literal["unpaid"]
Changed = Literal["refuse", "same", "new"]
"""What a file is that was bought with other bytes, where its audio cannot be compared with what was bought: the same
song, a new one, or refused until a person says which."""

_PAID: frozenset[StageName] = frozenset({"wait", "download", "mix"})
_FINAL = frozenset(
    {SplitFailedError.__name__, UnsafeNameError.__name__}
)  # another try that is free ends in the same way
_EXPIRY_MARGIN = 30.0  # s; an upload of an earlier run that is about to expire is repeated before its create
_CLOCK_SLACK = 3600.0  # s that the wall clock may have been set back; beyond that, no age can be trusted


class State(StrEnum):
    """The durable progress of a track."""

    FOUND = "found"
    UPLOADED = "uploaded"
    INTENT = "intent"  # its create may have been sent
    UNCERTAIN = "uncertain"  # its create was sent and its answer is not known
    NEEDS_REVIEW = "needs_review"  # the same, and not resent without confirmation
    CREATED = "created"
    SUCCEEDED = "succeeded"
    DOWNLOADED = "downloaded"


# The states that each state may follow. Any other change is a programming error, and refused.
BEFORE: Mapping[State, frozenset[State]] = {
    State.UPLOADED: frozenset({State.FOUND, State.UPLOADED}),
    State.INTENT: frozenset({State.FOUND, State.UPLOADED}),
    State.UNCERTAIN: frozenset({State.INTENT, State.UNCERTAIN, State.NEEDS_REVIEW}),
    State.NEEDS_REVIEW: frozenset({State.INTENT, State.UNCERTAIN, State.NEEDS_REVIEW}),
    State.CREATED: frozenset({State.INTENT, State.UNCERTAIN, State.NEEDS_REVIEW}),
    State.SUCCEEDED: frozenset({State.CREATED, State.DOWNLOADED}),
    State.DOWNLOADED: frozenset({State.SUCCEEDED}),
}


@attrs.frozen
class AudioId:
    """What identifies a source. Two are the same song if either value is known of both and equal.

    The two values are never compared with each other. At least one is known.

    Attributes:
        content: the SHA-256 of all bytes, which shows whether a source changed; `None` for a URL.
        identity: of the audio alone, which shows what was bought, or the URL; `None` where only the bytes are known: a
            stream, or a row from before journals held it.
    """

    content: str | None
    identity: str | None


@attrs.frozen
class Variant:
    """A stem model and an output format: as asked for, `None` if left to the service; or as delivered."""

    stem_model: str | None = None
    output_format: str | None = None

    def __str__(self) -> str:
        """Return it as the journal has it."""
        return f"{self.stem_model or ''}/{self.output_format or ''}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the variant that was written as `text`."""
        model, _, kind = text.rpartition("/")
        return cls(model or None, kind or None)


@attrs.frozen
class StoredFailure:
    """The journal's record of an error: the reason why a run did not finish a track.

    Attributes:
        stage: where it failed.
        kind: the error's class.
        message: what the error said.
        code: its code.
        status_code: its HTTP status.
        detail: the server's own message.
    """

    stage: StageName
    kind: str
    message: str
    code: str | None = None
    status_code: int | None = None
    detail: str = ""

    @property
    def passing(self) -> bool:
        """Whether the next run tries again by itself; otherwise only with `retry_failed`.

        It does so for whatever is paid for, since that costs nothing, and else unless the API refused this very source
        or request. It is decided when it is asked, so it holds for what any earlier version has recorded.
        """
        if self.kind in _FINAL:
            return False
        if self.stage in _PAID:
            return True
        return not self.may_be_paid and not is_refused(self.restore())

    @property
    def may_be_paid(self) -> bool:
        """Whether a create that may have happened ended so, and its key is gone: only a person may decide to try again.

        Today it would be `uncertain`; earlier versions took a page for the API's refusal.
        """
        error = self.restore()
        return self.stage == "create" and classify(error) == "page" and is_ambiguous(error)

    def restore(self, split_id: str | None = None) -> AIStemSplitterError:
        """Return the error, as far as it was recorded."""
        kind: object = getattr(aistemsplitter_async.errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, _RESTORED)):
            kind = AIStemSplitterError
        error = kind(self.message, code=self.code, status_code=self.status_code, split_id=split_id)
        if isinstance(error, APIStatusError):
            error.detail = self.detail
        return error


@attrs.frozen
class StoredFile:
    """A downloaded stem, or a mix.

    Attributes:
        path: under the batch's folder.
        size: in bytes.
        sha256: in hex.
        mixed: the stems that a mix is the sum of.
        gain_db: what kept that sum from clipping, in dB: 0 or less.
    """

    path: str
    size: int
    sha256: str
    mixed: tuple[str, ...] = ()
    gain_db: float = 0.0


@attrs.frozen(kw_only=True)
class Record:
    """One row of the journal.

    Attributes:
        id: its number in the journal.
        audio: what identifies the song.
        asked: the model and format that were last asked for.
        source: the path or URL it was found under, to be shown.
        state: how far it got.
        folder: where its stems go, under the batch's folder.
        pattern: how their files are called, with `{stem}`.
        input: the audio that its create refers to, once that is known.
        expires_at: until when that is valid (POSIX seconds; all times are by this machine's clock or, of a shared
            journal, the server's); `None` for a URL.
        submission: its create, once it may have been sent.
        intended_at: when that was (POSIX seconds).
        sender: the fingerprint of the API key that it was sent with; `None` if that is not known.
        split_id: the split, once it is known.
        credits_used: its price.
        created_at: when the answer to its create came (POSIX seconds).
        split: its terminal state; without the URLs of its stems, once some were downloaded.
        stems: the names of all its stems, once it has succeeded.
        files: those that were downloaded, in any run.
        failure: why the last run did not finish it.
    """

    id: int
    source: str
    audio: AudioId = AudioId(None, None)
    asked: Variant = Variant()
    state: State = State.FOUND
    folder: str = ""
    pattern: str = "{stem}"
    input: SplitInput | None = None
    expires_at: float | None = None
    submission: Submission | None = None
    intended_at: float | None = None
    sender: str | None = None
    split_id: str | None = None
    credits_used: float | None = None
    created_at: float | None = None
    split: Split | None = None
    stems: tuple[str, ...] = ()
    files: Mapping[str, StoredFile] = attrs.field(factory=dict[str, StoredFile])
    failure: StoredFailure | None = None

    @property
    def error(self) -> AIStemSplitterError | None:
        """The failure as the exception that caused it."""
        failure = self.failure
        if failure is None:
            return None
        if failure.kind == SplitFailedError.__name__ and self.split is not None:
            return SplitFailedError(self.split)
        if failure.kind == SubmissionUncertainError.__name__ and self.submission is not None:
            return SubmissionUncertainError(
                failure.message, submission=self.submission, code=failure.code, status_code=failure.status_code
            )
        return failure.restore(self.split_id)


class Step(Enum):
    """The next step of a track."""

    UPLOAD = "upload the audio"
    CREATE = "create the split"
    REPLAY = "resend a create that may have happened"
    WAIT = "wait for the split"
    DOWNLOAD = "download the stems"
    CHECK = "check that the wanted stems are still on disk"
    NOTHING = "it is finished"
    REVIEW = "its create is not resent without confirmation: it is too old, or another key sent it"
    FAILED = "it failed, and is tried again only on request"


def plan_step(
    record: Record, *, now: float, key_age: float, wants_files: bool, key: str | None = None, resend: bool = False
) -> Step:
    """Return the step that `record` calls for.

    Args:
        record: of the track.
        now: POSIX seconds.
        key_age: for how many seconds the server is trusted to remember an idempotency key.
        wants_files: whether stems are to be downloaded.
        key: the fingerprint of the API key in use. Under another one, the server may not know an idempotency key.
        resend: whether a person has confirmed that what is left for review is to be sent again.
    """
    if record.failure is not None and not record.failure.passing:
        return Step.FAILED
    match record.state:
        case State.DOWNLOADED:
            return Step.CHECK if wants_files else Step.NOTHING
        case State.SUCCEEDED:
            return Step.DOWNLOAD if wants_files else Step.NOTHING
        case State.CREATED:
            return Step.WAIT
        case State.INTENT | State.UNCERTAIN | State.NEEDS_REVIEW:
            age = now - (record.intended_at or 0.0)
            is_trusted = record.sender in (None, key) and -_CLOCK_SLACK <= age < key_age
            return Step.REPLAY if is_trusted or resend else Step.REVIEW
        case State.FOUND | State.UPLOADED:
            return Step.CREATE if _is_usable(record, now) else Step.UPLOAD


def _is_usable(record: Record, now: float) -> bool:
    """Return whether a create may refer to the present input."""
    if isinstance(record.input, DirectURL):
        return True
    return record.input is not None and record.expires_at is not None and now < record.expires_at - _EXPIRY_MARGIN


def plan_reopening(failure: StoredFailure) -> bool:
    """Return whether another attempt after `failure` replaces the existing split with a new one, under a new key.

    Only a terminal `failed` allows that: nothing is charged twice then. After any other failure the attempt continues
    with the existing split or create.
    """
    return failure.kind == SplitFailedError.__name__


def is_retried(failure: StoredFailure, retry_failed: RetryFailed, selection: Selection = ALL_STEMS) -> bool:
    """Return whether a run tries again what failed; with `"unpaid"`, whatever can be tried without a second payment.

    A stem that cannot be downloaded, or a mix that cannot be made, may not be among those that are selected now.
    """
    is_free = not (failure.may_be_paid or plan_reopening(failure))
    other_stems = failure.stage in ("download", "mix") and selection != ALL_STEMS
    return failure.passing or other_stems or retry_failed is True or (retry_failed == "unpaid" and is_free)


def build_failure(stage: StageName, error: AIStemSplitterError) -> StoredFailure:
    """Return the journal's record of an error."""
    detail = error.detail if isinstance(error, APIStatusError) else ""
    return StoredFailure(stage, type(error).__name__, str(error), error.code, error.status_code, detail)
