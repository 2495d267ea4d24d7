"""Where several processes keep what they know of one key: a text under compare-and-set, and one clock for all of them.

A store decides nothing. It keeps one text per key and tells its own time; `shared_state.step` makes the next text of
the present one, and a swap that came too late is made again from what is kept then. So nothing is locked between two
round trips, and a client that was stopped in the middle holds up nobody.
"""

from __future__ import annotations

from typing import Protocol

import attrs


class StoreUnavailableError(Exception):
    """A store cannot be used.

    Args:
        message: names the store and the way out, without its secrets.
        permanent: asking again does not help: a refused password, a missing package, a text of a newer version.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


@attrs.frozen
class Stored:
    """What a store keeps for one key.

    Attributes:
        text: what was kept last, `None` if nothing is.
        version: its number, 0 if nothing is kept.
        now: the store's time in seconds, read with or after the text; from any origin, the same for all its clients.
        restarted: the clock began again since the text was written, as after a reboot: its times mean nothing, though
            what was learned holds.
    """

    text: str | None
    version: int
    now: float
    restarted: bool = False


class GateStore(Protocol):
    """Keeps one text per key for all processes that share it.

    Methods raise what they like; every error means that the store cannot be asked now. A `StoreUnavailableError` that
    is permanent means that it need not be asked again. Cancelling a call gives it up; a swap may have been made then.
    """

    async def load(self, key: str) -> Stored:
        """Return what is kept for `key`, and the store's time."""
        ...

    async def swap(self, key: str, version: int, text: str, keep: float) -> bool:
        """Keep `text` if `version` is still that of what is kept, and return whether it was.

        Args:
            key: a name without secrets, at most 100 characters.
            version: what `load` returned, 0 if nothing was kept. The new text has another, higher one.
            text: ASCII, some kilobytes.
            keep: seconds without another swap after which the text may be forgotten.
        """
        ...

    async def aclose(self) -> None:
        """Close what is open. Closing again does nothing."""
        ...
