"""The right to send one request."""

from __future__ import annotations

from collections.abc import Callable


class Slot:
    """The right to send one request. Settle it when the reply has come; restore it if nothing was sent.

    The first of `settle`, `refuse` and `restore` counts; later calls do nothing.

    Args:
        taken_at: when it was granted (monotonic seconds).
        on_settle: called with `taken_at`.
        on_refuse: called with `taken_at` and the seconds that the server asked to wait, if it did.
        on_restore: called if the slot was not used.

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
    ) -> None:
        self.waited: float = 0.0
        self._taken_at = taken_at
        self._on_settle = on_settle
        self._on_refuse = on_refuse
        self._on_restore = on_restore
        self._held = True

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
