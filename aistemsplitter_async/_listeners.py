"""Functions of the caller's that only listen: `on_event`, `on_progress`. Whatever they raise changes nothing here.

They are called amid work that is paid for, between a server's answer and its record, where an exception would lose what
was bought.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import warnings
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Generic, NoReturn, TypedDict, TypeVar

from aistemsplitter_async._logs.loggers import is_handled, is_logged, log_event, theirs
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.errors import AIStemSplitterError, ConfigurationError
from aistemsplitter_async.events import Event, OnEvent

T = TypeVar("T")
E = TypeVar("E", bound=Event)

_log = logging.getLogger(__package__)


class Listener(Generic[T]):
    """Calls a caller's function, and keeps what it raises from the work that it listens to.

    Each kind of exception is logged once. A KeyboardInterrupt or SystemExit, which a signal handler may raise in the
    function, still ends the program: the event loop raises it at its next turn, outside of any work.

    Args:
        function: an ordinary function.
        name: of the caller's argument, for messages.

    Raises:
        ConfigurationError: it cannot be called, or is an async function. One that only turns out to be async when it
            is called is refused then, with a RuntimeWarning, and not called again.
    """

    def __init__(self, function: Callable[[T], object], name: str) -> None:
        if not callable(function):
            raise ConfigurationError(f"{name} must be a function, not {type(function).__name__}")
        if _is_async(function) or _is_async(getattr(function, "__call__", None)):  # noqa: B004  # an object with one
            raise _refusal(name)
        self._function: Callable[[T], object] | None = function
        self._name = name
        self._logged: set[type[BaseException]] = set()

    def __call__(self, value: T) -> None:
        """Call the function with `value`."""
        if self._function is None:
            return
        try:
            result = self._function(value)
            if inspect.iscoroutine(result):  # not a task: that runs by itself
                self._refuse(result)
        except (KeyboardInterrupt, SystemExit) as error:
            _raise_from_loop(error)
        except BaseException as error:  # noqa: BLE001  # also a CancelledError: nothing is awaited here, so it is not ours
            self._note(error)

    def _refuse(self, result: Coroutine[Any, Any, Any]) -> NoReturn:
        self._function = None
        result.close()  # or Python warns that it was never awaited
        error = _refusal(self._name)
        warnings.warn(str(error), RuntimeWarning, stacklevel=3)
        raise error

    def _note(self, error: BaseException) -> None:
        kind = type(error)
        if kind not in self._logged and is_handled(_log):  # else the first one after the log is read is logged
            self._logged.add(kind)
            message = "%s raised %s, which affects nothing else; further ones are not logged"
            with suppress(*theirs()):  # a handler or filter is other people's code, too
                _log.error(message, self._name, kind.__name__, exc_info=error)


def as_listener(function: Callable[[T], object] | None, name: str) -> Listener[T] | None:
    """Return the listener that calls `function`; one that is a listener already as it is. Raises like `Listener`."""
    return function if function is None or isinstance(function, Listener) else Listener(function, name)


class Emitter:
    """Tells a listener, and the log, of events, which are made only if there is a listener, or their level is enabled.

    Args:
        on_event: the listener, if there is one. Raises like `Listener`.
        clock: where time comes from.
    """

    def __init__(self, on_event: OnEvent | None, clock: Clock) -> None:
        self.clock = clock
        self._listener = as_listener(on_event, "on_event")
        self._log = Listener(_log_event, "a handler of logging")  # other people's code as well

    def __call__(self, kind: type[E], build: Callable[[], E]) -> None:
        """Tell of the event that `build` returns, which is of this `kind`."""
        logged = is_logged(kind)
        if self._listener is None and not logged:
            return
        event = build()
        if self._listener is not None:
            self._listener(event)
        if logged:
            self._log(event)


class ErrorFields(TypedDict):
    """The class of an error, and its code if it is ours."""

    error: str | None
    code: str | None


def describe_error(error: BaseException | None) -> ErrorFields:
    """Return what an event says of the error that something ended in, if it did.

    Other people's exceptions have something else by that name: a method, or a property that warns or raises.
    """
    code = error.code if isinstance(error, AIStemSplitterError) else None
    return ErrorFields(error=None if error is None else type(error).__name__, code=code)


def _log_event(event: Event) -> None:
    log_event(event, stacklevel=4)  # the caller of the emitter


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _refusal(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} must be an ordinary function, not an async one: it is called, but nothing waits for it. "
        "Let it start a task, or put what it gets into a queue"
    )


def _raise_from_loop(error: BaseException) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise error from None
    loop.call_soon(partial(_raise, error))


def _raise(error: BaseException) -> NoReturn:
    raise error
