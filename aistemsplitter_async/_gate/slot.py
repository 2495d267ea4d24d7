"""The right to send one request."""

from __future__ import annotations

from collections.abc import Callable

from aistemsplitter_async._sleep import Readings, seconds_between


class Lease:
    """How long a process may use the slots that it got from a store. Others have them soon after its end.

    It is counted from before the store was asked, on clocks that go on while the machine sleeps: a process that was
    stopped for a while, together with its timers, knows at once that it is over.

    Args:
        seconds: how long it is.
        read: returns the machine's clocks.
        asked: what they said before the store was asked.
    """

    def __init__(self, seconds: float, read: Callable[[], Readings], asked: Readings) -> None:
        self._seconds = seconds
        self._read = read
        self._asked = asked

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return seconds_between(self._asked, self._read()) >= self._seconds

    def renew(self, seconds: float, asked: Readings) -> None:
        """Let it last `seconds` from `asked` on: the store was told in time that the process lives."""
        self._seconds, self._asked = seconds, asked


class Slot:
    """The right to send one request. Settle it when the reply has come; restore it if nothing was sent.

    The first of `settle`, `refuse` and `restore` counts; later calls do nothing.

    Args:
        taken_at: when it was granted (monotonic seconds).
        on_settle: called with `taken_at`.
        on_refuse: called with `taken_at` and the seconds that the server asked to wait, if it did.
        on_restore: called if the slot was not used.
        lease: for how long it may be used, if others have it after that.

    Attributes:
        waited: how many seconds its caller waited for it, if it did.
    """

    def __init__(
        self,
        taken_at: float,
        *,
        on_settle: Callable[[float], None],
        on_refuse: Callable[[float, float | None], None],
        on_restore: Callable[[], None],
        lease: Lease | None = None,
    ) -> None:
        self.waited: float = 0.0
        self._taken_at = taken_at
        self._on_settle = on_settle
        self._on_refuse = on_refuse
        self._on_restore = on_restore
        self._lease = lease
        self._held = True

    @property
    def is_stale(self) -> bool:
        """Whether it is too late to send a request with it: restore it then, and ask for another one."""
        return self._lease is not None and self._lease.is_over

    def settle(self) -> None:
        """Give the slot back one window from now."""
        if self._release():
            self._on_settle(self._taken_at)

    def refuse(self, retry_after: float | None) -> None:
        """Note that the request was answered 429, which closes the gate.

        It stays closed for `retry_after` seconds if the server said so, else until a believed slot is free again.
        """
        if self._release():
            self._on_refuse(self._taken_at, retry_after)

    def restore(self) -> None:
        """Give the slot back at once: its request was never sent."""
        if self._release():
            self._on_restore()

    def _release(self) -> bool:
        held, self._held = self._held, False
        return held
