"""How what people type becomes values: durations, limits, and the options that several commands share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import attrs
from cyclopts import Parameter

from aistemsplitter_async.config import API_KEY_VARIABLE, BASE_URL_VARIABLE, DOWNLOADS, UPLOADS, RateLimit
from aistemsplitter_async.errors import ConfigurationError

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII)
_UNIT_SECONDS = (3600.0, 60.0, 1.0)
_LONGEST = 30 * 24 * 3600.0  # s; longer is a typing mistake


def parse_duration(text: str) -> float:
    """Return the seconds that `30m`, `1h30m`, `90s`, `1.5h` or `90` stand for.

    Raises:
        ValueError: `text` is not of that form, nothing, or more than 30 days.
    """
    match = _DURATION.fullmatch(text.strip().lower().replace(" ", ""))
    parts = match.groups() if match else ()
    seconds = sum(float(part) * unit for part, unit in zip(parts, _UNIT_SECONDS, strict=False) if part)
    if not any(parts) or not math.isfinite(seconds) or not 0 < seconds <= _LONGEST:
        raise ValueError(f"{text!r} is not a duration; write it like 30m, 1h30m or 90s")
    return seconds


def parse_rate_limit(text: str) -> RateLimit:
    """Return the limit that `60/min`, `20/s` or `100/30s` stands for.

    Raises:
        ValueError: `text` is not of that form.
    """
    try:
        return RateLimit.parse(text)
    except ConfigurationError as error:
        reason = str(error)
    except ValueError:
        reason = f"{text[:40]!r} is not a rate limit; write it like 60/min, 5/s or 100/30s"
    raise ValueError(reason)


def parse_webhook_url(text: str) -> str:
    """Return `text` if a service could announce something there.

    Raises:
        ValueError: it is no http(s) URL.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or not text.isprintable() or " " in text:
        raise ValueError(f"{text[:80]!r} is no address for webhooks; it looks like https://example.com/webhooks")
    return text


class Duration(float):
    """Seconds; the help shows the type's name."""


def _duration(_type: Any, tokens: Sequence[Any]) -> Duration:
    return Duration(parse_duration(tokens[0].value))


def _rate_limit(_type: Any, tokens: Sequence[Any]) -> RateLimit:
    return parse_rate_limit(tokens[0].value)


def _webhook_url(_type: Any, tokens: Sequence[Any]) -> str:
    return parse_webhook_url(tokens[0].value)


