"""Every error that this package raises, under one root.

```
AIStemSplitterError                 code, status_code, request_id, idempotency_key, split_id
├── ConfigurationError              no key, bad base URL, contradictory arguments
├── APIConnectionError              no usable connection: DNS, refused, reset, certificate
│   └── APITimeoutError             an attempt or the caller's deadline ran out
├── APIStatusError                  the server answered with an error status
│   ├── AuthenticationError         401, 403
│   ├── InsufficientCreditsError    402
│   ├── ValidationError             422
│   ├── RateLimitedError            429 (retry_after)
│   └── ServerError                 5xx
├── ProtocolError                   a reply that cannot be decoded; names the JSON path
├── SubmissionUncertainError        a create may or may not have succeeded (submission)
├── SplitFailedError                the split failed at the server (split)
├── WaitTimeoutError                not terminal at the deadline (split_id, last)
├── UploadError
│   ├── SourceUnreadableError       missing, a folder, empty, no permission
│   └── SourceChangedError          edited, truncated or grown while it was read, or since it was bought
├── DownloadError
│   ├── IncompleteDownloadError     fewer bytes than promised, or of unknown length, or no stem at all
│   ├── UnsafeNameError             a stem name that must not become a file name
│   ├── MixError                    stems that cannot be summed (mix, stem)
│   ├── UnsafeURLError              a URL that must not be requested
│   └── StemsExpiredError           stem URLs still refused after refreshes and pauses
├── WebhookError                    a forged, malformed, stale or future event
├── JournalError
│   ├── JournalLockedError          another process owns the journal
│   └── LostLeaseError              another worker of a shared journal has taken the track over
└── SpendLimitError                 the batch's own credit limit would, or could, be exceeded
```

All of them can be pickled without loss, so that they cross process pools, and made again from their `args`, which are
plain JSON, so that they cross task queues that keep results as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from aistemsplitter_async._plain import Model, PlainValue, printable_text, redact_text, to_plain
from aistemsplitter_async.models import Split, Submission

Kept = Mapping[str, Any] | None
"""What `args` has besides the message."""


class AIStemSplitterError(PlainValue, Exception):
    """Root of every error raised by this package.

    `args` are the message and, if there is more to say, a dict of the other attributes; `type(error)(*error.args)` is
    the same error. No URL in them grants access, and no error has the key.

    Attributes:
        code: the API's error code such as `"RATE_LIMITED"`, or ours such as `"TIMEOUT"`; `None` if there is none, as
            for an error page of a gateway.
        status_code: HTTP status of the reply that caused the error, if one did. Of a failure that was reported with
            a 200, the status that its code stands for, 400 if that is unknown.
        request_id: the server's id of the request, if it sent one.
        idempotency_key: the key of the create this error belongs to, whenever a split may exist.
        split_id: the split this error belongs to, if known.
    """

    _kind: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        kept: Kept = None,
        /,
        *,
        code: str | None = None,
        status_code: int | None = None,
        request_id: str | None = None,
        idempotency_key: str | None = None,
        split_id: str | None = None,
    ) -> None:
        super().__init__(redact_text(printable_text(str(message))))
        self.code = code
        self.status_code = status_code
        self.request_id = request_id
        self.idempotency_key = idempotency_key
        self.split_id = split_id
        for name, value in (kept or {}).items():
            if not hasattr(type(self), name):  # what a queue returns must not replace a method
                model = _MODELS.get(name)
                setattr(self, name, value if model is None or value is None else model.from_dict(value))

    @property
    def args(self) -> tuple[Any, ...]:
        """The message, and a dict of what else is known: plain JSON, from which the class makes the same error."""
        kept = {name: value for name, value in self._known().items() if value not in (None, "")}
        return (str(self), kept) if kept else (str(self),)

    @args.setter
    def args(self, args: tuple[Any, ...]) -> None:
        Exception.args.__set__(self, args)  # type: ignore[attr-defined]  # what `str` and `repr` show

    def to_plain(self, *, shown: bool) -> dict[str, Any]:  # noqa: ARG002  # errors always go to logs
        """Return it as a part of another value."""
        return {"type": self.type_name(), "message": str(self), **self._known()}

    @classmethod
    def json_schema(cls, *, written: bool = True) -> dict[str, Any]:  # noqa: ARG003  # they are not read
        """Return the JSON schema of what `to_dict` returns: what errors of every kind have."""
        text = {"type": "string"}
        known = {name: {"anyOf": [{"type": "integer"} if name == "status_code" else text, _NULL]} for name in _COMMON}
        properties = {"type": text, "message": text, **known}
        return {"title": cls.__name__, "type": "object", "properties": properties, "required": list(properties)}

    def _known(self) -> dict[str, Any]:
        """Return the attributes as plain JSON, those of every error first."""
        own = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {name: to_plain(own.get(name), shown=True) for name in dict.fromkeys((*_COMMON, *own))}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), (str(self),), self.__dict__)


_NULL = {"type": "null"}
_COMMON = ("code", "status_code", "request_id", "idempotency_key", "split_id")
_MODELS: dict[str, type[Model]] = {"submission": Submission, "split": Split, "last": Split}


def _restore(cls: type[AIStemSplitterError], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(AIStemSplitterError):
    """Invalid arguments or settings, such as a missing API key."""


GATE_UNREACHABLE = "GATE_UNREACHABLE"
SCHEDULER_LOST = "SCHEDULER_LOST"  # of a cluster


class APIConnectionError(AIStemSplitterError):
    """A connection could not be made, or broke.

    Attributes:
        may_have_arrived: whether the request may have reached the server. It is false only where that is certain: its
            body was never asked for, or there was no connection.
        permanent: whether a retry is pointless (such as after a certificate that does not verify).
    """

    def __init__(
        self,
        message: str,
        kept: Kept = None,
        /,
        *,
        may_have_arrived: bool = True,
        permanent: bool = False,
        **context: Any,
    ) -> None:
        self.may_have_arrived = may_have_arrived
        self.permanent = permanent
        super().__init__(message, kept, **context)


class APITimeoutError(APIConnectionError):
    """An attempt took longer than `Timeouts` allows, or the caller's own `timeout` ran out."""


