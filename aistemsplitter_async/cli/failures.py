"""Turns an error into the message, the code and the exit code that people and scripts get."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from http import HTTPStatus
from typing import Any

import attrs

from aistemsplitter_async._send.reactions import is_outage
from aistemsplitter_async._transfer.partfile import NAME_REFUSED
from aistemsplitter_async._transfer.selection import NO_SUCH_MIX, NO_SUCH_STEM
from aistemsplitter_async.cli.places import PASSWORD_ELSEWHERE
from aistemsplitter_async.cli.screen.render import command, given_options, show
from aistemsplitter_async.config import API_KEY_VARIABLE, LONGEST_CLOSED, SHARED_VARIABLE
from aistemsplitter_async.errors import (
    GATE_UNREACHABLE,
    NOT_MIXED,
    SCHEDULER_LOST,
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    InsufficientCreditsError,
    JournalLockedError,
    ProtocolError,
    RateLimitedError,
    SpendLimitError,
    SplitFailedError,
    SubmissionUncertainError,
    ValidationError,
)
from aistemsplitter_async.journal.file import UNUSABLE
from aistemsplitter_async.journal.lock import NO_LOCKS
from aistemsplitter_async.journal.record import NEEDS_REVIEW, SAME_SPLIT, SENT_BY_OTHER_KEY, build_failure
from aistemsplitter_async.journal.tables import DOWN, UNFIT


class Exit(IntEnum):
    """The exit codes; scripts rely on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    AUTHENTICATION = 3
    CREDITS = 4
    UNCERTAIN = 5
    PARKED = 75  # EX_TEMPFAIL of sysexits.h: try again later
    INTERRUPTED = 130  # 128 + SIGINT, as shells report it


# Of several results the most severe decides: first money that may be lost, then what stops everything else too.
_SEVERITY = (
    Exit.INTERRUPTED,
    Exit.UNCERTAIN,
    Exit.USAGE,
    Exit.AUTHENTICATION,
    Exit.CREDITS,
    Exit.PARKED,
    Exit.FAILED,
    Exit.DONE,
)

# Never a new one: it would pay for everything again.
_ELSEWHERE = "--journal FILE keeps it elsewhere: move it there, if there is one already"
_ADVICE_BY_CODE = {
    "NO_API_KEY": f"set {API_KEY_VARIABLE} or give --api-key-file FILE; without a key, try split --sandbox",
    "CHANGED": (
        "perhaps only its tags changed, so it is not bought again: --changed same takes it for the same song, "
        "--changed new buys it"
    ),
    "SPEND_LIMIT": "raise --max-credits to go on",
    "LENGTH_UNKNOWN": (
        "convert it, to FLAC for example (a URL: download it), leave it out, or run without --max-credits"
    ),
    NAME_REFUSED: (
        "choose names that it takes, in batch with --template '{id}/{stem}.{ext}' for example, or mount it with Unicode"
    ),
    NO_LOCKS: _ELSEWHERE,
    UNUSABLE: _ELSEWHERE,
    NO_SUCH_STEM: "it is paid for, and other --stems are downloaded without being charged",
    NO_SUCH_MIX: "it is paid for, and its stems are downloaded without being charged if that mix is left out",
    NOT_MIXED: "it is paid for, and its stems are downloaded without being charged if that mix is left out",
    "CHARGED_MORE": "check the price before going on without --max-credits",
}


class UsageError(Exception):
    """The options given do not go together."""


