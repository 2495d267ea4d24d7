"""What the processes that share a key decide together, as one pure function from text to text.

The text has the limiter, and who holds which slots of it. Each process says in one conversation all it has to say:
which slots it holds, which are over and how, what replies named, how many slots it could use. `step` makes of it the
next text and the reply; whoever swaps first is right, and the others step again from what is kept then.

- All times are the store's; a clock that is set back stands still, one that is set forward frees slots early, which is
  a 429 at worst. Clients only say how many seconds ago something was.
- A slot belongs to its holder until it says otherwise or its lease ends. Then the slot counts as sent at that moment:
  its holder may not send any more, but may have until then.
- A swap whose answer was lost may be said again: what was over is counted, so it is heard once, and slots that were
  granted and never arrived are given back, since the holder does not name them.
- A slot that is over and that nobody knows (its holder was thought dead, or the store was emptied) occupies once more:
  too careful, never too free. One that is held and not known is taken again.
- If the store was emptied, whoever comes first says what it saw last. A text that cannot be read counts as none, but
  then the window counts as full once: better than an error, which would stand until somebody deletes the text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import attrs

from aistemsplitter_async._gate.lanes import Order
from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async._gate.shared_limiter import SharedLimiter, dump_limit, load_limit, strictest
from aistemsplitter_async._gate.store import Stored, StoreUnavailableError
from aistemsplitter_async.config import RateLimit, RetryPolicy
from aistemsplitter_async.errors import ConfigurationError

FORMAT: Final = 1  # of the text
_TICKS: Final = 1000.0  # a second, in which holders' times are kept
_UNREADABLE: Final = (
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    ConfigurationError,
)
_PULSE_LEAST, _PULSE_MOST = 0.02, 1.0  # s until it is worth asking again when only a reply can tell


@attrs.frozen
class Over:
    """A slot that is over.

    Attributes:
        slot: its number.
        how: `settle` if it was answered or may have been, `refuse` after a 429, `restore` if nothing was sent.
        age: seconds since that happened.
        retry_after: seconds that a 429 asked to wait, if it did.
    """

    slot: int
    how: Literal["settle", "refuse", "restore"]
    age: float = 0.0
    retry_after: float | None = None


@attrs.frozen
class Named:
    """What the headers of one reply say: `Limiter.adopt`'s arguments, its request sent `age` seconds ago."""

    advice: RateAdvice | None
    further: tuple[RateAdvice, ...] = ()
    age: float = 0.0


@attrs.frozen(kw_only=True)
class Ask:
    """All that one process has to say in one conversation.

    Attributes:
        me: its name, new for every life.
        declared: the limit that it was given.
        held: the numbers of the slots that it holds, without those in `over`. Both must be of one moment, and whatever
            the last reply granted is in one of them.
        over: the slots that are over and were not in an ask that was answered, in the order in which they ended.
        told: how many were in asks that were answered. An ask that failed may have been heard all the same.
        named: what replies said of limits.
        want: slots that it could use at once; at most so many are granted.
        first_id: the number of the first of them; the others follow. Numbers are used for one ask only.
        order: of its best candidate.
        spare: slots that must stay free besides the first one it is given.
        waiting: calls that wait there, for the others to know.
        latency: seconds that its conversations take; those who would come back together are spread by it.
        leaving: it will not come back: what it holds goes the way of a lease that ended, at once.
        last: the text that it swapped or saw last, `None` if none. It holds if the store has been emptied.
    """

    me: str
    declared: RateLimit
    held: frozenset[int] = frozenset()
    over: tuple[Over, ...] = ()
    told: int = 0
    named: tuple[Named, ...] = ()
    want: int = 0
    first_id: int = 0
    order: Order | None = None
    spare: int = 0
    interactive: bool = False
    waiting: int = 0
    latency: float = 0.0
    leaving: bool = False
    last: str | None = None


