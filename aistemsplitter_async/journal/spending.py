"""What the workers of a shared journal may spend together: set aside with each intent, settled with its answer.

It blocks. A file has one worker, which keeps its own count (`batch.bounds`); there, nothing of this is recorded.
"""

from __future__ import annotations

import math

import attrs

from aistemsplitter_async.errors import ConfigurationError, SpendLimitError
from aistemsplitter_async.journal.binding import Binding
from aistemsplitter_async.journal.database import Database

SPEND_LIMIT = "SPEND_LIMIT"  # the code of a create that may cost more than is left
_MOVED = "counted in another budget"  # why nothing more is spent from one


@attrs.frozen
class SharedBudget:
    """The credits that the workers at work on one journal may spend together.

    Attributes:
        most: all of them together.
        used: by the splits created so far.
        reserved: for creates whose price is not known yet, or that may have happened.
        stopped: why the limit cannot be kept, so that no more may be spent; empty if it can.
        reserved_elsewhere: what of `reserved` is not this worker's.
        kept_elsewhere: what of that nobody gives back: those creates may have happened.
    """

    most: float
    used: float
    reserved: float
    stopped: str = ""
    reserved_elsewhere: float = 0.0
    kept_elsewhere: float = 0.0

    @property
    def left(self) -> float:
        """Credits that no create has cost or may still cost."""
        return self.most - self.used - self.reserved


class Spending(Binding):
    """What may be spent: another layer of `JournalStore`."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self._budget: int | None = None  # its number, once this worker has joined it

    def join_budget(self, most: float) -> SharedBudget | None:
        """Spend no more than `most` credits together with all who are at work; `None` is returned for a file.

        Workers that run at the same time, or one after another without a gap, share one budget.

        Raises:
            ConfigurationError: the others have another limit.
        """
        if not self._db.is_shared:
            return None
        self._db.execute(
            "INSERT INTO credit_budget (first_run, most) VALUES (?, ?) ON CONFLICT (first_run) DO NOTHING",
            *(self._db.first_run, most),
        )
        row = self._db.row("SELECT id, most FROM credit_budget WHERE first_run = ?", self._db.first_run)
        assert row is not None  # noqa: S101  # it was just written
        if row[1] != most:
            theirs, ours = (_in_words(limit) for limit in (row[1], most))
            raise ConfigurationError(
                f"the workers on {self.place} have {theirs} together, and this one was given {ours}; give all of "
                "them the same max_credits (--max-credits), or start this one once they have ended"
            )
        self._budget = int(row[0])
        return self.budget()

    def budget(self) -> SharedBudget | None:
        """Return the budget as all workers have left it; `None` if this one has joined none."""
        if self._budget is None:
            return None
        budget = self._share_older(self._budget)
        row = self._db.row("SELECT most, used, reserved, stopped FROM credit_budget WHERE id = ?", budget)
        if row is None:
            return None
        most, used, reserved, stopped = row
        stopped = "" if stopped == _MOVED else stopped
        return SharedBudget(most, used, reserved, stopped, *self._db.reserved_elsewhere(budget))

    def _share_older(self, ours: int) -> int:
        """Return the budget of workers that began before this one's fleet, if they only seemed to have left by then.

        So it is where a server was gone for longer than a lease, and a worker begins before the others are heard of
        again. What this fleet has spent and set aside by now counts there as spent.
        """
        older = self._db.row("SELECT id FROM credit_budget WHERE first_run = ?", self._db.oldest_run())
        if older is None or older[0] == ours:
            return ours
        if self._db.execute("UPDATE credit_budget SET stopped = ? WHERE id = ? AND stopped = ''", _MOVED, ours):
            spent = self._db.row("SELECT used + reserved FROM credit_budget WHERE id = ?", ours)
            assert spent is not None  # noqa: S101  # nobody deletes it
            self._db.execute("UPDATE credit_budget SET used = used + ? WHERE id = ?", spent[0], older[0])
        else:  # that was committed, by whichever worker of this fleet came first
            self._budget = int(older[0])
        return int(older[0])

    def stop_spending(self, reason: str) -> None:
        """Let no worker set aside anything more."""
        if self._budget is not None:
            self._db.execute("UPDATE credit_budget SET stopped = ? WHERE id = ?", reason, self._budget)

    def reserve(self, track: int, price: float) -> None:
        """Set aside what a create of this worker's track may cost, if this worker has joined a budget.

        Raises:
            SpendLimitError: it may cost more than is left for all workers (`code` is `SPEND_LIMIT`).
            LostLeaseError: the track is another worker's now.
        """
        if self._budget is None:
            return
        before = self._db.row("SELECT budget, reserved FROM tracks WHERE id = ?", track)
        self._db.change_track(track, {"budget": self._budget, "reserved": price})  # first of all: it may be another's
        budget, reserved = before if before is not None else (None, 0.0)
        # What an earlier create of it had set aside, which a person has now confirmed to send again, is replaced.
        change = price - (reserved if budget == self._budget else 0.0)
        fits = self._db.execute(
            "UPDATE credit_budget SET reserved = reserved + ? "
            "WHERE id = ? AND used + reserved + ? <= most AND stopped = ''",
            *(change, self._budget, change),
        )
        if fits and budget not in (None, self._budget):
            self._db.execute("UPDATE credit_budget SET reserved = reserved - ? WHERE id = ?", reserved, budget)
        if not fits:
            self._db.change_track(track, {"budget": budget, "reserved": reserved})
            known = self.budget()
            assert known is not None  # noqa: S101  # nobody deletes it
            raise SpendLimitError(
                f"the next split, of {price:,g} credits, would exceed the {known.most:g} credits that the workers on "
                f"{self.place} may spend together ({known.used:g} are spent, {known.reserved:g} set aside); raise the "
                "limit to go on",
                code=SPEND_LIMIT,
            )

    def overrun(self, credits_used: float) -> None:
        """Note that splits cost that much more in the end than was charged for them at first."""
        if self._budget is not None:
            self._db.execute("UPDATE credit_budget SET used = used + ? WHERE id = ?", credits_used, self._budget)

    def _settle(self, track: int, cost: float | None) -> None:
        """End what was set aside for a track: it cost `cost`, or as much as was set aside where that is not known."""
        if not self._db.is_shared:
            return
        row = self._db.row("SELECT budget, reserved FROM tracks WHERE id = ? AND budget IS NOT NULL", track)
        if row is None:
            return
        budget, reserved = row
        self._db.execute(
            "UPDATE credit_budget SET reserved = reserved - ?, used = used + ? WHERE id = ?",
            *(reserved, reserved if cost is None else cost, budget),
        )
        self._db.change_track(track, {"budget": None, "reserved": 0.0})


def _in_words(most: float) -> str:
    return f"a limit of {most:g} credits" if most < math.inf else "no limit"
