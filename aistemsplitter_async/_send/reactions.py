"""What each kind of failure means: one table, of what passes and what is done about it, that everything else asks.

`retry` asks it for a call, the poller for a wait, the downloader for stems, the batch before it pauses, and the journal
when the next run begins.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final

import attrs

from aistemsplitter_async._wire.messages import Stage
from aistemsplitter_async.config import RetryPolicy
from aistemsplitter_async.errors import (
    GATE_UNREACHABLE,
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    ConfigurationError,
    IncompleteDownloadError,
    ProtocolError,
    StemsExpiredError,
    SubmissionUncertainError,
    UnsafeURLError,
)


class Action(Enum):
    """How a call reacts to a kind of failure."""

    RETRY = "try again after the backoff"
    ONCE = "try again, but only once"
    CONFLICT = "try again for a while: another attempt of ours may still be at work"
    OUTLAST = "try again for a while, after growing pauses: it may pass"
    THROTTLE = "wait as long as the server asks, or as the window needs"
    RAISE = "raise it to the caller"
    RENEW = "raise it to the uploader, which takes a fresh reservation"
    REFRESH = "raise it to the downloader, which asks for fresh URLs"


class Wait(Enum):
    """How long a wait for a split goes on while all its polls fail in one way."""

    NO = "it ends at once"
    PAID = "as long as what is paid for is waited out"
    SEEN = "the same, if the split is known to exist; else only briefly, since the id may be mistyped"
    ENDLESS = "until the caller's own deadline: nothing answers"


@attrs.frozen
class Reaction:
    """One row of the table: what a kind of failure means, wherever it happens.

    Attributes:
        calls: what a call does about it, by `_COLUMNS`.
        wait: how long a wait for a split outlasts it.
        pauses: whether a batch takes it for an outage, and pauses, after the call has given up.
        refused: whether the service's own word was that this very request is wrong, so that it always will be.
    """

    calls: tuple[Action, ...]
    wait: Wait = Wait.NO
    pauses: bool = False
    refused: bool = False


_R, _1, _C, _O, _T, _X, _N, _F = (
    Action.RETRY,
    Action.ONCE,
    Action.CONFLICT,
    Action.OUTLAST,
    Action.THROTTLE,
    Action.RAISE,
    Action.RENEW,
    Action.REFRESH,
)

# The calls are those that read or reserve, upload, create, poll and download.
_COLUMNS: Final = (Stage.RESERVE, Stage.UPLOAD, Stage.CREATE, Stage.GET, Stage.DOWNLOAD)
_TABLE: Final = {
    "permanent": Reaction((_X, _X, _X, _X, _X)),
    "connection": Reaction((_R, _R, _R, _R, _R), Wait.ENDLESS, pauses=True),
    "gate": Reaction((_X, _X, _X, _X, _X), Wait.ENDLESS, pauses=True),  # the call has waited for it already
    "undecodable": Reaction((_O, _N, _O, _R, _R), Wait.PAID, pauses=True),
    "incomplete": Reaction((_X, _X, _X, _X, _R), pauses=True),
    "unsafe URL": Reaction((_X, _X, _X, _X, _F)),
    "expired": Reaction((_X, _X, _X, _X, _X)),
    "page": Reaction((_O, _N, _O, _R, _F), Wait.PAID, pauses=True),
    "302 303 307": Reaction((_O, _X, _O, _R, _X), Wait.PAID, pauses=True),
    "3xx": Reaction((_X, _X, _X, _X, _X)),
    "401 403": Reaction((_X, _N, _X, _X, _F)),
    "404 410": Reaction((_X, _N, _X, _X, _F), Wait.SEEN, refused=True),
    "408": Reaction((_R, _R, _R, _R, _R), Wait.ENDLESS, pauses=True),
    "402": Reaction((_X, _N, _X, _X, _F)),
    "409 423": Reaction((_1, _N, _C, _1, _R), Wait.PAID),
    "425": Reaction((_R, _R, _R, _R, _R), Wait.ENDLESS, pauses=True),
    "429": Reaction((_T, _T, _T, _T, _T), Wait.ENDLESS, pauses=True),
    "4xx": Reaction((_X, _N, _X, _X, _F), refused=True),
    "5xx": Reaction((_R, _R, _R, _R, _R), Wait.ENDLESS, pauses=True),
    "odd": Reaction((_X, _X, _X, _X, _X)),
    "other": Reaction((_X, _X, _X, _X, _X)),
}

# Failures of a create that are not ambiguous: the service refused it. For a connection, the error itself says it. A
# page is not among them: most gateways refuse before the service hears of a request, but others inspect its answer on
# the way back, or put a page of their own in the place of an error; which of them it was, the page does not tell. A 401
# is: it asks who is there, before anything is done. So is a 425, whoever sends it: what came too early was not done
# (RFC 8470 section 5.2).
_REFUSALS: Final = frozenset({"401 403", "402", "404 410", "425", "429", "4xx"})

# Refusals that no gateway makes on its own: they are the service's word in whatever form they come.
_MEANT: Final = frozenset({402, 422})
_NO_KEY: Final = 401
_MISSING: Final = frozenset({404, 410})


def classify(error: AIStemSplitterError) -> str:
    """Return the row of the table that `error` belongs to.

    A refusal without a code is a page: of a gateway, a proxy or a maintenance, but not the service's own word.
    """
    if isinstance(error, APIConnectionError):
        if error.permanent:
            return "permanent"
        return "gate" if error.code == GATE_UNREACHABLE else "connection"
    if isinstance(error, IncompleteDownloadError):
        return "incomplete"
    if isinstance(error, UnsafeURLError):
        return "unsafe URL"
    if isinstance(error, StemsExpiredError):
        return "expired"
    if isinstance(error, APIStatusError | SubmissionUncertainError) and error.status_code is not None:
        return _classify_status(error.status_code, error.code)
    return "undecodable" if isinstance(error, ProtocolError) else "other"


def _classify_status(status: int, code: str | None) -> str:
    named = next((row for row in _TABLE if str(status) in row.split()), None)
    by_hundreds = f"{status // 100}xx"
    row = named or (by_hundreds if by_hundreds in _TABLE else "odd")
    is_page = code is None and status not in _MEANT and row in ("401 403", "404 410", "4xx")
    return "page" if is_page else row


def action_for(stage: Stage, error: AIStemSplitterError) -> Action:
    """Return how a call reacts to `error` at `stage`."""
    column = _COLUMNS.index(Stage.RESERVE if stage is Stage.CREDITS else stage)
    return _TABLE[classify(error)].calls[column]


def is_ambiguous(error: AIStemSplitterError) -> bool:
    """Return whether a create that ended in `error` may have taken effect."""
    if isinstance(error, APIConnectionError):
        return error.may_have_arrived
    if isinstance(error, ConfigurationError | UnsafeURLError):  # raised before an attempt; of others that is not known
        return False
    return classify(error) not in _REFUSALS and error.status_code != _NO_KEY


def is_outage(error: AIStemSplitterError) -> bool:
    """Return whether the cause of `error`, which was retried already, concerns every call, and may end by itself."""
    return _TABLE[classify(error)].pauses


def is_refused(error: AIStemSplitterError) -> bool:
    """Return whether the service's own word was that this very request is wrong."""
    return _TABLE[classify(error)].refused


def wait_time(policy: RetryPolicy, error: AIStemSplitterError, *, is_known: bool) -> float:
    """Return for how many seconds a wait for a split outlasts polls that fail with `error`.

    Args:
        policy: has the seconds.
        error: of the newest poll, which was retried already.
        is_known: whether the split is known to exist: its create was seen, a poll found it, or an event named it.
    """
    wait = _TABLE[classify(error)].wait
    if error.status_code in _MISSING and wait is not Wait.NO:
        wait = Wait.SEEN  # a page may stand for a mistyped id as well
    match wait:
        case Wait.NO:
            return 0.0
        case Wait.PAID:
            return policy.passing_paid
        case Wait.SEEN:
            return policy.passing_paid if is_known else policy.passing_unknown
        case Wait.ENDLESS:
            return math.inf
