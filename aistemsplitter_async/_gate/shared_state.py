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
- If the store was emptied, or has an older text again, each process says what it saw last, and what is newer than all
  that is known counts, too; of a bucket, the lower level.
- A text that cannot be read counts as none, but then the window counts as full once: better than an error, which would
  stand until somebody deletes the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

import attrs

from aistemsplitter_async._gate.lanes import Lane, Order, Rank, Turns
from aistemsplitter_async._gate.line import Line
from aistemsplitter_async._gate.memory import GateMemory
from aistemsplitter_async._gate.rate_headers import RateAdvice
from aistemsplitter_async._gate.shared_limiter import SharedLimiter, strictest
from aistemsplitter_async._gate.shared_text import TICKS, Holder, Kept, UnreadableTextError, lineage_of
from aistemsplitter_async._gate.store import Stored
from aistemsplitter_async.config import RateLimit, RetryPolicy

_NEWS_WAIT: Final = 0.5  # s
_RENEWED: Final = 2 / 3  # of a lease that must be left, or it is renewed
_LINEAGES: Final = 2**48  # to draw from
_MOST_LINEAGES: Final = 8  # that are remembered
_BULK: Final = Order(Lane.BULK, Rank.CREATE)


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
        at: the store's time, as the limiter's times are.
        until: when the lease of all that this process holds ends, on the same clock.
        wait: seconds until it is worth asking for those that were wanted and not granted; 0 if there are none.
        limiter: the state after it, to keep: no other has it. `limiter.shift` moves it to another clock.
        news_wait: seconds for which a settled slot need not be told: as long as its age is, nothing is lost by it, and
            one conversation can say more.
        holders: processes that share the key, this one included.
        wanted_elsewhere: calls that wait in the others.
        interactive_at: when an interactive call last came to any of them; -infinity if none did.
    """

    granted: tuple[int, ...]
    at: float
    until: float
    wait: float
    news_wait: float
    limiter: SharedLimiter
    holders: int
    wanted_elsewhere: int
    interactive_at: float


def step(
    stored: Stored, ask: Ask, *, retry: RetryPolicy, lease: float, random: Callable[[], float]
) -> tuple[str | None, Reply]:
    """Return the next text, to be swapped for `stored`, and the reply to `ask` if the swap succeeds.

    `None` for the text means that there is nothing to swap, as when one that waits only looks in: the reply holds.

    Args:
        stored: what the store has.
        ask: what one process says.
        retry: the backoff after a 429.
        lease: seconds without a conversation after which a holder counts as dead.
        random: of 0 to 1.

    Raises:
        StoreUnavailableError: the text is of a newer version.
    """
    kept, was_at, now = _read(stored, ask, retry, random)
    limiter, holders = kept.limiter, kept.holders
    changes, interactive_at = limiter.changes, kept.interactive_at
    _reap(kept, now)
    if ask.last is not None:
        _recall(kept, was_at, ask.last, now, retry=retry, random=random)
    mine = holders.get(ask.me)
    if mine is None:
        mine = holders[ask.me] = Holder(-math.inf, ask.declared, ask.told)
    ticket, until = mine.ticket, mine.until
    mine.until, mine.declared, mine.waiting = now + lease, ask.declared, ask.waiting
    limiter.declare(strictest({id(one.declared): one.declared for one in holders.values()}.values()), now)
    _end(limiter, mine, ask, now)
    for named in ask.named:
        limiter.adopt(named.advice, now, further=named.further, sent=now - named.age)
    if ask.interactive:
        kept.interactive_at = now
    granted, wait = _grant(kept, mine, ask, now, random)
    if ask.leaving:
        del holders[ask.me]
        limiter.reap(len(mine.slots), 0.0, now)
    looked_in = ticket is not None and mine.ticket is ticket and limiter.changes == changes and not ask.over
    lives = until > now + _RENEWED * lease or not mine.slots
    is_said = not ask.interactive or interactive_at + _NEWS_WAIT > now
    is_same = looked_in and lives and is_said and not ask.leaving
    reply = Reply(
        granted=granted,
        at=now,
        until=until if is_same else mine.until,
        wait=wait,
        news_wait=_NEWS_WAIT if _can_wait(limiter, now) else 0.0,
        limiter=limiter,
        holders=len(holders),
        wanted_elsewhere=sum(one.waiting for one in holders.values() if one is not mine),
        interactive_at=kept.interactive_at,
    )
    return (None if is_same else kept.dump()), reply


def _can_wait(limiter: SharedLimiter, now: float) -> bool:
    """Return whether slots that are over hold up no other call while they count as in flight."""
    return 2 * limiter.in_flight < limiter.at_once or now < limiter.free_at(now) < math.inf


def _read(stored: Stored, ask: Ask, retry: RetryPolicy, random: Callable[[], float]) -> tuple[Kept, float, float]:
    """Return what is kept, when it was changed last, and the present time."""
    text = stored.text if stored.text is not None else ask.last
    now = math.floor(stored.now * TICKS) / TICKS
    kept = None
    is_lost = stored.restarted
    if text is not None:
        try:
            kept = Kept.load(text, retry)
            if stored.text is None:
                _branch(kept, kept.at, random)
        except UnreadableTextError:
            is_lost = True
    if kept is None:
        limiter = SharedLimiter(ask.declared, retry, now=now)
        kept = Kept(math.floor(random() * _LINEAGES), now, 0.0, -math.inf, limiter, Turns(), {})
    if is_lost:
        kept.at, kept.ahead, kept.interactive_at, kept.holders = now, 0.0, -math.inf, {}
        kept.limiter.restart(now)
    now, was_at = now + kept.ahead, kept.at
    if now < kept.at:
        kept.ahead += kept.at - now
        now = kept.at
    kept.at = now
    return kept, was_at, now


def _branch(kept: Kept, at: float, random: Callable[[], float]) -> None:
    """Begin a new lineage: others may remember later texts of the old one than that of `at`."""
    kept.recalled[kept.lineage] = at
    kept.lineage = math.floor(random() * _LINEAGES)


def _recall(
    kept: Kept, was_at: float, last: str, now: float, *, retry: RetryPolicy, random: Callable[[], float]
) -> None:
    """Add what `last` knows of the limit and the store, whose text was of `was_at`, does not."""
    lineage, at = lineage_of(last)
    known = {**kept.recalled, kept.lineage: was_at}
    if at <= known.get(lineage, -math.inf):
        return
    with suppress(UnreadableTextError):
        lost = Kept.load(last, retry)
        if lineage == kept.lineage:
            _branch(kept, was_at, random)
        then = max(lost.at, now - kept.ahead + lost.ahead)  # if the clock was set back, no time seems to have passed
        since = max((known[one] for one in (lineage, *lost.recalled) if one in known), default=-math.inf)
        kept.limiter.recall(_newer(lost.limiter.export(then), then - since), now)
        for one, until in (*lost.recalled.items(), (lineage, at)):
            kept.recalled[one] = max(until, kept.recalled.pop(one, -math.inf))
        while len(kept.recalled) > _MOST_LINEAGES:
            del kept.recalled[next(iter(kept.recalled))]


def _newer(memory: GateMemory, age: float) -> GateMemory:
    """Return what is remembered without the slots whose replies came longer than `age` seconds ago."""
    further = [attrs.evolve(one, slots=tuple(slot for slot in one.slots if slot[0] < age)) for one in memory.further]
    return attrs.evolve(memory, ages=tuple(one for one in memory.ages if one < age), further=tuple(further))


def _reap(kept: Kept, now: float) -> None:
    """Settle the slots of holders that have not been heard of for a lease, as if sent when it ended."""
    for name, one in list(kept.holders.items()):
        if one.ticket is not None and one.ticket.is_lost(now):
            one.ticket = None
        if one.until < now:
            if one.slots:
                kept.limiter.reap(len(one.slots), now - one.until, now)
                one.slots.clear()
            if one.ticket is None:
                del kept.holders[name]


def _end(limiter: SharedLimiter, mine: Holder, ask: Ask, now: float) -> None:
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
            limiter.settle_late(now, sent=sent, age=over.age - 1 / TICKS)
        else:
            limiter.occupy(over.age - 1 / TICKS, now)
    mine.heard = ask.told + len(ask.over)
    for slot in mine.slots.keys() - ask.held:
        del mine.slots[slot]
        limiter.restore()
    for slot in ask.held - mine.slots.keys():
        mine.slots[slot] = now
        limiter.take(now)


def _grant(
    kept: Kept, mine: Holder, ask: Ask, now: float, random: Callable[[], float]
) -> tuple[tuple[int, ...], float]:
    """Return the slots that the process is given, and the seconds until it should come back for more."""
    if ask.want <= 0:
        mine.ticket = None
        return (), 0.0
    limiter, order = kept.limiter, ask.order or _BULK
    tickets = (one.ticket for one in kept.holders.values() if one is not mine)
    line = Line([one for one in tickets if one is not None and one.want], kept.turns)
    ticket = line.join(mine.ticket, order, ask.want)
    spare = ask.spare if ticket.order == order else 0  # as when its turn comes among the calls of one process
    share, kept_free = line.share(ticket, limiter, now, latency=ask.latency)
    granted: list[int] = []
    while len(granted) < min(share, ask.want) and limiter.free_at(now, spare=spare + kept_free) <= now:
        limiter.take(now)
        kept.turns.note(order)
        mine.slots[ask.first_id + len(granted)] = now
        granted.append(ask.first_id + len(granted))
    if granted:
        ticket = line.move_back(ticket, order, len(granted))
    if len(granted) == ask.want:
        mine.ticket = attrs.evolve(ticket, due=now) if line.others else None
        return tuple(granted), 0.0
    due, wait = line.place(ticket, limiter, now, spare=spare, latency=ask.latency, chance=random())
    if ticket is mine.ticket and ticket.keeps(due, now):
        return tuple(granted), wait
    mine.ticket = attrs.evolve(ticket, due=due)
    return tuple(granted), wait
