"""A listener is told, and nothing more: what it raises reaches the log and nobody else."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from aistemsplitter_async import AsyncAIStemSplitter, BatchItem, ConfigurationError, Gate
from aistemsplitter_async._listeners import Listener, as_listener

NAME = "aistemsplitter_async"


def raising(*errors: BaseException) -> Callable[[object], None]:
    """A function that raises the next error at each call."""
    left = iter(errors)

    def listen(_: object) -> None:
        raise next(left)

    return listen


def test_a_listener_gets_the_values() -> None:
    got: list[int] = []
    listener = Listener(got.append, "on_event")
    for number in range(3):
        listener(number)
    assert got == [0, 1, 2]


def test_each_kind_of_exception_is_logged_once_per_listener(caplog: pytest.LogCaptureFixture) -> None:
    broken, other = BrokenPipeError("the reader is gone"), asyncio.CancelledError()
    for _ in range(2):
        listener = Listener(raising(broken, ValueError("1"), broken, ValueError("2"), other, other), "on_event")
        for _ in range(6):
            listener(0)
    assert {record.name for record in caplog.records} == {NAME}
    kinds = [record.message.split(",")[0] for record in caplog.records]
    assert kinds == [f"on_event raised {kind}" for kind in ("BrokenPipeError", "ValueError", "CancelledError")] * 2
    assert "the reader is gone" in caplog.text  # with its traceback


def test_the_log_is_silent_unless_it_is_configured() -> None:
    code = "from aistemsplitter_async._listeners import Listener; Listener(lambda _: 1 / 0, 'on_event')(1)"
    loud = f"import logging; logging.basicConfig(); {code}"
    for script, shown in ((code, False), (loud, True)):
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert ("ZeroDivisionError" in ended.stderr) is shown
        assert ended.stdout == ""


def test_what_was_not_logged_yet_is_logged_once_logging_is_configured(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(raising(KeyError(), KeyError(), KeyError()), "on_event")
    with monkeypatch.context() as quiet:
        quiet.setattr(logging.getLogger(NAME), "propagate", False)  # as if no handler was configured
        listener(0)
    assert caplog.records == []
    listener(0)
    listener(0)
    assert len(caplog.records) == 1


def test_a_log_that_raises_changes_nothing_either(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: logging.LogRecord) -> bool:
        raise OSError("the log is full")

    caplog.handler.addFilter(refuse)
    listener = Listener(raising(KeyError()), "on_event")
    try:
        listener(0)
    finally:
        caplog.handler.removeFilter(refuse)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_outside_of_an_event_loop_an_interruption_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        Listener(raising(error), "on_event")(0)
    assert caught.value is error


async def coroutine_function(_: object) -> None: ...


async def generator_function(_: object) -> AsyncIterator[int]:
    yield 1


class AsyncObject:
    async def __call__(self, _: object) -> None: ...


ASYNC: list[Any] = [
    coroutine_function,
    partial(coroutine_function),
    generator_function,
    AsyncObject(),
    AsyncObject().__call__,
]


@pytest.mark.parametrize("function", ASYNC, ids=lambda function: type(function).__name__)
def test_an_async_listener_is_refused_where_it_is_given(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="on_event must be an ordinary function, not an async one"):
        AsyncAIStemSplitter("ast_test", on_event=function)
    with pytest.raises(ConfigurationError, match="on_event must be an ordinary function"):
        Gate(on_event=function)
    with pytest.raises(ConfigurationError, match="on_progress must be an ordinary function"):
        BatchItem(source="song.wav", on_progress=function)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="on_event must be a function, not list"):
        as_listener([], "on_event")  # type: ignore[arg-type]


def test_a_listener_that_turns_out_to_be_async_is_refused_at_its_first_call(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[Any] = []

    def listen(value: object) -> object:
        calls.append(coroutine_function(value))
        return calls[-1]

    listener = Listener(listen, "on_event")
    with pytest.warns(RuntimeWarning, match="on_event must be an ordinary function") as warned:
        listener(0)
    listener(0)
    assert len(warned) == len(calls) == 1  # not called again, and "never awaited" is not among the warnings
    assert calls[0].cr_frame is None  # closed
    assert len(caplog.records) == 1


def test_the_refusal_does_not_raise_even_if_warnings_do() -> None:
    listener = Listener[object](lambda value: coroutine_function(value), "on_event")  # noqa: PLW0108  # not visibly async
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        listener(0)


def test_a_listener_is_wrapped_once_so_that_each_kind_is_logged_once() -> None:
    listener = as_listener(print, "on_event")
    assert as_listener(listener, "on_event") is listener
    assert as_listener(None, "on_event") is None
