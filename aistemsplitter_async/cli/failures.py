"""From an error to the one line, the code and the exit code that people and scripts get."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Any

import attrs

from aistemsplitter_async.cli.screen.render import command, show
from aistemsplitter_async.config import API_KEY_VARIABLE
from aistemsplitter_async.errors import (
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
from aistemsplitter_async.journal.record import build_failure

_NOT_FOUND = 404


class Exit(IntEnum):
    """What the exit code says; scripts rely on it."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    AUTHENTICATION = 3
    CREDITS = 4
    UNCERTAIN = 5
    PARKED = 75  # EX_TEMPFAIL of sysexits.h: try again later
    INTERRUPTED = 130  # 128 + SIGINT, as shells say it


# With several results the gravest decides: money that may be gone first, then what stops everything else too.
_GRAVITY = (
    Exit.INTERRUPTED,
    Exit.UNCERTAIN,
    Exit.USAGE,
    Exit.AUTHENTICATION,
    Exit.CREDITS,
    Exit.PARKED,
    Exit.FAILED,
    Exit.DONE,
)


class UsageError(Exception):
    """The options given do not go together."""


@attrs.frozen(kw_only=True)
class Failure:
    """Why something did not work, in one line that names the thing and the way out."""

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
class Place:
    """Where a result was to go: what a command that continues it has to say again.

    Attributes:
        into: the folder for all splits, `None` for commands that fetch nothing.
        name: the folder inside, if it is not the one the source's name leads to anyway.
        base_url: as it was given.
        api_key_file: as it was given.
        whole: whether it is a `batch` that is run again, rather than one split that is gone on with.
        lasting: whether there will be something to go on with once this process has ended.
    """

    into: str | None = None
    name: str | None = None
    base_url: str | None = None
    api_key_file: Path | None = None
    lasting: bool = True
    whole: bool = False

    def ways_on(self, split_id: str) -> list[str]:
        """Return the commands that go on with the split later, the best first; none if it dies with this process."""
        if not self.lasting:
            return []
        options = {"--into": self.into, "--name": self.name, **self._connection}
        wait = command("wait", split_id, *_given(self._connection))
        return [wait] if self.into is None else [command("download", split_id, *_given(options)), wait]

    @property
    def _connection(self) -> dict[str, str | None]:
        key_file = None if self.api_key_file is None else str(self.api_key_file)
        return {"--base-url": self.base_url, "--api-key-file": key_file}


def _given(options: dict[str, str | None]) -> list[str]:
    return [word for name, value in options.items() if value is not None for word in (name, value)]


def gravest(codes: Iterable[Exit]) -> Exit:
    """Return the exit code that stands for several results."""
    return min(codes, key=_GRAVITY.index, default=Exit.DONE)


def explain(error: AIStemSplitterError, place: Place, *, source: str | None = None) -> Failure:
    """Return what to tell about `error`; `source` is the file or URL it happened to."""
    message = _message(error)
    if source and (source not in message or isinstance(error, ValidationError)):
        message = f"{source}: {message}"
    way_out = _way_out(error, place)
    return Failure(
        code=error.code or _code(error),
        message=f"{show(message)}; {way_out}" if way_out else show(message),
        exit_code=exit_code(error),
        split_id=error.split_id,
        idempotency_key=error.idempotency_key,
    )


def exit_code(error: AIStemSplitterError) -> Exit:
    """Return the exit code an error leads to."""
    if isinstance(error, AuthenticationError) or error.code == "NO_API_KEY":
        return Exit.AUTHENTICATION
    if isinstance(error, ConfigurationError):
        return Exit.USAGE
    if isinstance(error, InsufficientCreditsError | SpendLimitError):
        return Exit.CREDITS
    if isinstance(error, SubmissionUncertainError):
        return Exit.UNCERTAIN
    return Exit.PARKED if isinstance(error, RateLimitedError | JournalLockedError) else Exit.FAILED


def _code(error: AIStemSplitterError) -> str:
    name = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.replace("API", "Api")).upper()


def _message(error: AIStemSplitterError) -> str:
    if error.code == "NO_API_KEY":
        return str(error).partition(":")[0]
    if error.code == "EXISTS" or isinstance(error, SubmissionUncertainError):
        return str(error).partition(";")[0]  # the rest speaks of arguments, not of options
    if isinstance(error, AuthenticationError):
        return f"the API key was refused (HTTP {error.status_code}{_detail(error)})"
    if isinstance(error, InsufficientCreditsError):
        return f"not enough credits{_detail(error)}"
    if isinstance(error, ValidationError) and error.detail:
        return f"the API refused it{_detail(error)}"
    if isinstance(error, RateLimitedError):
        return f"the key's request limit stayed exhausted{_detail(error)}"
    if isinstance(error, APIStatusError) and error.status_code == _NOT_FOUND and error.split_id:
        return f"there is no split {error.split_id} for this key"
    return str(error)


def _detail(error: APIStatusError) -> str:
    return f": {error.detail.rstrip('.')}" if error.detail else ""


def _way_out(error: AIStemSplitterError, place: Place) -> str | None:
    """Return what can be done, best first."""
    if error.code == "NO_API_KEY":
        return f"set {API_KEY_VARIABLE} or give --api-key-file FILE; without a key, try split --sandbox"
    if isinstance(error, AuthenticationError):
        return f"check {API_KEY_VARIABLE} or --api-key-file, and --base-url"
    if isinstance(error, InsufficientCreditsError):
        return f"add credits, and see what is left with: {command('credits')}"
    if isinstance(error, SubmissionUncertainError):
        return _way_to_find_out(error, place)
    if error.code == "EXISTS":
        moved = "move it away, and run the same command again"
        return moved if place.whole else "give --overwrite, or another folder with --into"
    if error.split_id is not None and (way_on := _way_on(error, error.split_id, place)) is not None:
        return way_on
    if isinstance(error, RateLimitedError):
        wait = f" in {error.retry_after:.0f} s" if error.retry_after else " later"
        return f"try again{wait}, and give the key's limit with --rate-limit"
    if isinstance(error, APIConnectionError | ProtocolError):
        return "check the network and --base-url"
    return None


def _way_to_find_out(error: SubmissionUncertainError, place: Place) -> str:
    """Return how to learn what became of a create."""
    if error.code != "NEEDS_REVIEW":
        return "run the same command again: it finds out, and nothing is charged twice"
    again = "the same command" if place.whole else "batch with the same --into"
    return f"its idempotency key is {error.idempotency_key}; {again} and a --key-age above its age sends it again"


def _way_on(error: AIStemSplitterError, split_id: str, place: Place) -> str | None:
    """Return how to go on with a split that exists."""
    if isinstance(error, APIStatusError) and error.status_code == _NOT_FOUND:
        return "check the id and the key"
    if place.whole:
        passing = build_failure("wait", error).passing
        return f"it is tried again {'when the same command is run again' if passing else 'only with --retry-failed'}"
    again = place.ways_on(split_id)
    if again and not isinstance(error, SplitFailedError):
        return f"nothing is lost; continue with: {' or: '.join(again)}"
    return None
