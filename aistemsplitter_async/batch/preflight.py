"""Estimates a batch, in credits and in time, before anything is spent."""

from __future__ import annotations

import math

import attrs

from aistemsplitter_async._audio.examine import Length
from aistemsplitter_async.config import RateLimit

# Requests of one track: for an upload reserve, create and a poll; a URL needs no reservation. The transfers themselves
# are not API requests, and a track's last request is a poll.
_UPLOAD_REQUESTS = 3
_URL_REQUESTS = 2


@attrs.frozen(kw_only=True)
class Estimate:
    """The expected cost of a batch.

    Attributes:
        tracks: how many there are.
        unknown_tracks: how many of them have no certain length; `seconds` and `credits` leave these out.
        seconds: of audio.
        credits: what the service charges for `seconds`, judging by the files; the service's own figure decides.
        credits_at_most: what it charges if the others are as long as they can be; `None` if one can have any length,
            such as a URL.
        balance: credits of the account, `None` if it was not asked for.
        missing: credits that the account is short of, at least; `None` if the balance is not known.
        wall_seconds: the least time the key's limit allows; a run takes some percent more, and longer where the
            network is slower than the limit. `None` if the limit is not known.
    """

    tracks: int
    unknown_tracks: int
    seconds: float
    credits: int
    credits_at_most: int | None
    balance: int | None
    missing: int | None
    wall_seconds: float | None


def charged_credits(seconds: float) -> int:
    """Return the credits that a track of this length is expected to cost: one per second, rounded up track by track."""
    return max(1, math.ceil(seconds))


@attrs.frozen
class Price:
    """What a split may cost at most.

    Attributes:
        credits: for the longest that a decoder can find, rounded up as the service does.
        is_certain: whether it will cost that, or one less, rather than anything up to that.
    """

    credits: int
    is_certain: bool = True


def plan_price(length: Length, claimed: float | None) -> Price | None:
    """Return what a split may cost, `None` if that is not known.

    What a file says itself counts, whatever the caller says of it, unless that is more. Decoders differ in whether they
    count the silence that an encoder added, so the bound is the price even where the length is certain.

    Args:
        length: as measured; unknown for what cannot be measured, such as a URL.
        claimed: seconds, as the caller says.
    """
    known = length.at_most if length.at_most is not None else length.seconds
    if known is None:
        return None if claimed is None else Price(charged_credits(claimed))
    return Price(charged_credits(max(known, claimed or 0.0)), is_certain=length.seconds is not None)


def plan_wall_seconds(limit: RateLimit | None, *, uploads: int, urls: int, processing: float) -> float | None:
    """Return the least seconds in which a key with this limit can split the tracks; `None` if it is not known.

    Request number m cannot be sent before `T(m) = W * floor((m - 1) / R)` where R requests are allowed in a window of W
    seconds, or `max(0, (m - R) * W / R)` where a bucket of R tokens refills. Of q requests per track the last one is a
    poll of a finished split, so n tracks take at least `max(T(q n), T((q - 1) n) + p)` for a processing time p: either
    the requests take longest, or the split that was created last is still being worked on.
    """
    if not uploads + urls:
        return 0.0
    if limit is None or limit.requests is None:
        return None
    requests = _UPLOAD_REQUESTS * uploads + _URL_REQUESTS * urls
    last_create = requests - uploads - urls
    return max(_earliest(requests, limit, limit.requests), _earliest(last_create, limit, limit.requests) + processing)


def _earliest(request: int, limit: RateLimit, allowed: int) -> float:
    """Return after how many seconds request number `request` can be sent, by all limits."""
    if limit.policy == "bucket":
        earliest = max(0.0, (request - allowed) * limit.per / allowed)
    else:
        earliest = limit.per * ((request - 1) // allowed)
    return max([earliest, *(_earliest(request, other, other.requests) for other in limit.further if other.requests)])
