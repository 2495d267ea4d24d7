"""The watchdog of a run: nothing may hang, and nothing may spin, however busy it looks.

**Silence.** A program that is at work shows it. A sign of life is a request that reaches the service, an answer to one,
an outcome, or a result. An hour (virtual) without any is a broken promise, unless a reason can be seen all that time:
a notice of the batch, which says what it waits for.

**Spinning.** Requests alone are no progress. That is only what brings a song further: its first upload that is whole, a
charge, a split that is seen to be done, bytes of a stem that nobody had yet, an outcome. Without it a program may send
so many requests and uploads a song (`_REQUESTS`, `_UPLOADS`), and then few a minute, as one does that probes whether
the service is back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import attrs

HOUR = 3600.0 * 1.02  # s (virtual); what is asked for after exactly an hour comes a little later
_REQUESTS, _REQUESTS_PER_SECOND = 50, 0.5  # a song without progress: all attempts of all its steps; and of probes
_UPLOADS, _UPLOADS_PER_SECOND = 16, 0.2


@attrs.define
class Watchdog:
    """Watches one run.

    Attributes:
        broken: what it found.
        resting: whether the user rests, and not the program.

    Args:
        now: the loop's time.
        songs: how many there are.
        reasons: what can be seen at the moment of why nothing happens.
    """

    _now: Callable[[], float]
    _songs: int
    reasons: Callable[[], Sequence[str]] = lambda: ()
    broken: list[str] = attrs.field(factory=list[str], init=False)
    resting: bool = attrs.field(default=False, init=False)
    _sign: float | None = attrs.field(default=None, init=False)
    _progress: float = attrs.field(default=0.0, init=False)
    _reached: set[Hashable] = attrs.field(factory=set[Hashable], init=False)
    _requests: int = attrs.field(default=0, init=False)
    _uploads: int = attrs.field(default=0, init=False)

    def note_request(self, op: str) -> None:
        """Note that a request has reached the service."""
        self.note_sign()
        self._requests += 1
        self._uploads += op == "upload"
        elapsed = self._now() - self._progress
        if self._requests > self._songs * _REQUESTS + _REQUESTS_PER_SECOND * elapsed:
            self.bark(f"{self._requests} requests in {elapsed:.0f} s brought no song any further")
        if self._uploads > self._songs * _UPLOADS + _UPLOADS_PER_SECOND * elapsed:
            self.bark(f"{self._uploads} uploads in {elapsed:.0f} s brought no song any further")

    def note_sign(self) -> None:
        """Note a sign of life."""
        self._sign = self._now()

    def note_progress(self, what: Hashable) -> None:
        """Note that a song has got further, if it had not got there before."""
        if what not in self._reached:
            self._reached.add(what)
            self._requests = self._uploads = 0
            self._progress = self._now()
            self.note_sign()

    def move_on(self, until: float) -> None:
        """Note that nothing can happen until then."""
        if self._sign is None or self.resting:
            self.note_sign()
        elif until - self._sign > HOUR:
            if self.reasons():
                self.note_sign()
            else:
                self.bark(f"{until - self._sign:.0f} s passed without a sign of life, and nothing says why")

    def bark(self, why: str) -> None:
        """End the run, unless something has done so before."""
        if not self.broken:
            self.broken.append(why)
