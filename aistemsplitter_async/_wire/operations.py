"""One function per API call: the request to send and how to parse its reply."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import attrs

from aistemsplitter_async._plain import safe_text
from aistemsplitter_async._wire.codec import decode, parse_json, parse_reply, to_camel
from aistemsplitter_async._wire.error_replies import build_refusal, build_status_error, clean_text
from aistemsplitter_async._wire.messages import BodyStream, Origin, Reply, Request, Stage
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    ConfigurationError,
    ProtocolError,
    ValidationError,
)
from aistemsplitter_async.models import (
    CreatedSplit,
    Credits,
    DirectURL,
    Reservation,
    Split,
    SplitErrorDetail,
    SplitInput,
    Submission,
    WorkerReceipt,
)

T = TypeVar("T")

_EVERYWHERE = "mp3"  # the one output format that every plan and every version of the service has
_ID_SHOWN = 100  # characters of an unexpected id in a message

# Only the transport sets these: a reservation must not redirect the bytes, misstate them, or add credentials.
_FORBIDDEN_UPLOAD_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "authorization", "cookie"})
# RFC 9110 sections 5.1 and 5.5: nothing that could end a line and begin another header.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


@attrs.frozen(kw_only=True)
class Operation(Generic[T]):
    """A call to make: its name, its stage, its request, and how to parse a 2xx reply.

    `parse` raises `ProtocolError` for a reply that breaks the API's contract.
    """

    name: str  # the API's
    stage: Stage
    what: str  # completes "could not ..."
    request: Request
    parse: Callable[[Reply], T]
    explain: Callable[[APIStatusError], APIStatusError] = lambda error: error  # adds what the request says about it
    split_id: str | None = None  # of the split that it asks for

    def read(self, reply: Reply, *, now: float) -> T:
        """Return what a reply of any status says; `now` in POSIX seconds.

        Raises:
            APIStatusError: it reports a failure, by its status or, with a 2xx, in its envelope.
            APIConnectionError: it was cut off before it said anything.
            ProtocolError: it cannot be read.
        """
        origin = self.request.origin
        if not reply.ok:
            raise self.explain(build_status_error(reply, what=self.what, now=now, origin=origin))
        try:
            return self.parse(reply)
        except ProtocolError as error:
            failure: AIStemSplitterError = error
        if reply.cut:
            failure = APIConnectionError(f"could not {self.what}: the connection broke in the middle of the answer")
        refusal = build_refusal(reply, what=self.what, now=now, origin=origin)
        raise failure if refusal is None else self.explain(refusal)


def get_credits(base_url: str) -> Operation[Credits]:
    """`GET /credits`."""
    return Operation(
        name="get_credits",
        stage=Stage.CREDITS,
        what="read the credits",
        request=_request(base_url, "GET", "/credits"),
        parse=lambda reply: _data(reply, Credits),
    )


def create_upload(base_url: str, *, filename: str, content_type: str, content_length: int) -> Operation[Reservation]:
    """`POST /audio/uploads`: reserve an upload at the upload worker."""
    body = {"filename": filename, "contentType": content_type, "contentLength": content_length}
    return Operation(
        name="create_upload",
        stage=Stage.RESERVE,
        what="reserve an upload",
        request=_request(base_url, "POST", "/audio/uploads", _encode(body)),
        parse=_reserved,
    )


def upload_audio(
    reservation: Reservation, body: BodyStream, *, content_type: str, content_length: int
) -> Operation[WorkerReceipt]:
    """`POST {uploadUrl}`: send the audio to the upload worker."""
    headers = {
        name: value
        for name, value in reservation.upload_headers.items()
        if name.lower() not in _FORBIDDEN_UPLOAD_HEADERS | {"content-type"}
    }
    headers |= {"Content-Type": content_type, "Content-Length": str(content_length)}
    return Operation(
        name="upload",
        stage=Stage.UPLOAD,
        what="upload the audio",
        request=Request(origin=Origin.WORKER, method="POST", url=reservation.upload_url, headers=headers, body=body),
        parse=lambda reply: _data(reply, WorkerReceipt),
    )


def build_submission(
    split_input: SplitInput,
    *,
    idempotency_key: str,
    stem_model: str | None = None,
    output_format: str | None = None,
    webhook_url: str | None = None,
) -> Submission:
    """Return the create to send: its key, and the bytes of its body, the same in every attempt."""
    body = {
        "input": _input(split_input),
        "stemModel": stem_model,
        "outputFormat": output_format,
        "webhookUrl": webhook_url,
    }
    return Submission(idempotency_key, _encode({name: value for name, value in body.items() if value is not None}))


def parse_webhook_url(submission: Submission) -> str | None:
    """Return the webhook URL that a create names, `None` if it names none."""
    return _option(submission, "webhookUrl")


def _option(submission: Submission, name: str) -> str | None:
    try:
        body = parse_json(submission.body)
    except ProtocolError:  # a body that was not built here; the API will say what is wrong with it
        return None
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, str) else None


def _name_format(error: APIStatusError, submission: Submission) -> APIStatusError:
    """Return a refusal of the request's content with the way out if it may be about the format: not all offer `wav`."""
    asked = _option(submission, "outputFormat")
    if not isinstance(error, ValidationError) or asked in (None, _EVERYWHERE):
        return error
    says_so = re.search(rf"format|plan|{re.escape(asked)}", error.detail, re.IGNORECASE)
    hint = "ask for" if says_so else f"if that is about {asked}, ask for"
    return ValidationError(
        f'{str(error).rstrip(".")}; {hint} output_format="{_EVERYWHERE}"', output_format=asked, **_known(error)
    )


