"""The tree is the one that is drawn, and every error crosses a process whole."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from aistemsplitter_async import errors
from aistemsplitter_async.errors import AIStemSplitterError, APIConnectionError, APIStatusError, RateLimitedError
from aistemsplitter_async.models import Split, SplitErrorDetail, Submission

EPOCH = datetime(2026, 5, 4, tzinfo=UTC)
SPLIT = Split("split_1", "failed", "4s", 214, EPOCH, EPOCH, error=SplitErrorDetail("BAD", "no audio"))
CONTEXT = {"code": "C", "status_code": 418, "request_id": "req", "idempotency_key": "key", "split_id": "split_1"}
CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AIStemSplitterError)
]


def build(cls: Any) -> Any:
    """Make one with every attribute set to a different value."""
    if issubclass(cls, errors.SplitFailedError):
        return cls(SPLIT)
    if issubclass(cls, errors.WaitTimeoutError):
        return cls("split_1", SPLIT)
    if issubclass(cls, errors.SubmissionUncertainError):
        return cls("text", submission=Submission("key", b'{"input": "body"}'), **CONTEXT)
    if issubclass(cls, APIConnectionError):
        return cls("text", may_have_arrived=False, permanent=True, **CONTEXT)
    if issubclass(cls, APIStatusError):
        return cls("text", retry_after=7.5, detail="said", **CONTEXT)
    return cls("text", **CONTEXT)


def drawn_tree() -> dict[str, str | None]:
    """Read the docstring's drawing: class name to parent's name."""
    parents: dict[str, str | None] = {}
    line_of: list[str] = []
    drawing = (errors.__doc__ or "").split("```")[1]
    for line in drawing.strip().splitlines():
        match = re.fullmatch(r"([│├└─ ]*)(\w+)\s.*|([│├└─ ]*)(\w+)", line)
        assert match is not None, line
        indent, name = (match[1], match[2]) if match[2] else (match[3], match[4])
        depth = len(indent) // 4
        line_of[depth:] = [name]
        parents[name] = line_of[depth - 1] if depth else None
    return parents


def test_the_tree_is_the_one_the_docstring_draws() -> None:
    real = {
        cls.__name__: cls.__base__.__name__ if cls is not AIStemSplitterError else None
        for cls in CLASSES
        if cls.__base__
    }
    assert real == drawn_tree()


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_pickles_with_all_its_attributes(cls: type[AIStemSplitterError]) -> None:
    error = build(cls)
    error.add_note("while testing")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301  # our own bytes
        assert type(again) is cls
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
        assert vars(again).keys() >= CONTEXT.keys()


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_copies(cls: type[AIStemSplitterError]) -> None:
    error = build(cls)
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert vars(again) == vars(error)
        again.code = "changed"
        assert error.code != "changed"


class DemandingError(RateLimitedError):
    """A user's subclass with other arguments."""

    def __init__(self, tenant: str, *, shard: int, **context: Any) -> None:
        super().__init__(f"{tenant} is busy", **context)
        self.shard = shard


def test_a_users_own_subclass_pickles_too() -> None:
    error = DemandingError("acme", shard=3, retry_after=9.0, **CONTEXT)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(again), again.shard, again.retry_after, again.split_id) == ("acme is busy", 3, 9.0, "split_1")


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_the_context_of_the_root_and_a_docstring(cls: type[AIStemSplitterError]) -> None:
    assert vars(build(cls)).keys() >= CONTEXT.keys()
    assert inspect.getdoc(cls)
    assert "__doc__" in vars(cls)


def test_an_uncertain_submission_carries_its_key() -> None:
    error = errors.SubmissionUncertainError("text", submission=Submission("key-7", b"body"))
    assert error.idempotency_key == "key-7"
    assert "body" not in repr(error)


def test_a_failed_split_says_why_and_which() -> None:
    error = errors.SplitFailedError(SPLIT)
    assert str(error) == "split split_1 failed: BAD: no audio"
    assert (error.code, error.split_id, error.split) == ("BAD", "split_1", SPLIT)
    silent = Split("split_2", "failed", "4s", 1, EPOCH, EPOCH)
    assert str(errors.SplitFailedError(silent)) == "split split_2 failed: the server gave no reason"


def test_a_wait_that_ran_out_says_what_was_last_seen() -> None:
    assert "last seen failed" in str(errors.WaitTimeoutError("split_1", SPLIT))
    assert "never seen" in str(errors.WaitTimeoutError("split_1", None))
    assert errors.WaitTimeoutError("split_1", None).code == "TIMEOUT"
