"""Webhook signatures: `t=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<raw body>" keyed by the secret>`.

A request is either genuine or raises a `WebhookError`, never another exception. The text is
compared as it was sent, so a valid header can be written in one way only: no other case, no signs, no other digits.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Collection, Iterable, Iterator, Mapping
from typing import NoReturn

from aistemsplitter_async.config import WEBHOOK_TOLERANCE, Secret
from aistemsplitter_async.errors import ConfigurationError, WebhookError

SIGNATURE_HEADER = "AIStemSplitter-Signature"

_SCHEME = "v1"
_MOST_SIGNATURES = 8  # during a rotation a sender signs with two secrets
_MOST_CHARACTERS = 1024  # of a header: eight signatures, and room for future schemes
_USUAL = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")  # the form of every genuine header so far
_TIMESTAMP = re.compile(r"[0-9]{1,12}")  # to the year 33658
_SIGNATURE = re.compile(r"[0-9a-f]{64}")


class Keys:
    """Secrets checked once and used for many verifications. They stay out of `repr` and pickles."""

    __slots__ = ("_keyed",)

    def __init__(self, secrets: str | Secret | Collection[str | Secret]) -> None:
        several = isinstance(secrets, Iterable) and not isinstance(secrets, str | bytes | bytearray)
        listed: list[object] = list(secrets) if several else [secrets]  # type: ignore[arg-type]
        texts = [one.reveal() if isinstance(one, Secret) else one for one in listed]
        if not all(isinstance(text, str) for text in texts):  # not shown in the message: it may be the secret
            raise ConfigurationError("webhook secrets must be a string or a list of strings", code="NO_WEBHOOK_SECRET")
        keys = [str(text).strip().encode("utf-8", "surrogateescape") for text in texts]
        if not keys or not all(keys):  # with an empty secret, anyone could sign
            raise ConfigurationError("a webhook secret is missing or empty", code="NO_WEBHOOK_SECRET")
        self._keyed = tuple(hmac.new(key, digestmod="sha256") for key in keys)  # once: it costs more than a signature

    def __iter__(self) -> Iterator[hmac.HMAC]:
        return map(hmac.HMAC.copy, self._keyed)

    def __repr__(self) -> str:
        return "Keys(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets are not pickled")


Secrets = str | Secret | Collection[str | Secret] | Keys  # a `str` is one secret, not a collection of characters


Body = bytes | bytearray | memoryview | str


def raw_body(body: object) -> bytes:
    """Return the bytes of a body that a framework gives as bytes, or as the text that it decoded from UTF-8.

    Raises:
        TypeError: it is something else, such as parsed JSON, which is not what was signed.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")
    reason = ""
    if isinstance(body, Mapping | list | tuple):
        reason = "; the signature is of the bytes that were sent, which parsed JSON does not give back"
    elif isinstance(body, Awaitable):
        reason = "; await it"
    elif callable(body):
        reason = "; call it"
    raise TypeError(f"the body of a webhook must be its raw bytes, or their text, not {type(body).__name__}{reason}")


def sign(body: Body, secret: str | Secret, timestamp: int) -> str:
    """Return the value of the `AIStemSplitter-Signature` header for `body`, sent at `timestamp` (POSIX seconds).

    Raises:
        ConfigurationError: the secret is empty.
    """
    (keyed,) = Keys(secret)
    return f"t={timestamp},{_SCHEME}={_digest(raw_body(body), str(timestamp), keyed)}"


def verify(
    body: Body, header: str | bytes | None, secrets: Secrets, now: float, tolerance: float = WEBHOOK_TOLERANCE
) -> int:
    """Verify a signature by one of `secrets`, made within `tolerance` of `now`; return its time (POSIX seconds).

    Args:
        body: the raw bytes as they arrived, or their text; JSON that was parsed and serialised again is not what was
            signed.
        header: the value of `AIStemSplitter-Signature`, `None` if there was none.
        secrets: the signing secret, or several during a rotation.
        now: POSIX seconds.
        tolerance: seconds, in the past or the future.

    Raises:
        WebhookError: not genuine; `code` is `SIGNATURE_MISSING`, `SIGNATURE_MALFORMED`, `SIGNATURE_MISMATCH`,
            `TIMESTAMP_STALE` or `TIMESTAMP_FUTURE`.
        ConfigurationError: there is no secret, or an empty one.
        TypeError: the body or the header is something else, such as parsed JSON or all headers.
    """
    body = raw_body(body)
    if isinstance(header, bytes):
        header = header.decode("latin-1")
    if not isinstance(header, str | None):
        raise TypeError(f"the header must be the value of {SIGNATURE_HEADER}, not {type(header).__name__}")
    keys = secrets if isinstance(secrets, Keys) else Keys(secrets)
    if header is None:
        raise WebhookError(f"there is no {SIGNATURE_HEADER} header", code="SIGNATURE_MISSING")
    timestamp, signatures = _parse(header)
    # Every secret is tried with every signature even after a match, so that the time taken reveals nothing.
    expected = [_digest(body, timestamp, keyed) for keyed in keys]
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in signatures]
    if True not in matches:
        raise WebhookError("no signature matches this body and one of the secrets", code="SIGNATURE_MISMATCH")
    age = now - int(timestamp)
    if age > 0 and not age <= tolerance:
        raise WebhookError(f"signed {age:.0f} s ago; at most {tolerance:g} s are allowed", code="TIMESTAMP_STALE")
    if not -age <= tolerance:
        raise WebhookError(
            f"signed {-age:.0f} s in the future; at most {tolerance:g} s are allowed", code="TIMESTAMP_FUTURE"
        )
    return int(timestamp)


def _digest(body: bytes, timestamp: str, keyed: hmac.HMAC) -> str:
    keyed.update(b"%b.%b" % (timestamp.encode(), body))
    return keyed.hexdigest()


def _parse(header: str) -> tuple[str, list[str]]:
    """Return the timestamp as it was written, and the signatures. Elements of other schemes are ignored."""
    usual = _USUAL.fullmatch(header)
    if usual is not None:
        return usual[1], [usual[2]]
    if len(header) > _MOST_CHARACTERS:
        raise _malformed("it is too long")
    elements = [element.strip(" ").partition("=") for element in header.split(",")]
    timestamps = [value for name, _, value in elements if name == "t"]
    signatures = [value for name, _, value in elements if name == _SCHEME]
    if len(timestamps) != 1 or not 0 < len(signatures) <= _MOST_SIGNATURES:
        raise _malformed(f"it must have one t and 1 to {_MOST_SIGNATURES} {_SCHEME}")
    (timestamp,) = timestamps
    if not _TIMESTAMP.fullmatch(timestamp):
        raise _malformed("t is not a number of seconds")
    if not all(map(_SIGNATURE.fullmatch, signatures)):
        raise _malformed(f"{_SCHEME} is not 64 hexadecimal digits")
    return timestamp, signatures


def _malformed(reason: str) -> WebhookError:
    return WebhookError(f"the {SIGNATURE_HEADER} header is malformed: {reason}", code="SIGNATURE_MALFORMED")
