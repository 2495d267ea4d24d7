"""A worker's lease on its tracks in a shared journal: renewed by a thread, on a connection of its own.

The lease ends by the server's clock, so the clocks of machines need not agree. Whether it was renewed in time is
judged by this machine's own clock, from before the request that renewed it: so a worker distrusts its lease before
others do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aistemsplitter_async._databases.postgres import PostgresURL, connect_options, load_psycopg

if TYPE_CHECKING:
    from psycopg import Connection

_JOIN = 2.0  # s to wait for the thread, which may be waiting for the server
_PAUSE = 0.5  # s after a failure, however often it is due


def uptime() -> float:
    """Return seconds since some moment, those the machine slept included: others' clocks went on then."""
    with suppress(AttributeError, OSError):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Lease:
    """Renews a lease until it is closed.

    Args:
        url: of the database.
        seconds: of the lease.
        statement: renews it, and returns the server's time; it has one value, what the worker shows of itself.
        now: the server's time when the lease was taken (POSIX seconds).
        timeout: seconds to connect.
        clock: `uptime`.
    """

    def __init__(
        self,
        url: PostgresURL,
        seconds: float,
        statement: str,
        *,
        now: float,
        timeout: float,
        clock: Callable[[], float] = uptime,
    ) -> None:
        self._url = url
        self._seconds = seconds
        self._statement = statement
        self._timeout = timeout
        self._clock = clock
        self._renewed = clock()  # the caller has just taken it
        self._ahead = now - self._renewed  # seconds that the server's time is ahead of this clock
        self._status = ""
        self._due = threading.Event()
        self._over = threading.Event()
        self._connection: Connection[Any] | None = None
        self._thread = threading.Thread(target=self._renew_on, name="journal lease", daemon=True)
        self._thread.start()

    @property
    def is_sure(self) -> bool:
        """Whether no other worker can have taken this one for dead."""
        return self.silent_for < self._seconds

    @property
    def silent_for(self) -> float:
        """Seconds since it was renewed last."""
        return self._clock() - self._renewed

    def server_time(self) -> float:
        """Return the server's time (POSIX seconds), whatever this machine takes for the time of day."""
        return self._clock() + self._ahead

    def show(self, status: str) -> None:
        """Renew it at once, with what the worker shows of itself from now on.

        A transaction that wrote that would keep the lease from being renewed until it ends.
        """
        self._status = status
        self._due.set()

    def close(self) -> None:
        """Stop renewing it."""
        self._over.set()
        self._due.set()
        self._thread.join(_JOIN)

    def _renew_on(self) -> None:
        error = load_psycopg().Error
        while not self._over.is_set():
            self._due.wait(self._seconds / 4)
            self._due.clear()
            if self._over.is_set():
                break
            try:
                self._renew()
            except error:
                self._hang_up()
                self._over.wait(_PAUSE)
        self._hang_up()

    def _renew(self) -> None:
        if self._connection is None:
            options = connect_options(self._url, timeout=self._timeout)
            # One that is not answered is replaced before the lease ends.
            self._connection = load_psycopg().Connection.connect(
                **{**options, "tcp_user_timeout": round(self._seconds * 1000 / 4)}
            )
        began = self._clock()
        told = self._connection.execute(self._statement, (self._status,)).fetchone()
        if told is not None:  # else it is not registered any more
            self._renewed, self._ahead = began, told[0] - began

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
