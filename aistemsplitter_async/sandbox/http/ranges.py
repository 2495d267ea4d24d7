"""Selects the part of a file that a request gets: `Range`, `If-Range`, `If-Match` and `If-None-Match` by RFC 9110."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.ASCII)


@attrs.frozen
class Slice:
    """The answer's status and the bytes it carries: `length` from `start`."""

    status: int
    start: int
    length: int


def plan_slice(headers: Mapping[str, str], size: int, etag: str) -> Slice:
    """Return the part to send of a file of `size` bytes whose strong validator is `etag` (with its quotes).

    A `Range` that is malformed or lists several parts is ignored, as the RFC allows; one whose `If-Range` does not
    match is answered with the whole file; a date in `If-Range` never matches, since stems have no dates.
    """
    if "If-Match" in headers and not _matches(headers["If-Match"], etag, weakly=False):
        return Slice(412, 0, 0)
    if "If-None-Match" in headers and _matches(headers["If-None-Match"], etag, weakly=True):
        return Slice(304, 0, 0)
    whole = Slice(200, 0, size)
    wanted = _RANGE.fullmatch(headers.get("Range", "").replace(" ", ""))
    if wanted is None or headers.get("If-Range", etag) != etag:
        return whole
    first, last, suffix = wanted.groups()
    if suffix is not None:
        start, stop = max(0, size - int(suffix)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < start:
            return whole
    if start >= size or start >= stop:
        return Slice(416, 0, 0)
    return Slice(206, start, stop - start)


def _matches(header: str, etag: str, *, weakly: bool) -> bool:
    candidates = [candidate.strip() for candidate in header.split(",")]
    if weakly:
        candidates = [candidate.removeprefix("W/") for candidate in candidates]
    return "*" in candidates or etag in candidates
