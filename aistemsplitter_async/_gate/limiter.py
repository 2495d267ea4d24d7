"""What the key's limit is believed to be, learned from what the server lets in and what it refuses.

A declared limit is kept as it is, and never a request beyond it is tried. An unknown one begins with a few requests at
once: the first refusal tells how many were accepted in the trailing window, which is what fixed and sliding windows
count. From then on the believed limit is used in full, and every few windows one request more is tried; as long as that
is let in, the next one is too, so a limit that was raised is found again within a window.

A refusal inside a limit that was declared means that the server does not count in windows: from then on requests are
spread evenly, which buckets of any size and weighted counters accept. If that is refused as well, the limit itself must
be lower than believed. After some windows without a refusal counting is tried again, less and less often.

A refusal when nothing was let in for a whole window says only that somebody else uses the key, or that the server is
busy: it is waited for, and nothing is learned. A limit that the server names in its headers counts as declared.

After a refusal nothing is sent until a believed slot is free again and the backoff has passed; then one request goes
alone, and only when it is let in the others follow.

All times are monotonic seconds and must not run backwards.
"""

from __future__ import annotations

import math

from aistemsplitter_async._gate.memory import GateMemory
from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async._gate.window import BucketWindow, CountingWindow
from aistemsplitter_async.config import RateLimit, RetryPolicy

SEARCH_AFTER = 5.0  # windows without a refusal before one request more is tried
_UNKNOWN_AT_ONCE = 3  # requests in flight while nothing is known: what the first refusal can cost
_UNPROVEN_AT_ONCE = 4  # while a second window has not begun without a refusal; right after one, fewer
_PROVEN_AT_ONCE = 64  # afterwards; more only adds to what a limit lowered meanwhile refuses
_PROOF = 8  # requests let in beyond a window's full: a counter that fades its windows would not have let them in
_SMALL_BURST = 0.05  # of the limit: what pacing sends at once, so that a reply's travel time is not lost
_BUCKET_SHARE = 0.8  # of what was let in when a bucket was first found dry; the rest had flowed in meanwhile
_PACING_MARGIN = 0.98  # of the limit: evenly is not exactly evenly once it has crossed a network
_PACED = 5.0  # windows without a refusal before requests are counted again and not spread; doubled each time
_TRANSITION = 0.25  # windows of pacing until a refusal speaks of it, and not of the burst that was sent before
_RECENTLY = 3.0  # windows; a second refusal within them is not a coincidence
_HASTY = 20  # requests a window: fewer at the first refusal, and somebody else may have been using the key just before
_SOON = 1.0  # windows after which such a limit is doubted, once
_HEADROOM = 1.5  # times what a believed limit needs at once while replies take as long as they do
_LATENCY_SHARE = 0.2  # of the newest reply in the smoothed latency
_MOST_DOUBLINGS = 30.0  # of the backoff; more would only overflow