class APIStatusError(AIStemSplitterError):
    """The server answered with an error status.

    Attributes:
        retry_after: seconds that the server asked to wait, from the arrival of the reply; `None` if it did not.
        detail: the server's own message without terminal escapes, at most 2 KiB.
    """

    def __init__(
        self, message: str, kept: Kept = None, /, *, retry_after: float | None = None, detail: str = "", **context: Any
    ) -> None:
        self.retry_after = retry_after
        self.detail = detail
        super().__init__(message, kept, **context)


class AuthenticationError(APIStatusError):
    """401 or 403: the API key is missing, wrong, or not allowed to do this.

    Without a `code` it is not the API that says so, but something on the way to it, and it went on saying so.
    """


class InsufficientCreditsError(APIStatusError):
    """402: the account has fewer credits than this split costs."""


class ValidationError(APIStatusError):
    """422: the server rejected the request's content or the audio source.

    Attributes:
        output_format: the format that the create asked for, if it was another than `mp3`: it may be that which was
            refused.
    """

    def __init__(self, message: str, kept: Kept = None, /, *, output_format: str | None = None, **context: Any) -> None:
        self.output_format = output_format
        super().__init__(message, kept, **context)


class RateLimitedError(APIStatusError):
    """429: the key's per-minute limit is exceeded, for longer than `RetryPolicy` allows waiting (`retry_after`).

    `retry_after` is the server's own number of seconds, however large; `None` without one. As long as the client sends
    nothing because of such an answer, every further call gets what is left of that wait, an hour at most: then one
    request asks.
    """


class ServerError(APIStatusError):
    """5xx, in every attempt."""


class ProtocolError(AIStemSplitterError):
    """A reply that breaks the API's contract; the message names the JSON path."""


class SubmissionUncertainError(AIStemSplitterError):
    """A create may or may not have succeeded.

    Nothing is lost: `await client.resubmit(error.submission)` sends the identical bytes with the same idempotency key,
    and the server answers with the one split that belongs to them.

    Attributes:
        submission: what to resubmit. Its body is empty in an error that was made again from `args`, if a URL in it
            grants access: `submission.to_dict()` has all of it, and so has a pickle.
        retry_after: seconds that the server asked to wait before that; `None` if it did not.
    """

    def __init__(
        self,
        message: str,
        kept: Kept = None,
        /,
        *,
        submission: Submission = Submission("", b""),  # noqa: B008  # frozen; `kept` has it
        retry_after: float | None = None,
        **context: Any,
    ) -> None:
        self.submission = submission
        self.retry_after = retry_after
        super().__init__(message, kept, **{"idempotency_key": submission.idempotency_key or None, **context})