@attrs.frozen(kw_only=True)
class Problem:
    """An error as it is shown: one line that says what failed and what the user can do about it."""

    code: str
    message: str
    exit_code: Exit
    split_id: str | None = None
    idempotency_key: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the `error` object of a result."""
        extra = {"split_id": self.split_id, "idempotency_key": self.idempotency_key}
        return {"code": self.code, "message": self.message} | {key: value for key, value in extra.items() if value}


@attrs.frozen(kw_only=True)
class Context:
    """The command in which an error happened: the options that a command to continue its work must repeat.

    Attributes:
        into: the folder for all splits, `None` for commands that download nothing.
        name: the folder inside, if it is not the usual one of the source.
        selecting: the options for what is downloaded, see `Selecting.given`.
        connection: the options to reach the same API, see `Common.connection`.
        is_batch: whether the command is `batch`, which is continued by running it again.
        is_split: whether the command is `split`, which buys and has a journal too.
        retry_failed: whether `--retry-failed` was given; the command to continue must not repeat it.
        resumable: whether splits outlive this process.
    """

    into: str | None = None
    name: str | None = None
    selecting: Mapping[str, object] = attrs.field(factory=dict[str, object])
    connection: Mapping[str, object] = attrs.field(factory=dict[str, object])
    is_batch: bool = False
    is_split: bool = False
    retry_failed: bool = False
    resumable: bool = True

    @property
    def again(self) -> str:
        """How to run a command once more that buys nothing twice."""
        return f"run the same command again{' without --retry-failed' if self.retry_failed else ''}"

    def continuations(self, split_id: str) -> list[str]:
        """Return the commands that continue with the split later, the best first; none if it ends with this process."""
        if not self.resumable:
            return []
        connection = given_options(self.connection)
        wait = command("wait", split_id, *connection)
        target = given_options({"--into": self.into, "--name": self.name, **self.selecting})
        return [wait] if self.into is None else [command("download", split_id, *target, *connection), wait]


def most_severe(codes: Iterable[Exit]) -> Exit:
    """Return the exit code for several results."""
    return min(codes, key=_SEVERITY.index, default=Exit.DONE)


def explain(error: AIStemSplitterError, context: Context, *, source: str | None = None) -> Problem:
    """Return `error` as it is shown; `source` is the file or URL it happened to."""
    message = _message(error)
    if source and (source not in message or isinstance(error, ValidationError)):
        message = f"{source}: {message}"
    advice = _advice(error, context)
    return Problem(
        code=error.code or _code(error),
        message=show(f"{message.rstrip('.')}; {advice}" if advice else message),
        exit_code=exit_code(error),
        split_id=error.split_id,
        idempotency_key=error.idempotency_key,
    )


def exit_code(error: AIStemSplitterError) -> Exit:
    """Return the exit code for an error."""
    if isinstance(error, AuthenticationError) or error.code == "NO_API_KEY":
        return Exit.AUTHENTICATION
    if isinstance(error, ConfigurationError):
        return Exit.USAGE
    if isinstance(error, InsufficientCreditsError | SpendLimitError):
        return Exit.CREDITS
    if isinstance(error, SubmissionUncertainError):
        return Exit.UNCERTAIN
    if error.code == GATE_UNREACHABLE:
        return Exit.USAGE if isinstance(error, APIConnectionError) and error.permanent else Exit.PARKED
    passes = isinstance(error, RateLimitedError | JournalLockedError) or error.code in (DOWN, SCHEDULER_LOST)
    return Exit.PARKED if passes else Exit.FAILED


def _code(error: AIStemSplitterError) -> str:
    name = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.replace("API", "Api")).upper()


def _message(error: AIStemSplitterError) -> str:
    if error.code == "NO_API_KEY":
        return str(error).partition(":")[0]
    if error.code in ("EXISTS", "CHANGED") or isinstance(error, SubmissionUncertainError | SpendLimitError):
        return str(error).partition(";")[0]  # the rest is about arguments of functions, not about options
    if isinstance(error, AuthenticationError) and not is_outage(error):
        return f"the API key was refused (HTTP {error.status_code}{_detail(error)})"
    if isinstance(error, InsufficientCreditsError):
        return f"not enough credits{_detail(error)}"
    if isinstance(error, ValidationError) and (error.detail or error.output_format):
        return f"the API refused it{_detail(error)}"
    if isinstance(error, RateLimitedError):
        return f"the key's request limit stayed exhausted{_detail(error)}"
    if _is_unknown_split(error):
        return f"there is no split {error.split_id} for this key"
    return str(error)


def _detail(error: APIStatusError) -> str:
    return f": {error.detail.rstrip('.')}" if error.detail else ""


def _is_unknown_split(error: AIStemSplitterError) -> bool:
    return isinstance(error, APIStatusError) and error.status_code == HTTPStatus.NOT_FOUND and bool(error.split_id)


def _advice(error: AIStemSplitterError, context: Context) -> str | None:
    """Return what the user can do, best first."""
    if error.code in _ADVICE_BY_CODE:
        return _ADVICE_BY_CODE[error.code]
    if (advice := _advice_for_refusal(error)) is not None:
        return advice
    if isinstance(error, ConfigurationError):
        return None
    if isinstance(error, SubmissionUncertainError):
        return _advice_for_uncertain(error, context)
    if error.code == "EXISTS":
        return _advice_for_occupied(error, context)
    if error.split_id is not None and (advice := _advice_for_split(error, error.split_id, context)) is not None:
        return advice
    if isinstance(error, RateLimitedError):
        asked = error.retry_after
        wait = f" in {asked:.0f} s" if asked and asked <= LONGEST_CLOSED else " later"
        return f"try again{wait}, and give the key's limit with --rate-limit"
    if error.code in (
        "CERTIFICATE",
        "PROXY",
        SCHEDULER_LOST,
    ):  # it says itself what to do, or whom to ask
        return "check --proxy" if error.code == "PROXY" else None
    if isinstance(error, APIConnectionError | ProtocolError):
        return "check the network and --base-url"
    return None


def _advice_for_refusal(error: AIStemSplitterError) -> str | None:
    if isinstance(error, AuthenticationError):
        where = "the network, a proxy or gateway on the way, and " if is_outage(error) else ""
        return f"check {where}{API_KEY_VARIABLE} or --api-key-file, and --base-url"
    if isinstance(error, InsufficientCreditsError):
        return f"add credits, and see what is left with: {command('credits')}"
    if error.code == UNFIT and "password" in str(error):
        return PASSWORD_ELSEWHERE
    if isinstance(error, APIConnectionError) and error.code == GATE_UNREACHABLE:
        return f"check --shared or {SHARED_VARIABLE}{'' if error.permanent else ', and that its server runs'}"
    if isinstance(error, ValidationError) and error.output_format:
        return f"if {error.output_format} is not offered to you, give --output-format mp3"
    return None


def _advice_for_uncertain(error: SubmissionUncertainError, context: Context) -> str:
    """Return how to find out whether a create has happened."""
    if error.code == SAME_SPLIT:
        return f"ask the service what it created under the idempotency key {error.idempotency_key}"
    if error.code == SENT_BY_OTHER_KEY:
        return (
            f"its idempotency key is {error.idempotency_key}; run the same command with the API key that sent it or, "
            "if there is no such split, with --resend"
        )
    if error.code != NEEDS_REVIEW:
        return f"{context.again}: it finds out, and nothing is charged twice"
    return (
        f"its idempotency key is {error.idempotency_key}; if there is no such split, run the same command with --resend"
    )


def _advice_for_occupied(error: AIStemSplitterError, context: Context) -> str:
    """Return what to do about files where the stems would go. None of it pays for what is paid for."""
    if not (context.is_batch or context.is_split):
        return "give --overwrite, or another folder with --into"
    if error.split_id is not None:
        return f"the split is paid for: move those files away, and {context.again}"
    return (
        "nothing was bought: if they are the stems of this song, leave it out; to buy it all the same, move them away "
        "first, hidden files too"
    )


def _advice_for_split(error: AIStemSplitterError, split_id: str, context: Context) -> str | None:
    """Return how to continue with a split that exists."""
    if _is_unknown_split(error):
        return "check the id and the key"
    if isinstance(error, SplitFailedError) and (context.is_batch or context.is_split):
        return "it is bought again only with --retry-failed"
    if context.is_batch:
        passing = build_failure("wait", error).passing
        return f"it is tried again {'when the same command is run again' if passing else 'only with --retry-failed'}"
    commands = context.continuations(split_id)
    if commands and not isinstance(error, SplitFailedError):
        return f"nothing is lost; continue with: {' or: '.join(commands)}"
    return None