@attrs.frozen(kw_only=True)
class Reply:
    """What one conversation brought.

    Attributes:
        granted: the numbers of the slots, at most `want`, held from `at` on.
        at: the store's time, as the limiter's times are; never smaller than in an earlier reply.
        wait: seconds until it is worth asking for those that were wanted and not granted; 0 if there are none.
        limiter: the state after it, to keep: nobody else has it. `limiter.shift` moves it to another clock.
        holders: processes that share the key, this one included.
        wanted_elsewhere: calls that wait in the others.
        interactive_at: when an interactive call last came to any of them; -infinity if none did.
    """

    granted: tuple[int, ...]
    at: float
    wait: float
    limiter: SharedLimiter
    holders: int
    wanted_elsewhere: int
    interactive_at: float


@attrs.define
class _Holder:
    until: float  # when its lease ends
    declared: RateLimit
    heard: int = 0  # of the slots that are over
    waiting: int = 0
    slots: dict[int, float] = attrs.field(factory=dict[int, float])  # when each was taken


@attrs.define
class _Kept:
    """The text, parsed."""

    at: float
    ahead: float  # s that the store's clock lags behind, because it was set back
    interactive_at: float
    limiter: SharedLimiter
    holders: dict[str, _Holder]

    def dump(self) -> str:
        limits: dict[RateLimit, int] = {}
        base = math.floor(self.at)
        holders = {
            name: [
                round((one.until - base) * _TICKS),
                limits.setdefault(one.declared, len(limits)),
                one.heard,
                one.waiting,
                [number for slot, taken in one.slots.items() for number in (slot, round((taken - base) * _TICKS))],
            ]
            for name, one in self.holders.items()
        }
        interactive_at = self.interactive_at if math.isfinite(self.interactive_at) else None
        whole = [FORMAT, self.at, self.ahead, interactive_at, self.limiter.dump(), [*map(dump_limit, limits)], holders]
        return json.dumps(whole, separators=(",", ":"))

    @classmethod
    def load(cls, text: str, retry: RetryPolicy) -> _Kept:
        whole = json.loads(text, parse_constant=_refuse_constant)
        if isinstance(whole, list) and whole and isinstance(whole[0], int) and whole[0] > FORMAT:
            raise StoreUnavailableError(
                f"the shared limit is kept in format {whole[0]}, and this version reads {FORMAT}: "
                "upgrade this process, or give the newer ones another store",
                permanent=True,
            )
        version, at, ahead, interactive_at, limiter, declared, holders = whole
        if version != FORMAT:
            raise ValueError(version)
        limits = [load_limit(tuple(limit)) for limit in declared]
        base = math.floor(at)
        parsed: dict[str, _Holder] = {}
        for name, (until, limit, heard, waiting, slots) in holders.items():
            numbers = iter(slots)
            parsed[name] = _Holder(
                until=base + until / _TICKS,
                declared=limits[limit],
                heard=int(heard),
                waiting=int(waiting),
                slots={int(slot): base + taken / _TICKS for slot, taken in zip(numbers, numbers, strict=True)},
            )
        return cls(
            at=float(at),
            ahead=float(ahead),
            interactive_at=-math.inf if interactive_at is None else float(interactive_at),
            limiter=SharedLimiter.load(limiter, retry),
            holders=parsed,
        )