def _known(error: APIStatusError) -> dict[str, Any]:
    names = ("code", "status_code", "request_id", "retry_after", "detail")
    return {name: getattr(error, name) for name in names}


def create_split(base_url: str, submission: Submission) -> Operation[CreatedSplit]:
    """`POST /audio/splits`: the call that costs credits."""
    return Operation(
        name="create_split",
        stage=Stage.CREATE,
        what="create the split",
        request=_request(
            base_url, "POST", "/audio/splits", submission.body, {"Idempotency-Key": submission.idempotency_key}
        ),
        parse=_created,
        explain=lambda error: _name_format(error, submission),
    )


def get_split(base_url: str, split_id: str) -> Operation[Split]:
    """`GET /audio/splits/{id}`.

    Raises:
        ConfigurationError: `split_id` cannot be the id of a split: in a URL it would name something else.
    """
    if not _is_split_id(split_id):
        raise ConfigurationError(f"{split_id[:_ID_SHOWN]!r} cannot be the id of a split")

    def parse(reply: Reply) -> Split:
        split = _split(reply)
        if split.id != split_id:
            got = split.id[:_ID_SHOWN]
            raise ProtocolError(f"asked for split {split_id}, but the reply is about {got!r}", split_id=split_id)
        return split

    return Operation(
        name="get_split",
        stage=Stage.GET,
        what=f"get split {split_id}",
        request=_request(base_url, "GET", f"/audio/splits/{quote(split_id, safe='')}"),
        parse=parse,
        split_id=split_id,
    )


def _reserved(reply: Reply) -> Reservation:
    reservation = _data(reply, Reservation)
    for name, value in reservation.upload_headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ProtocolError("unexpected reply: $.data.uploadHeaders contains an invalid header")
    return reservation


def _created(reply: Reply) -> CreatedSplit:
    """Return the split that a reply names: its id is what counts, with or without an envelope that says `success`."""
    data = _find_data(reply)
    created = decode(data, CreatedSplit, path="$.data")
    if not _is_split_id(created.id):
        raise ProtocolError("unexpected reply: $.data.id cannot be the id of a split")
    return attrs.evolve(created, credits_used=_not_negative(created.credits_used))


def _split(reply: Reply) -> Split:
    data = _find_data(reply)
    if isinstance(data, dict):
        error = data.get("error")
        if data.get("status") != "succeeded":  # before that there are none, in whatever form
            data = {name: value for name, value in data.items() if name != "stems"}
        if isinstance(error, str):
            data = {**data, "error": {"code": error}}
    split = decode(data, Split, path="$.data")
    reason = split.error and SplitErrorDetail(clean_text(split.error.code), clean_text(split.error.message))
    used, seconds = _not_negative(split.credits_used), _not_negative(split.duration_seconds)
    return attrs.evolve(split, credits_used=used, duration_seconds=seconds, error=reason)


def _not_negative(value: float | None) -> float | None:
    return None if value is None or value < 0 else value


def _is_split_id(text: str) -> bool:
    # Percent-encoding does not change dots: as a path segment they would lead to another resource.
    return text not in ("", ".", "..") and text.isprintable()


def _input(split_input: SplitInput) -> dict[str, str]:
    kind = "direct_url" if isinstance(split_input, DirectURL) else "uploaded_file"
    return {"type": kind, **{to_camel(name): value for name, value in attrs.asdict(split_input).items()}}


def _request(
    base_url: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Request:
    content = {"Content-Type": "application/json"} if body is not None else {}
    return Request(
        origin=Origin.API,
        method=method,
        url=base_url + path,
        headers={"Accept": "application/json", **content, **(headers or {})},
        body=body,
    )


def _encode(body: Mapping[str, Any]) -> bytes:
    wrong = next((name for name, value in body.items() if safe_text(str(value)) != str(value)), None)
    if wrong is not None:  # half a surrogate pair, which no JSON in UTF-8 has
        raise ConfigurationError(f"{wrong} is not text: {str(body[wrong])!a}")
    return json.dumps(body, separators=(",", ":")).encode()


def _data(reply: Reply, cls: type[T]) -> T:
    return decode(_find_data(reply), cls, path="$.data")


def _find_data(reply: Reply) -> Any:
    """Return what the envelope contains.

    What names a split counts whatever `success` says, and so does a split without an envelope.

    Raises:
        ProtocolError: it is not JSON, or reports no success. `build_refusal` says whether it reports a failure.
    """
    envelope = parse_reply(reply)
    if not isinstance(envelope, dict):
        raise ProtocolError("unexpected reply: $ should be an object")
    data = envelope.get("data")
    if envelope.get("success") is True and data is not None:
        return data
    if isinstance(data, dict) and isinstance(data.get("id"), str):
        return data
    if isinstance(envelope.get("id"), str) and isinstance(envelope.get("status"), str) and not envelope.get("error"):
        return envelope
    if envelope.get("success") is not True:
        raise ProtocolError("unexpected reply: $.success is not true")
    return data