class SplitFailedError(AIStemSplitterError):
    """The split failed at the server; `split.error` says why. It is never resubmitted automatically.

    Attributes:
        split: its terminal state.
    """

    split: Split

    def __init__(self, split: Split | str, kept: Kept = None) -> None:
        if isinstance(split, str):  # a message, as in `args`
            self.split = Split("", "failed")
            super().__init__(split, kept)
            return
        self.split = split
        known = [text for text in (split.error.code, split.error.message) if text] if split.error else []
        reason = ": ".join(known) or "the server gave no reason"
        code = (split.error.code or None) if split.error else None
        super().__init__(f"split {split.id} failed: {reason}", code=code, split_id=split.id)


class WaitTimeoutError(AIStemSplitterError):
    """The split did not finish in time; it continues at the server and can be waited for again.

    Attributes:
        last: the newest known state, or `None` if no poll succeeded.
    """

    def __init__(self, split_id: str, last: Split | Kept = None, reason: str | None = None) -> None:
        self.last: Split | None = None
        if reason is None and not isinstance(last, Split) and last is not None:  # a message, as in `args`
            super().__init__(split_id, last)
            return
        self.last = last if isinstance(last, Split) else None
        status = f"last seen {self.last.status}" if self.last else "never seen"
        message = f"split {split_id} did not finish in time ({status}){reason or ''}"
        super().__init__(message, code="TIMEOUT", split_id=split_id)


class UploadError(AIStemSplitterError):
    """The audio could not be uploaded."""


class SourceUnreadableError(UploadError):
    """The source is missing, empty, a folder, or cannot be read. Nothing was sent.

    `code` is `NOT_AUDIO` if its content cannot be audio (a web page, a picture, a playlist), `NOT_FETCHED` if it is an
    address that the API does not fetch, such as one of FTP.
    """


class SourceChangedError(UploadError):
    """The source changed while it was read, or (`code` is `CHANGED`) since it was bought. No split was created."""


class DownloadError(AIStemSplitterError):
    """A stem could not be downloaded; no partial file has its final name.

    `code` is `DISK` if the disk refused something or has no room, `EXISTS` if a file would have been overwritten,
    `ENCODED` if the stem came in an encoding that is not known here, `TOO_LONG` if it is longer than audio of the
    split's duration can be, `TOO_MANY` if the split has more stems than are downloaded (the first are there then),
    `NO_STEMS` if it has none, such as one that is still processing, `NO_SUCH_STEM` if it does not have this one, and
    `CHANGED` if that became another file while it was handed over.
    """


class IncompleteDownloadError(DownloadError):
    """The file ended early, or nothing says how long it should be, or a page of text or nothing came in its place."""


class UnsafeNameError(DownloadError):
    """The server named a stem in a way that must not become a file name."""


NOT_MIXED = "NOT_MIXED"


class MixError(DownloadError):
    """A mix could not be made of its stems (`code` is `NOT_MIXED`); these are complete, and remain what was paid for.

    Attributes:
        mix: its name.
        stem: the one that cannot be decoded, or does not fit the others: another length, sampling rate or format.
    """

    def __init__(self, message: str, kept: Kept = None, /, *, mix: str = "", stem: str = "", **context: Any) -> None:
        self.mix = mix
        self.stem = stem
        super().__init__(message, kept, **{"code": NOT_MIXED, **context})


class UnsafeURLError(DownloadError):
    """A URL that must not be requested: not https, not a public address, or with credentials in it."""


class StemsExpiredError(DownloadError):
    """The stem URLs were refused, fresh ones too, for two minutes (`RetryPolicy.passing_paid`)."""


class WebhookError(AIStemSplitterError):
    """A webhook request that is forged, malformed, stale or dated in the future."""


class JournalError(AIStemSplitterError):
    """The journal cannot be used in its present state."""


class JournalLockedError(JournalError):
    """Another process is using this journal."""


class LostLeaseError(JournalError):
    """Another worker of a shared journal has taken a track over: this one was silent for too long.

    `code` is `LOST_LEASE`. Nothing of the track may be changed or sent any more; the other one finishes it.
    """


class SpendLimitError(AIStemSplitterError):
    """The credits that a run may spend do not allow a split.

    `code` is `SPEND_LIMIT` if it would exceed them, which stops the batch; `LENGTH_UNKNOWN` if the source has no
    certain length, and the longest it can be would exceed them, which fails this source alone; `CHARGED_MORE` if the
    service charged more than the length of a split stands for, which stops the batch.
    """