class Limiter:
    """The key's budget as it is believed to be: a `Window` that learns.

    Args:
        limit: what is known.
        retry: `throttle_backoff` and `throttle_cap`, for refusals that do not say how long.
        now: monotonic seconds.
    """

    def __init__(self, limit: RateLimit, retry: RetryPolicy, *, now: float) -> None:
        self._declared = limit
        self._ceiling = limit.requests  # never to be exceeded: declared, or named in a header
        self._named: tuple[int, float] | None = None  # what the last header named: requests and window
        self.per = limit.per
        self._retry = retry
        self.believed = limit.requests
        self._counted = CountingWindow(limit.requests if limit.requests is not None else math.inf, limit.per)
        self._is_bucket = limit.policy == "bucket" and limit.requests is not None
        self._bucket = BucketWindow(limit.requests, limit.per, now) if self._is_bucket and limit.requests else None
        self.closed_until = -math.inf
        self._refused_at = -math.inf
        self._refusals = 0  # since the last request that was let in
        self._let_in = _UNPROVEN_AT_ONCE  # of what was sent since the last refusal; as if so many before the first
        self._paced_for = _PACED  # windows
        self._paced_at = -math.inf
        self._searching = False
        self._doubted = False  # a learned limit was refused once already
        self._hasty = False  # the limit was learned so low that others may have used the window
        self._latency = 0.0  # s from sending to the reply, smoothed

    @property
    def in_flight(self) -> int:
        """Return how many requests are on their way."""
        return self._counted.in_flight

    def used(self, now: float) -> int:
        """Return how many slots are occupied."""
        return self._counted.used(now)

    def free_at(self, now: float, *, spare: int = 0) -> float:
        """Return when the next request may be sent: `now` or earlier if at once, infinity if only a reply can tell.

        Args:
            now: monotonic seconds.
            spare: slots that must stay free besides.
        """
        if now < self.closed_until:
            return self.closed_until
        if self.in_flight >= self._at_once():
            return math.inf
        at = self._believed_free_at(now, spare)
        if at > now and self.in_flight == 0 and self._may_rise() and (not spare or self._believed_free_at(now) > now):
            patience = _SOON if self._hasty else SEARCH_AFTER
            search_at = now if self._searching else self._refused_at + patience * self.per
            return max(now, min(at, search_at))
        return at

    def free_within(self, now: float, seconds: float) -> float:
        """Return how many requests the believed limit allows in the next `seconds`: infinity if nothing is known."""
        counted = math.inf if self._is_bucket else self._counted.free_within(now, seconds)
        return counted if self._bucket is None else min(counted, self._bucket.free_within(now, seconds))

    def take(self, now: float) -> None:
        """Occupy a slot."""
        self._searching = self._searching or (self._may_rise() and self._believed_free_at(now) > now)
        self._counted.take(now)
        if self._bucket is not None:
            self._bucket.take(now)

    def restore(self) -> None:
        """Give back a slot whose request was never sent."""
        self._counted.restore()
        if self._bucket is not None:
            self._bucket.restore()

    def settle(self, now: float, *, sent: float) -> None:
        """Note that a request sent at `sent` was let in (or that nothing is known of it, which must count as that)."""
        self._counted.settle(now)
        if self._bucket is not None:
            self._bucket.settle(now)
        self._latency += _LATENCY_SHARE * (max(0.0, now - sent) - self._latency)
        if sent >= self._refused_at:
            self._let_in += 1
            self._refusals = 0
        self._count_again(now)
        if self.believed is None:
            return
        let_in = self._counted.accepted(now)
        if self._searching and let_in > self.believed:
            self._believe(min(let_in, self._ceiling or let_in), now)
            self._searching = self.believed != self._ceiling

    def refuse(self, now: float, *, sent: float, retry_after: float | None) -> None:
        """Note that a request sent at `sent` was answered 429, with the wait it asked for (seconds) if it did."""
        self._counted.refuse()
        if self._bucket is not None:
            self._bucket.settle(now)
        if sent >= self._refused_at:  # else it was under way when the refusal that is known already came
            self._learn_from_refusal(now)
        doublings = min(self._refusals - 1, _MOST_DOUBLINGS)
        backoff = min(self._retry.throttle_cap, self._retry.throttle_backoff * 2.0**doublings)
        wait = retry_after or backoff  # "after 0 s" is no answer to a refusal
        if retry_after is None:
            free_at = self._counted.free_at(now)
            if not self._is_bucket and math.isfinite(free_at):
                wait = max(wait, free_at - now)
        self.close_until(now + wait)

    def close_until(self, when: float) -> None:
        """Send nothing before `when`; an earlier end than the one known changes nothing."""
        self.closed_until = max(self.closed_until, when)

    def export(self, now: float) -> GateMemory:
        """Return what is to be kept over a restart."""
        return GateMemory(
            believed=self.believed,
            per=self.per,
            paced=self._bucket is not None and not self._is_bucket,
            full_in=self._bucket.full_in(now) if self._bucket is not None else 0.0,
            ages=tuple(self._counted.ages(now)),
            closed_for=max(0.0, self.closed_until - now),
        )

    def recall(self, memory: GateMemory, now: float) -> None:
        """Take in what was exported: the slots in use, and what was learned where it is not known better by now."""
        if self.believed is None and memory.believed is not None:
            self.per = memory.per
            self._counted.set_per(memory.per)
            self._believe(memory.believed, now)
            self._refused_at = now  # it is not searched for more at once
            self._hasty = memory.believed < _HASTY
        self._counted.occupy(memory.ages, now)
        if memory.paced and self._bucket is None and self.believed is not None:
            self._pace(self.believed, now)
            self._refused_at = now
        if self._bucket is not None:
            self._bucket.drain(memory.full_in, now)
        if memory.closed_for:
            self.close_until(now + memory.closed_for)
            self._let_in = 0

    def adopt(self, advice: RateAdvice, now: float) -> None:
        """Believe what a reply's rate headers say, but never more than was declared.

        The same word again changes nothing: where refusals have taught something else, they know better. When nothing
        is left although there should be room, somebody else uses the key: then everybody waits as told.
        """
        if advice.requests is not None:
            self._adopt_limit(advice.requests, advice.per or self._declared.per, now)
        if advice.remaining == 0 and advice.reset is not None and self._believed_free_at(now) <= now:
            self.close_until(now + min(advice.reset, self.per))

    def _adopt_limit(self, requests: int, per: float, now: float) -> None:
        if (requests, per) == self._named:
            return
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
        let_in = self._counted.accepted(now)
        recently = now - self._refused_at < _RECENTLY * self.per
        self._refused_at = now
        self._refusals += 1
        self._let_in = 0
        self._hasty = self.believed is None and let_in < _HASTY
        if not let_in:
            return
        if self.believed is None or (self._searching and self._bucket is None):
            self._believe(let_in, now)
        elif self._searching:
            self._believe(min(self.believed, let_in), now)
        elif self._bucket is not None:
            # A declared bucket that ran dry early is smaller than its rate: as large as what it let in at once.
            held = _BUCKET_SHARE * let_in if self._is_bucket and not recently else 0.0
            self._bucket.empty(now, capacity=max(self._burst(self.believed), held))
            # Right after a burst a counter that weighs its last window is full, though a declared limit is right.
            told = self._ceiling is None or now >= self._paced_at + _TRANSITION * self.per
            if recently and told:
                self._believe(min(self.believed, let_in), now)
        elif self.believed == self._ceiling or (recently and self._doubted):
            self._pace(self.believed, now)
        else:
            self._doubted = True
            self._believe(min(self.believed, let_in), now)
        self._searching = False

    def _pace(self, requests: int, now: float) -> None:
        """Spread requests evenly from now on."""
        self._paced_at = now
        self._bucket = BucketWindow(requests, self.per / _PACING_MARGIN, now)
        self._bucket.empty(now, capacity=self._burst(requests))
        self._bucket.in_flight = self.in_flight

    def _count_again(self, now: float) -> None:
        """Stop pacing when that has gone well for a while: a refusal may have been somebody else's doing."""
        over = self._refused_at + self._paced_for * self.per
        if self._bucket is None or self._is_bucket or self.believed != self._ceiling or now < over:
            return
        self._bucket = None
        self._let_in = 0
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
        if not self._let_in:
            return 1
        few = 1 + self._let_in
        if self.believed is None:
            return min(few, _UNKNOWN_AT_ONCE)
        proven = self._let_in >= self.believed + _PROOF
        needed = math.ceil(_HEADROOM * self.believed * self._latency / self.per)
        return max(needed, _PROVEN_AT_ONCE if proven else min(few, _UNPROVEN_AT_ONCE))

    def _may_rise(self) -> bool:
        return self.believed is not None and (self._ceiling is None or self.believed < self._ceiling)

    def _believed_free_at(self, now: float, spare: int = 0) -> float:
        """Return when the believed limit has room, searching left aside."""
        counted = now if self._is_bucket else self._counted.free_at(now, spare=spare)
        return counted if self._bucket is None else max(counted, self._bucket.free_at(now, spare=spare))