def step(
    stored: Stored, ask: Ask, *, retry: RetryPolicy, lease: float, random: Callable[[], float]
) -> tuple[str, Reply]:
    """Return the next text, to be swapped for `stored`, and the reply to `ask` if the swap succeeds.

    Args:
        stored: what the store has.
        ask: what one process says.
        retry: the backoff after a 429.
        lease: seconds without a conversation after which a holder counts as dead.
        random: of 0 to 1.

    Raises:
        StoreUnavailableError: the text is of a newer version.
    """
    kept, now = _read(stored, ask, retry)
    limiter, holders = kept.limiter, kept.holders
    _reap(kept, now)
    mine = holders.get(ask.me)
    if mine is None:
        mine = holders[ask.me] = _Holder(now, ask.declared, ask.told)
    mine.until, mine.declared, mine.waiting = now + lease, ask.declared, ask.waiting
    limiter.declare(strictest(one.declared for one in holders.values()), now)
    _end(limiter, mine, ask, now)
    for named in ask.named:
        limiter.adopt(named.advice, now, further=named.further, sent=now - named.age)
    if ask.interactive:
        kept.interactive_at = now
    granted: list[int] = []
    free_at = math.inf
    while len(granted) < ask.want:
        free_at = limiter.free_at(now, spare=ask.spare)
        if free_at > now:
            break
        limiter.take(now)
        mine.slots[ask.first_id + len(granted)] = now
        granted.append(ask.first_id + len(granted))
    others = [one for one in holders.values() if one is not mine]
    wait = 0.0
    if len(granted) < ask.want:
        rivals = sum(one.waiting > 0 for one in others)
        rank = int((rivals + 1) * random()) if rivals and not ask.interactive else 0
        later = limiter.free_at(now, spare=ask.spare + rank) if rank else free_at
        pulse = min(_PULSE_MOST, max(_PULSE_LEAST, limiter.latency))
        wait = later - now if math.isfinite(later) else pulse * (1 + rivals * random())
    if ask.leaving:
        mine.until = now
        _reap(kept, now + 1 / _TICKS)
    reply = Reply(
        granted=tuple(granted),
        at=now,
        wait=wait,
        limiter=limiter,
        holders=len(holders),
        wanted_elsewhere=sum(one.waiting for one in others),
        interactive_at=kept.interactive_at,
    )
    return kept.dump(), reply


def _read(stored: Stored, ask: Ask, retry: RetryPolicy) -> tuple[_Kept, float]:
    """Return what is kept, and the present time."""
    text = stored.text if stored.text is not None else ask.last
    now = math.floor(stored.now * _TICKS) / _TICKS
    kept = None
    is_lost = stored.restarted
    if text is not None:
        try:
            kept = _Kept.load(text, retry)
        except _UNREADABLE:
            is_lost = True
    if kept is None:
        kept = _Kept(now, 0.0, -math.inf, SharedLimiter(ask.declared, retry, now=now), {})
    if is_lost:
        kept.at, kept.ahead, kept.interactive_at, kept.holders = now, 0.0, -math.inf, {}
        kept.limiter.restart(now)
    now += kept.ahead
    if now < kept.at:
        kept.ahead += kept.at - now
        now = kept.at
    kept.at = now
    return kept, now


def _reap(kept: _Kept, now: float) -> None:
    """Settle the slots of holders that have not been heard of for a lease, as if sent when it ended."""
    for name in [name for name, one in kept.holders.items() if one.until < now]:
        one = kept.holders.pop(name)
        if one.slots:
            kept.limiter.reap(len(one.slots), now - one.until, now)


def _end(limiter: SharedLimiter, mine: _Holder, ask: Ask, now: float) -> None:
    """Apply what is over, and make the record the same as what the holder holds."""
    for over in ask.over[max(0, mine.heard - ask.told) :]:
        sent = mine.slots.pop(over.slot, None)
        if over.how == "refuse":
            if sent is None:
                limiter.take(now)
            limiter.refuse(now, sent=now if sent is None else sent, retry_after=over.retry_after)
        elif over.how == "restore":
            if sent is not None:
                limiter.restore()
        elif sent is not None:
            limiter.settle_late(now, sent=sent, age=over.age - 1 / _TICKS)
        else:
            limiter.occupy(over.age - 1 / _TICKS, now)
    mine.heard = ask.told + len(ask.over)
    for slot in mine.slots.keys() - ask.held:
        del mine.slots[slot]
        limiter.restore()
    for slot in ask.held - mine.slots.keys():
        mine.slots[slot] = now
        limiter.take(now)


def _refuse_constant(name: str) -> Mapping[str, Any]:
    raise ValueError(name)  # NaN and infinities are no JSON
