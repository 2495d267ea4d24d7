"""The pauses of hosts outside the API that answered 429: the upload worker and the CDN. Times are monotonic seconds."""

from __future__ import annotations

import attrs

from aistemsplitter_async._send.retry import Retry
from aistemsplitter_async.config import LONGEST_CLOSED, RetryPolicy
from aistemsplitter_async.errors import RateLimitedError


@attrs.frozen
class _Pause:
    until: float
    ends_with_one: bool  # the wait was too long to be made: it may be nonsense, or the host in real trouble
    asking: bool = False  # that one request is on its way


class HostPauses:
    """Which hosts must not be asked now.

    A pause lasts as long as the host asked for, up to an hour. While more of it is left than a call may wait, calls
    fail at once. After such a pause one request asks, and the others follow when it is answered, or a while later in
    any case: it may be a long transfer.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._pauses: dict[str, _Pause] = {}

    def note_refusal(self, host: str, asked: float | None, retry: Retry | None, *, now: float) -> None:
        """Note that `host` answered 429.

        Args:
            host: whose answer it is.
            asked: seconds that it asked to wait, if it did.
            retry: what the call plans that got the answer.
            now: when it came.
        """
        seconds = retry.delay if retry is not None else asked or self._policy.throttle_backoff
        until, held = now + min(seconds, LONGEST_CLOSED), self._pauses.get(host)
        too_long = asked is not None and asked > self._policy.retry_after_cap
        if held is None or held.asking or until > held.until:
            self._pauses[host] = _Pause(until, too_long)

    def note_answer(self, host: str) -> None:
        """Note that `host` served a request."""
        held = self._pauses.get(host)
        if held is not None and held.asking:
            del self._pauses[host]

    def enter(self, host: str, *, now: float) -> float:
        """Return 0 if a request may be sent to `host`, else the seconds after which to ask again.

        Raises:
            RateLimitedError: that is longer than a call may wait.
        """
        held = self._pauses.get(host)
        left = held.until - now if held is not None else 0.0
        if held is None or (left <= 0 and not held.ends_with_one):
            self._pauses.pop(host, None)
            return 0.0
        if left <= 0:
            self._pauses[host] = _Pause(now + self._policy.throttle_cap, ends_with_one=False, asking=True)
            return 0.0
        if held.ends_with_one and left > self._policy.retry_after_cap:
            raise RateLimitedError(
                f"{host} asked to send nothing for another {left:.0f} s (HTTP 429)", retry_after=left, status_code=429
            )
        return left
