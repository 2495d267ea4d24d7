"""Estimates the key's limit from which requests the server accepts and which it refuses.

A declared limit is kept as it is, and no request beyond it is tried. With an unknown limit a few requests are sent at
once: the first refusal shows how many were accepted in the trailing window, which is what fixed and sliding windows
count. From then on the believed limit is used in full, and every few windows one additional request is tried; as long
as it is accepted, so is the next, so a limit that was raised is found again within a window.

A refusal within a declared limit means that the server does not count in windows: from then on requests are spread
evenly, which buckets of any size and weighted counters accept. If that is refused as well, the limit itself must be
lower than believed. After some windows without a refusal, counting is tried again, less and less often.

A refusal when nothing was accepted for a whole window shows only that another client uses the key, or that the server
is busy: it is waited for, and nothing is learned. A limit that the server names in its headers counts as declared.

Further limits, of a day or a second, are kept beside it (`quotas`), and teach nothing about it.

After a refusal nothing is sent until a believed slot is free again and the backoff has passed; then one request is sent
alone, and the others follow only once it is accepted.

All times are monotonic seconds and must not run backwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from aistemsplitter_async._gate.memory import GateMemory
from aistemsplitter_async._gate.quotas import Quotas
from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async._gate.window import BucketWindow, CountingWindow
from aistemsplitter_async.config import LONGEST_CLOSED, RateLimit, RetryPolicy

SEARCH_AFTER = 5.0  # windows without a refusal before an additional request is tried
_UNKNOWN_AT_ONCE = 3  # requests in flight while nothing is known: what the first refusal can cost
_UNPROVEN_AT_ONCE = 4  # until a second window has begun without a refusal; right after a refusal, fewer
_PROVEN_AT_ONCE = 64  # after that; more would only add to the refusals if the limit was lowered meanwhile
_PROOF = 8  # requests accepted beyond a full window, which a weighted counter would have refused
_SMALL_BURST = 0.05  # of the limit: what pacing sends at once, so that no time is lost to latency
_BUCKET_SHARE = 0.8  # of what was accepted before a bucket was first found empty; the rest had been refilled by then
_PACING_MARGIN = 0.98  # of the limit: even spacing is not exactly even after crossing a network
_PACED = 5.0  # windows without a refusal before requests are counted again instead of spread; doubled each time
_TRANSITION = 0.25  # windows of pacing; an earlier refusal is due to the burst that was sent before
_RECENTLY = 3.0  # windows; a second refusal within them is not a coincidence
_LIKELY_TOO_LOW = 20  # requests a window: if fewer were accepted, another client may have used the key
_EARLY_SEARCH = 1.0  # windows after which such a limit is tested, once
_HEADROOM = 1.5  # factor on the requests in flight that a believed limit needs at the present latency
_LATENCY_SHARE = 0.2  # of the newest reply in the smoothed latency
_MOST_DOUBLINGS = 30.0  # of the backoff; more would only overflow


class Limiter:
    """The believed budget of the key: a window whose limit is learned.

    Args:
        limit: what is known.
        retry: `throttle_backoff` and `throttle_cap`, for refusals without a Retry-After.
        now: monotonic seconds.

    Attributes:
        changes: how often its state changed by more than the passing of time.
        quotas: the limits of other windows.
    """

    def __init__(self, limit: RateLimit, retry: RetryPolicy, *, now: float) -> None:
        self._declared = limit
        self._ceiling = limit.requests  # never exceeded: declared, or named in a header
        self._named: tuple[int, float] | None = None  # requests and window in the last header
        self.per = limit.per
        self._retry = retry
        self.believed = limit.requests
        self._counted = CountingWindow(limit.requests if limit.requests is not None else math.inf, limit.per)
        self._is_bucket = limit.policy == "bucket" and limit.requests is not None
        self._bucket = BucketWindow(limit.requests, limit.per, now) if self._is_bucket and limit.requests else None
        self.quotas = Quotas(limit.further, now=now)
        self.closed_until = -math.inf
        self._refused_at = -math.inf
        self._refusals = 0  # since the last accepted request
        self._accepted = _UNPROVEN_AT_ONCE  # of the requests sent since the last refusal; as many before the first
        self._paced_for = _PACED  # windows
        self._paced_at = -math.inf
        self._searching = False
        self._refused_within_limit = False  # once already
        self._may_be_too_low = False  # another client may have used part of the window
        self.changes = 0
        self._latency = 0.0  # s from sending to the reply, smoothed

    @property
    def in_flight(self) -> int:
        """Return how many requests are in flight."""
        return self._counted.in_flight

    def used(self, now: float) -> int:
        """Return how many slots are occupied."""
        return self._counted.used(now)

    def free_at(self, now: float, *, spare: int = 0) -> float:
        """Return when the next request may be sent: `now` or earlier for at once, infinity if that depends on a reply.

        Args:
            now: monotonic seconds.
            spare: further slots that must stay free.
        """
        if now < self.closed_until:
            return self.closed_until
        if self.in_flight >= self._at_once():
            return math.inf
        at = self._believed_free_at(now, spare)
        if at > now and self.in_flight == 0 and self._may_rise() and (not spare or self._believed_free_at(now) > now):
            patience = _EARLY_SEARCH if self._may_be_too_low else SEARCH_AFTER
            search_at = now if self._searching else self._refused_at + patience * self.per
            at = max(now, min(at, search_at))
        return max(at, self.quotas.free_at(now, spare=spare, per=self.per))  # a shorter window's slots are soon back

    def free_within(self, now: float, seconds: float) -> float:
        """Return how many requests the believed limit allows in the next `seconds`: infinity if it is unknown."""
        counted = math.inf if self._is_bucket else self._counted.free_within(now, seconds)
        counted = min(counted, self.quotas.free_within(now, seconds))
        return counted if self._bucket is None else min(counted, self._bucket.free_within(now, seconds))

    def take(self, now: float) -> None:
        """Occupy a slot."""
        self.changes += 1
        self._searching = self._searching or (self._may_rise() and self._believed_free_at(now) > now)
        self._counted.take(now)
        self.quotas.take(now)
        if self._bucket is not None:
            self._bucket.take(now)

    def restore(self) -> None:
        """Free a slot whose request was never sent."""
        self.changes += 1
        self._counted.restore()
        self.quotas.restore()
        if self._bucket is not None:
            self._bucket.restore()

    def settle(self, now: float, *, sent: float) -> None:
        """Note that a request sent at `sent` was accepted, or may have been, which must count the same."""
        self.changes += 1
        self._counted.settle(now)
        self.quotas.settle(now)
        if self._bucket is not None:
            self._bucket.settle(now)
        self._latency += _LATENCY_SHARE * (max(0.0, now - sent) - self._latency)
        if sent >= self._refused_at:
            self._accepted += 1
            self._refusals = 0
        self._count_again(now)
        if self.believed is None:
            return
        accepted = self._counted.accepted(now)
        if self._searching and accepted > self.believed:
            self._believe(min(accepted, self._ceiling or accepted), now)
            self._searching = self.believed != self._ceiling

    def refuse(self, now: float, *, sent: float, retry_after: float | None) -> None:
        """Note that a request sent at `sent` was answered 429, with the wait it asked for (seconds) if it did."""
        self.changes += 1
        self._counted.refuse()
        self.quotas.restore()
        if self._bucket is not None:
            self._bucket.settle(now)
        if sent >= self._refused_at:  # otherwise it was in flight during a refusal that is known already
            self._learn_from_refusal(now)
        doublings = min(self._refusals - 1, _MOST_DOUBLINGS)
        backoff = min(self._retry.throttle_cap, self._retry.throttle_backoff * 2.0**doublings)
        wait = retry_after or backoff  # a Retry-After of 0 s cannot be intended
        if retry_after is None:
            counted = now if self._is_bucket else self._counted.free_at(now)
            for free_at in (counted, self.quotas.free_at(now)):
                wait = max(wait, free_at - now) if math.isfinite(free_at) else wait
        self.close_until(now + min(wait, LONGEST_CLOSED))

    def close_until(self, when: float) -> None:
        """Send nothing before `when`, or before a later time set earlier."""
        self.changes += 1
        self.closed_until = max(self.closed_until, when)

    def export(self, now: float) -> GateMemory:
        """Return the state that should survive a restart."""
        return GateMemory(
            believed=self.believed,
            per=self.per,
            paced=self._bucket is not None and not self._is_bucket,
            full_in=self._bucket.full_in(now) if self._bucket is not None else 0.0,
            ages=tuple(self._counted.ages(now)),
            closed_for=max(0.0, self.closed_until - now),
            further=self.quotas.export(now),
        )

    def recall(self, memory: GateMemory, now: float) -> None:
        """Restore an exported state: the slots in use, and the limit unless one is known already."""
        self.changes += 1
        if self.believed is None and memory.believed is not None:
            self.per = memory.per
            self._counted.set_per(memory.per)
            self._believe(memory.believed, now)
            self._refused_at = now  # so that a higher limit is not searched for at once
            self._may_be_too_low = memory.believed < _LIKELY_TOO_LOW
        self._counted.occupy(memory.ages, now)
        self.quotas.recall(memory.further, now, in_flight=self.in_flight)
        if memory.paced and self._bucket is None and self.believed is not None:
            self._pace(self.believed, now)
            self._refused_at = now
        if self._bucket is not None:
            self._bucket.drain(memory.full_in, now)
        if memory.closed_for:
            self.close_until(now + memory.closed_for)
            self._accepted = 0

    def adopt(
        self, advice: RateAdvice | None, now: float, *, further: Sequence[RateAdvice] = (), sent: float | None = None
    ) -> None:
        """Adopt the limits in a reply's rate headers, but never more than was declared.

        The same values again change nothing: refusals may have taught better since. If no request remains although
        there should be some, another client uses the key: then nothing is sent until the reset.

        Args:
            advice: about the expected window.
            now: monotonic seconds.
            further: about others.
            sent: when the request was sent.
        """
        if advice is not None and advice.requests is not None and advice.per is None:
            per = self.quotas.window_of(advice.requests)
            if per is not None:
                further = [*further, attrs.evolve(advice, per=per)]
                advice = None
        if advice is None or advice.requests is None:
            advice = next((limit for limit in further if limit.per == self.per), advice)
        if advice is not None and advice.requests is not None:
            self._adopt_limit(advice.requests, advice.per or self._declared.per, now)
            further = [*further, advice]  # if a declared one of another window is kept in its place, both hold
        others = [limit for limit in further if limit.per not in (None, self.per)]
        if others:
            self.changes += 1
            sent = now if sent is None else sent
            self.quotas.adopt(others, now, sent=sent, in_flight=self.in_flight, ages=self._counted.settled_ages(now))
        if advice is None:
            return
        if advice.remaining == 0 and advice.reset is not None and self._believed_free_at(now) <= now:
            self.close_until(now + min(advice.reset, self.per))

    def _adopt_limit(self, requests: int, per: float, now: float) -> None:
        if (requests, per) == self._named:
            return
        self.changes += 1
        self._named = requests, per
        declared = self._declared
        if declared.requests is not None and requests / per >= declared.requests / declared.per:
            requests, per = declared.requests, declared.per
        if (requests, per) != (self._ceiling, self.per) or self.believed is None:
            self.per = per
            self._counted.set_per(per)
            self._ceiling = requests
            self._searching = False
            self._believe(requests, now)

    def _learn_from_refusal(self, now: float) -> None:
        accepted = self._counted.accepted(now)
        recently = now - self._refused_at < _RECENTLY * self.per
        self._refused_at = now
        self._refusals += 1
        self._accepted = 0
        self._may_be_too_low = self.believed is None and accepted < _LIKELY_TOO_LOW
        if not accepted or self.quotas.is_full(now):
            return
        if self.believed is None or (self._searching and self._bucket is None):
            self._believe(accepted, now)
        elif self._searching:
            self._believe(min(self.believed, accepted), now)
        elif self._bucket is not None:
            # A declared bucket that was empty early has a smaller capacity than declared: what it accepted at once.
            capacity = _BUCKET_SHARE * accepted if self._is_bucket and not recently else 0.0
            self._bucket.empty(now, capacity=max(self._burst(self.believed), capacity))
            # Right after a burst, a counter that weighs the last window is full even if the declared limit is right.
            is_due_to_pacing = self._ceiling is None or now >= self._paced_at + _TRANSITION * self.per
            if recently and is_due_to_pacing:
                self._believe(min(self.believed, accepted), now)
        elif self.believed == self._ceiling or (recently and self._refused_within_limit):
            self._pace(self.believed, now)
        else:
            self._refused_within_limit = True
            self._believe(min(self.believed, accepted), now)
        self._searching = False

    def _pace(self, requests: int, now: float) -> None:
        """Spread requests evenly from now on."""
        self._paced_at = now
        self._bucket = BucketWindow(requests, self.per / _PACING_MARGIN, now)
        self._bucket.empty(now, capacity=self._burst(requests))
        self._bucket.in_flight = self.in_flight

    def _count_again(self, now: float) -> None:
        """Stop pacing after a while without refusals: another client may have caused the last one."""
        over = self._refused_at + self._paced_for * self.per
        if self._bucket is None or self._is_bucket or self.believed != self._ceiling or now < over:
            return
        self._bucket = None
        self._accepted = 0
        self._paced_for *= 2

    def _believe(self, requests: int, now: float) -> None:
        self.believed = requests
        if not self._is_bucket:
            self._counted.requests = requests
        if self._bucket is not None:
            self._bucket.set_rate(requests * _PACING_MARGIN / self.per, now, capacity=self._burst(requests))

    def _burst(self, requests: int) -> float:
        return max(2.0, _SMALL_BURST * requests)

    def _at_once(self) -> int:
        if not self._accepted:
            return 1
        few = 1 + self._accepted
        if self.believed is None:
            return min(few, _UNKNOWN_AT_ONCE)
        proven = self._accepted >= self.believed + _PROOF
        needed = math.ceil(_HEADROOM * self.believed * self._latency / self.per)
        return max(needed, _PROVEN_AT_ONCE if proven else min(few, _UNPROVEN_AT_ONCE))

    def _may_rise(self) -> bool:
        return self.believed is not None and (self._ceiling is None or self.believed < self._ceiling)

    def _believed_free_at(self, now: float, spare: int = 0) -> float:
        """Return when the believed limit has room, without searching for a higher one."""
        counted = now if self._is_bucket else self._counted.free_at(now, spare=spare)
        return counted if self._bucket is None else max(counted, self._bucket.free_at(now, spare=spare))
