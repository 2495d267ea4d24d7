"""What the thread of the event loop does."""

from __future__ import annotations

import os
import sys
import threading
import time
from asyncio import events
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

# The interpreter's own events, which take microseconds, and the loop's own.
_HARMLESS = ("object.", "sys.", "cpython.", "builtins.", "gc.", "code.", "marshal.", "array.", "compile", "exec")
_OF_THE_LOOP = ("socket.__new__", "socket.connect", "_thread.")
_UNAUDITED = ("stat", "lstat", "access", "fsync", "fdatasync", "statvfs", "read", "pread", "readlink")


class Watch:
    """Notes what the thread of the event loop does. One for a process: an audit hook cannot be removed.

    Attributes:
        blocks: seconds of processor time of each callback.
        seen: what it imported, compiled, opened, or asked the file system, and where in our code.
    """

    def __init__(self) -> None:
        self.blocks: list[float] = []
        self.seen: list[str] = []
        self._thread: int | None = None
        self._is_noting = False

    @contextmanager
    def on(self, *, audit: bool) -> Iterator[None]:
        """Watch this thread."""
        self._thread = threading.get_ident()
        real = events.Handle._run

        def run(handle: Any) -> None:
            began = time.thread_time()
            try:
                real(handle)
            finally:
                self.blocks.append(time.thread_time() - began)

        setattr(events.Handle, "_run", run)  # noqa: B010
        if audit:
            for name in _UNAUDITED:
                setattr(os, name, partial(self._noted, name, getattr(os, name)))
            sys.addaudithook(self._audit)
        try:
            yield
        finally:
            self._thread = None
            setattr(events.Handle, "_run", real)  # noqa: B010

    def _noted(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._audit(f"os.{name}", args)
        return function(*args, **kwargs)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if threading.get_ident() != self._thread or self._is_noting or event.startswith(_HARMLESS + _OF_THE_LOOP):
            return
        self._is_noting = True
        try:
            frame: FrameType | None = sys._getframe(1)
            places = list[str]()
            while frame is not None and len(places) < 3:
                name = frame.f_code.co_filename
                if "importlib" not in name and name != __file__:
                    places.append(f"{Path(name).parent.name}/{Path(name).name}:{frame.f_lineno}")
                frame = frame.f_back
            self.seen.append(f"{event} {str(args[:1])[:80]} at {' < '.join(places)}")
        finally:
            self._is_noting = False