AsDuration = Parameter(converter=_duration, n_tokens=1)
WebhookURL = Annotated[
    str, Parameter(converter=_webhook_url, n_tokens=1, help="URL the API tells when a split has ended.")
]
Limit = Annotated[RateLimit, Parameter(converter=_rate_limit, n_tokens=1, accepts_keys=False)]
Switch = Parameter(negative=(), show_default=False)  # no --no-json: what is off stays off by not naming it


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Common:
    """What every command that talks to the API takes.

    Attributes:
        base_url: another API than the hosted one.
        rate_limit: what is known about the key's limit.
        api_key_file: where the key is, `-` for standard input; the environment otherwise.
        json: one JSON object per result on stdout instead of text.
    """

    base_url: Annotated[
        str | None, Parameter(help=f"Another API than the hosted one, such as a sandbox (or {BASE_URL_VARIABLE}).")
    ] = None
    rate_limit: Annotated[
        Limit | None, Parameter(help="The key's limit, like 60/min, if you know it: then no request is refused.")
    ] = None
    api_key_file: Annotated[
        Path | None,
        Parameter(
            help=f"File with the API key, - for standard input (instead of {API_KEY_VARIABLE}).",
            allow_leading_hyphen=True,
        ),
    ] = None
    json: Annotated[bool, Switch, Parameter(help="One JSON object per result on stdout.")] = False


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Batching:
    """What `batch` takes beside what `split` takes.

    Attributes:
        journal: the file that remembers everything.
        template: where stems go and how they are called.
        in_flight: splits being processed at a time.
        uploads: parallel uploads.
        downloads: tracks whose stems are fetched at a time.
        max_credits: what this run may spend.
        priority: the lane its requests wait in.
        key_age: how long an unanswered create is sent again by itself.
        retry_failed: try again what failed for good.
        report: HTML file to write at the end.
    """

    journal: Annotated[
        Path | None, Parameter(help="File that remembers everything; a hidden one in the --into folder if not given.")
    ] = None
    template: Annotated[
        str | None, Parameter(help="Where stems go, like {artist}/{album}/{title}/{stem}.{ext}, filled from tags.")
    ] = None
    in_flight: Annotated[
        int | None, Parameter(help="Splits being processed at a time; as many as keep the key busy if not given.")
    ] = None
    uploads: Annotated[int, Parameter(help="Uploads at a time.")] = UPLOADS
    downloads: Annotated[int, Parameter(help="Tracks whose stems are fetched at a time.")] = DOWNLOADS
    max_credits: Annotated[float | None, Parameter(help="Stop before this run costs more.")] = None
    priority: Annotated[Literal["bulk", "interactive"], Parameter(help="Whether other work of the key goes first.")] = (
        "bulk"
    )
    key_age: Annotated[
        Duration | None,
        AsDuration,
        Parameter(help="How old an unanswered create may be to be sent again by itself; 23h if not given."),
    ] = None
    retry_failed: Annotated[bool, Switch, Parameter(help="Try again what failed for good in an earlier run.")] = False
    report: Annotated[Path | None, Parameter(help="Write an HTML page about all tracks at the end.")] = None


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Serving:
    """What the sandbox command takes. What is not given is the sandbox's own default.

    Attributes:
        port: port of the API, 0 for any free one.
        api_key: the key to accept.
        credits_given: opening balance in seconds of audio.
        requests_per_minute: the key's limit, 0 for none.
        minute: length of that minute in seconds.
        window: policy of the limit.
        burst: size of a bucket.
        rate_headers: what answers say about the limit.
        separation: who makes the stems.
        progression: when a split moves on.
        data: folder to keep everything in.
        fault: fault rules, one line each.
        seed: makes chance repeatable.
        no_control: whether the control endpoint is off.
        json: one JSON line on stdout instead of text.
    """

    port: Annotated[int, Parameter(help="Port of the API; any free one if not given.")] = 0
    api_key: Annotated[str | None, Parameter(help="Key to accept, starting with ast_; made up if not given.")] = None
    credits_given: Annotated[int | None, Parameter(name="--credits", help="Opening balance in seconds.")] = None
    requests_per_minute: Annotated[int | None, Parameter(help="The key's limit; 0 for none.")] = None
    minute: Annotated[float | None, Parameter(help="Length of that minute in seconds.")] = None
    window: Annotated[
        Literal["fixed", "sliding", "counter", "bucket"] | None, Parameter(help="How requests are counted.")
    ] = None
    burst: Annotated[int | None, Parameter(help="Requests a bucket can save up; the limit if not given.")] = None
    rate_headers: Annotated[
        str | None,
        Parameter(help="What answers say about the limit: none, or retry-after, ratelimit, x-ratelimit with commas."),
    ] = None
    separation: Annotated[
        Literal["real", "silent"] | None, Parameter(help="Real stems, or silence at once; real if not given.")
    ] = None
    progression: Annotated[
        Literal["instant", "timed", "manual"] | None,
        Parameter(help="A split ends at once, takes its time, or waits for POST /control/step."),
    ] = None
    data: Annotated[Path | None, Parameter(help="Folder to keep everything in, for the next start.")] = None
    fault: Annotated[
        list[str] | None,
        Parameter(
            help="What shall go wrong, like create:status:status=503,times=2; may be given again.",
            negative_iterable=(),
            allow_leading_hyphen=False,
        ),
    ] = None
    seed: Annotated[int | None, Parameter(help="Makes jitter and probabilities repeatable.")] = None
    no_control: Annotated[bool, Switch, Parameter(help="Do not answer at /control/.")] = False
    json: Annotated[bool, Switch, Parameter(help="Print base_url and api_key as one JSON line.")] = False
