"""How long a reservation, and what is uploaded under it, can be used. Nothing here reads a clock.

A lifetime is measured by the server's own times, `expiresAt` less the `Date` of the same reply, and counted from the
arrival of that reply on the monotonic clock: so no wall clock that is wrong, or set meanwhile, makes any difference.

Whether an upload can still be split after its reservation has expired is not published. So the process that made it
uses it in any case: the service decides, and only a refusal that may be about the upload leads to another one.
"""

from __future__ import annotations

from datetime import datetime

import attrs

from aistemsplitter_async.errors import APIStatusError

_LONGEST = 10 * 366 * 86_400.0  # s; "never" is written as the year 9999, which another clock cannot express
_MARGIN = 30.0  # s of network and rounding in which it may have expired already
_UNMEASURED = 60.0  # s that a reservation surely lives if only our own clock, which may be wrong, says how long
_ABOUT_THE_UPLOAD = frozenset({404, 410})
_ABOUT_ANYTHING = frozenset({400, 422})


@attrs.frozen
class Lifetime:
    """The lifetime of a reservation.

    Attributes:
        begins: when the reply came that made it (monotonic seconds).
        seconds: how long it lives from then on; not positive if it had expired already.
        measured: whether the server's own times say so.
    """

    begins: float
    seconds: float
    measured: bool

    @classmethod
    def between(cls, expires_at: datetime, *, server_now: float | None, now: float, begins: float) -> Lifetime:
        """Return the lifetime of a reservation whose reply has just come.

        Args:
            expires_at: the server's word.
            server_now: POSIX seconds by the reply's own `Date`, if it had one.
            now: POSIX seconds by our clock.
            begins: monotonic seconds.
        """
        seconds = expires_at.timestamp() - (now if server_now is None else server_now)
        return cls(begins, max(-_LONGEST, min(_LONGEST, seconds)), measured=server_now is not None)

    @property
    def sure_until(self) -> float:
        """Until when it has surely not expired (monotonic seconds)."""
        seconds = self.seconds - _MARGIN
        return self.begins + (seconds if self.measured else min(seconds, _UNMEASURED))

    def left(self, now: float) -> float:
        """Return the seconds that are left at `now` (monotonic), negative if it has expired."""
        return self.begins + self.seconds - now

    def has_passed(self, now: float) -> bool:
        """Return whether it has expired since it was made. One that had expired before says nothing."""
        return self.seconds > 0 >= self.left(now)


def may_have_expired(refusal: Exception, sure_until: float | None, *, now: float) -> bool:
    """Return whether a create may have been refused because its upload has expired.

    Args:
        refusal: of the create.
        sure_until: of the upload's reservation; `None` if another process made it.
        now: when the create was refused (monotonic seconds).
    """
    if not isinstance(refusal, APIStatusError):
        return False
    if refusal.status_code not in _ABOUT_ANYTHING:
        return refusal.status_code in _ABOUT_THE_UPLOAD
    return sure_until is None or now >= sure_until or "expire" in f"{refusal.code} {refusal.detail}".lower()
