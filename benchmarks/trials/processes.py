"""Other processes: one that is killed at a write, and one that waits until it is called; and a loop in a thread."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from aistemsplitter_async.journal.store import JournalStore
from benchmarks.trials.timeline import HungError, VirtualLoop


def run_killed(work: Callable[[], Any], point: int, answer: Path) -> Any:
    """Return what `work` returns in a process that is killed at its n-th write, `None` if it was."""
    pid = os.fork()
    if not pid:
        try:
            _kill_at(point)
            answer.write_bytes(pickle.dumps(work()))
        except BaseException:  # noqa: BLE001  # nothing may get out of a forked child
            traceback.print_exc()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return None if os.WIFSIGNALED(status) else pickle.loads(answer.read_bytes())  # noqa: S301  # our own


class Helper:
    """A process that was forked before anything was open, and does something when it is called."""

    def __init__(self, work: Callable[[], str]) -> None:
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                os.close(self._orders)
                if os.read(orders, 1):
                    os.write(answers, work().encode())
            except BaseException:  # noqa: BLE001  # nothing may get out of a forked child
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(orders)
        os.close(answers)

    def call(self) -> str:
        """Let it work, and return what that returned; until then nothing happens here."""
        with suppress(BrokenPipeError):
            os.write(self._orders, b"!")
        return os.read(self._answers, 1000).decode()

    def dismiss(self) -> None:
        os.close(self._orders)
        os.close(self._answers)
        os.waitpid(self._pid, 0)


def run_in_thread_loop(work: Callable[[], Awaitable[object]]) -> str:
    """Await `work` in an event loop of another thread; return what came of it."""
    came: list[str] = []

    async def run() -> None:
        await work()

    def run_loop() -> None:
        loop = VirtualLoop()
        try:
            loop.run_until_complete(run())
        except HungError:
            came.append("hung")
            return  # it cannot be closed
        except Exception as error:  # noqa: BLE001  # returned
            came.append(type(error).__name__)
        else:
            came.append("ran")
        loop.close()

    thread = threading.Thread(target=run_loop)
    thread.start()
    thread.join()
    return came[0]


def _kill_at(point: int) -> None:
    """Let this process be killed at its n-th write to a socket, the journal or a folder."""
    left = [point]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            _count_down(left)
            result = function(*args, **kwargs)
            _count_down(left)
            return result

        return call

    for owner, name in ((socket.socket, "send"), (socket.socket, "sendmsg"), (JournalStore, "commit")):
        setattr(owner, name, counted(getattr(owner, name)))
    for name in ("replace", "link", "unlink", "fsync"):
        setattr(os, name, counted(getattr(os, name)))


def _count_down(left: list[int]) -> None:
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
