"""Workers on one journal: each song is one worker's, whoever is stopped, killed or slow; no second key is written."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from random import Random
from typing import Any

import pytest

from aistemsplitter_async import ConfigurationError, CreatedSplit, JournalError, LostLeaseError, SpendLimitError
from aistemsplitter_async.journal import postgres, session
from aistemsplitter_async.journal.claims import Claim
from aistemsplitter_async.journal.database import Row
from aistemsplitter_async.journal.record import Record, State
from aistemsplitter_async.journal.session import Session
from aistemsplitter_async.journal.store import JournalStore
from aistemsplitter_async.journal.tables import MIGRATIONS
from tests.core.journal.test_store import CREATED, REFUSED
from tests.e2e.stores.journals import at, bury, claiming, commit, database_of, do, intending, raw

OWNER = {"api": "https://api.test/v1", "key": "abc"}


def test_a_song_is_the_first_workers_and_elsewhere_for_the_others(postgres_dsn: str) -> None:
    place = at(postgres_dsn)
    with closing(JournalStore(place)) as first, closing(JournalStore(place)) as second:
        mine = do(first, claiming("a"))
        theirs = do(second, claiming("a", content="sha256:with other tags"))
        assert (mine.met, theirs.met) == ("new", "elsewhere")
        assert theirs.record == mine.record
        assert do(first, claiming("a")).met == "again"
        with pytest.raises(LostLeaseError) as caught:
            do(second, intending(mine.record.id, "K2"))
        assert caught.value.code == "LOST_LEASE"
        assert [(one.run, one.is_me) for one in do(second, JournalStore.workers)] == [(1, False), (2, True)]
    with closing(JournalStore(place)) as third:  # what is closed is free at once
        assert do(third, claiming("a")).met == "known"


class Unlocked(postgres.PostgresDatabase):
    """Broken: claims look without keeping others out."""

    def lock(self, names: Collection[str]) -> bool:  # noqa: ARG002
        return True


@pytest.mark.parametrize("database", [postgres.PostgresDatabase, Unlocked])
def test_eight_claimers_of_the_same_songs_each_get_their_own_and_nobody_waits(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, database: type[postgres.PostgresDatabase]
) -> None:
    """All songs have the same name, so that they compete for the same folders too."""
    place = at(f"{postgres_dsn}&options=-c%20deadlock_timeout%3D5ms")
    songs = [f"song {number}" for number in range(24)]
    collisions, recover = [], Session.recover

    def note(session: Session, error: Exception, failures: int) -> JournalError | None:
        collisions.append(error)
        return recover(session, error, failures)

    monkeypatch.setattr(Session, "recover", note)
    monkeypatch.setattr("aistemsplitter_async.journal.store.PostgresDatabase", database)
    together = threading.Barrier(8)

    def work(number: int) -> list[Claim]:
        order, claims = Random(number).sample(songs, len(songs)), list[Claim]()  # noqa: S311  # not a secret
        with closing(JournalStore(place)) as store:
            together.wait()
            for begin in range(0, len(order), 6):
                claims += commit(store, *(claiming(name, folder="intro") for name in order[begin : begin + 6]))
            mine = [claim.record.id for claim in claims if claim.met == "new"]
            assert not [one for one in commit(store, *(intending(track, f"key {track}") for track in mine)) if not one]
            together.wait()
        return claims

    with ThreadPoolExecutor(8) as pool:
        claims = [claim for worker in pool.map(work, range(8)) for claim in worker]
    with closing(JournalStore(place)) as store:
        rows = Counter(record.source for record in do(store, lambda store: store.page(0, 1000)))
    if database is Unlocked:
        assert max(rows.values()) > 1, "the same song would be bought twice"
        return
    assert collisions == [], "nobody waited for anybody"
    assert Counter(claim.met for claim in claims) == {"new": 24, "elsewhere": 24 * 7}
    assert set(rows.values()) == {1}
    assert len(rows) == 24


def test_a_stopped_workers_transaction_keeps_nobody_waiting_and_what_it_had_not_committed_is_others(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds a song, its folder and a row of its own, and the process does nothing more."""
    monkeypatch.setattr(session, "_IDLE", 0.2)
    place = at(postgres_dsn)
    with closing(JournalStore(place)) as stopped, closing(JournalStore(place)) as other:
        open_create = do(stopped, claiming("c", folder="intro")).record.id
        do(stopped, intending(open_create, "K1"))
        stopped.begin()
        (pid,) = database_of(stopped).row("SELECT pg_backend_pid()")
        claiming("a", folder="intro")(stopped)
        stopped.uncertain(open_create)
        assert [one.met for one in commit(other, claiming("a"), claiming("b", folder="intro"))] == ["elsewhere", "new"]
        bury(stopped)
        assert do(other, JournalStore.open_creates) == []  # somebody holds it, dead or not
        with raw(place) as connection:
            while connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).rowcount:
                pass
        assert do(other, claiming("a")).met == "new"
        assert [record.state for record in do(other, JournalStore.open_creates)] == [State.INTENT]
        (again,) = commit(stopped, claiming("a"))  # it goes on
        assert again.met == "elsewhere"


def test_what_a_dead_worker_sent_is_taken_over_and_it_can_change_nothing_any_more(postgres_dsn: str) -> None:
    place = at(postgres_dsn)
    with closing(JournalStore(place)) as slow, closing(JournalStore(place)) as other:
        track = do(slow, claiming("a")).record.id
        do(slow, intending(track, "K1"))
        assert do(other, JournalStore.open_creates) == [], "it may be well"
        bury(slow)
        (taken,) = do(other, JournalStore.open_creates)
        assert taken.submission is not None
        assert taken.submission.idempotency_key == "K1"
        assert do(other, JournalStore.open_creates) == [], "those it has are no news"
        late: list[Callable[[JournalStore], Any]] = [
            intending(track, "K2"),
            lambda store: store.refused(track),
            lambda store: store.uncertain(track),
            lambda store: store.created(track, CREATED, 1.0),
            lambda store: store.fail(track, REFUSED, None),
            lambda store: store.resent(track),
            lambda store: store.needs_review(track),
        ]
        assert [type(result) for result in commit(slow, *late)] == [LostLeaseError] * len(late)
        created = CreatedSplit("split_2", "queued", 214, CREATED.created_at)
        record = do(other, lambda store: store.created(track, created, 2.0))
        assert (record.state, record.split_id, record.submission) == (State.CREATED, "split_2", taken.submission)


class Unfenced(postgres.PostgresDatabase):
    """Broken: changes a track whosesoever it is."""

    def change_track(self, track: int, values: Mapping[str, Any], before: Iterable[State] | None = None) -> Row | None:
        self.execute("UPDATE tracks SET owner = ? WHERE id = ?", self._me, track)
        return super().change_track(track, values, before)


@pytest.mark.parametrize("database", [postgres.PostgresDatabase, Unfenced])
def test_without_the_owner_a_late_refusal_would_let_a_second_key_be_written(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, database: type[postgres.PostgresDatabase]
) -> None:
    """The first was refused and stopped before it noted that; meanwhile another one sends the same create again."""
    monkeypatch.setattr("aistemsplitter_async.journal.store.PostgresDatabase", database)
    place = at(postgres_dsn)
    with closing(JournalStore(place)) as slow, closing(JournalStore(place)) as other:
        track = do(slow, claiming("a")).record.id
        do(slow, intending(track, "K1"))
        bury(slow)
        do(other, JournalStore.open_creates)  # and sends it
        commit(slow, lambda store: store.refused(track), intending(track, "K2"))
        record: Record = do(other, lambda store: store.get(track))
        assert record.submission is not None
        assert record.submission.idempotency_key == ("K2" if database is Unfenced else "K1")


def test_a_worker_does_not_take_again_what_it_lost_before_it_has_found_that_out(postgres_dsn: str) -> None:
    """Its first attempt was refused, and it was stopped before it noted that; who took over may have sent it again."""
    place = at(postgres_dsn)
    with (
        closing(JournalStore(place)) as slow,
        closing(JournalStore(place)) as dead,
        closing(JournalStore(place)) as well,
    ):
        track = do(slow, claiming("a")).record.id
        do(slow, intending(track, "K1"))
        bury(slow)
        do(dead, JournalStore.open_creates)  # and sends it
        bury(dead)
        assert do(slow, claiming("a")).met == "elsewhere", "its second source with this song"
        assert do(slow, JournalStore.open_creates) == []
        late = commit(slow, lambda store: store.take(track), lambda store: store.refused(track), intending(track, "K2"))
        assert [type(result) for result in late] == [LostLeaseError] * 3
        do(slow, lambda store: store.release({track}))
        record = do(slow, claiming("a")).record
        assert (record.state, record.submission.idempotency_key) == (State.INTENT, "K1")
        assert do(well, claiming("a")).met == "known", "the slow one is silent"


def test_a_worker_that_is_not_heard_of_creates_nothing(postgres_dsn: str) -> None:
    with closing(JournalStore(at(postgres_dsn))) as store:
        track = do(store, claiming("a")).record.id
        lease = database_of(store)._lease
        assert lease is not None
        lease._renewed -= 60.0  # and no answer since
        (refused,) = commit(store, intending(track, "K1"))
        assert (type(refused), refused.code) == (JournalError, "JOURNAL_DOWN")
        assert do(store, lambda store: store.get(track)).state is State.FOUND
        do(store, lambda store: store.show("well again"))  # it is heard of, not only every quarter of the lease
        while not lease.is_sure:
            pass
        assert do(store, intending(track, "K1")).state is State.INTENT
        assert [worker.status for worker in do(store, JournalStore.workers)] == ["well again"]


def test_workers_spend_no_more_than_their_limit_together(postgres_dsn: str) -> None:
    place = at(postgres_dsn)
    with closing(JournalStore(place)) as first, closing(JournalStore(place)) as second:
        assert do(first, lambda store: store.join_budget(500.0)).left == 500
        assert do(second, lambda store: store.join_budget(500.0)).left == 500
        with pytest.raises(ConfigurationError, match="have a limit of 500 credits together, and this one was given"):
            do(second, lambda store: store.join_budget(400.0))
        a, b = (do(first, claiming(name)).record.id for name in "ab")
        c = do(second, claiming("c")).record.id
        do(first, intending(a, "K1", price=300.0))
        with pytest.raises(SpendLimitError) as caught:
            do(second, intending(c, "K2", price=214.0))
        assert caught.value.code == "SPEND_LIMIT"
        assert do(second, lambda store: store.get(c)).state is State.FOUND
        do(first, lambda store: store.refused(a))
        do(second, intending(c, "K2", price=214.0))
        bury(second)
        do(first, JournalStore.open_creates)
        do(first, lambda store: store.created(c, CREATED, 1.0))
        budget = do(first, JournalStore.budget)
        assert (budget.used, budget.reserved) == (214, 0)
        do(first, intending(b, "K3", price=286.0))
        assert do(first, JournalStore.budget).left == 0
    with closing(JournalStore(place)) as later:
        assert do(later, lambda store: store.join_budget(100.0)).left == 100, "another fleet has its own"


def test_a_worker_that_begins_while_all_others_seem_dead_shares_their_budget_once_they_are_heard_of_again(
    postgres_dsn: str,
) -> None:
    place = at(postgres_dsn)
    with ExitStack() as stack:
        first = stack.enter_context(closing(JournalStore(place)))
        do(first, lambda store: store.join_budget(500.0))
        do(first, intending(do(first, claiming("a")).record.id, "K1", price=200.0))
        bury(first)
        late, later = (stack.enter_context(closing(JournalStore(place))) for _ in range(2))
        for store, name in ((late, "b"), (later, "c")):
            do(store, lambda store: store.join_budget(500.0))
            do(store, intending(do(store, claiming(name)).record.id, f"key {name}", price=100.0))
        assert do(late, JournalStore.budget).left == 300
        with raw(place) as connection:
            connection.execute("UPDATE workers SET until = clock_timestamp() + interval '60 s'")
        for store in (late, first, later, late):
            assert do(store, JournalStore.budget).left == 100
        with pytest.raises(SpendLimitError):
            do(later, intending(do(later, claiming("d")).record.id, "key d", price=150.0))


def test_what_is_set_aside_for_a_create_that_is_sent_again_is_counted_once_and_never_given_back_by_others(
    postgres_dsn: str,
) -> None:
    place = at(postgres_dsn)
    with closing(JournalStore(place)) as slow, closing(JournalStore(place)) as other:
        for store in (slow, other):
            do(store, lambda store: store.join_budget(500.0))
        track = do(slow, claiming("a")).record.id
        do(slow, intending(track, "K1", price=300.0))
        do(slow, lambda store: store.reserve(track, 400.0))  # as a person has confirmed to send it again
        assert do(slow, JournalStore.budget).reserved == 400
        (dear,) = commit(slow, lambda store: store.reserve(track, 600.0))
        assert isinstance(dear, SpendLimitError)
        bury(slow)
        do(other, JournalStore.open_creates)
        (late,) = commit(slow, lambda store: store.reserve(track, 1.0))
        assert isinstance(late, LostLeaseError)
        assert do(other, JournalStore.budget).reserved == 400
        do(other, lambda store: store.created(track, CREATED, 1.0))
        budget = do(other, JournalStore.budget)
        assert (budget.used, budget.reserved) == (214, 0)


def test_a_journal_of_a_newer_version_is_refused_and_one_in_use_is_not_migrated(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, old = at(postgres_dsn), MIGRATIONS
    with ExitStack() as stack:
        running = stack.enter_context(closing(JournalStore(place)))
        monkeypatch.setattr(session, "MIGRATIONS", (*old, "ALTER TABLE tracks ADD COLUMN mood text"))
        with pytest.raises(JournalError, match="workers of an older one are still running"):
            JournalStore(place)
        bury(running)
        with closing(JournalStore(place)) as newer:
            assert do(newer, lambda store: store._db.row("SELECT count(mood) FROM tracks")) == (0,)
        monkeypatch.setattr(session, "MIGRATIONS", old)
        (late,) = commit(running, claiming("a"))  # it was only stopped
        assert isinstance(late, JournalError)
        assert "upgrade this one" in str(late)
        with pytest.raises(JournalError, match="newer version"):
            JournalStore(place)


def test_a_user_without_the_right_to_create_can_use_the_tables_but_not_make_them(postgres_dsn: str) -> None:
    place = at(postgres_dsn)
    schema, user = place.database.schema, f"u{place.database.schema[5:15]}"
    limited = at(postgres_dsn.replace("postgres@", f"{user}@"))
    with raw(place) as admin:
        admin.execute(f"CREATE ROLE {user} LOGIN")
        with pytest.raises(JournalError, match="Let a user who may create schemas open it once") as caught:
            JournalStore(limited)
        assert caught.value.code == "JOURNAL_UNFIT"
        JournalStore(place).close()
        admin.execute(f"GRANT USAGE ON SCHEMA {schema} TO {user}")
        admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user}")
        with closing(JournalStore(limited)) as store:
            assert do(store, claiming("a")).met == "new"
        admin.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


def test_workers_share_a_key(postgres_dsn: str) -> None:
    place = at(postgres_dsn)
    with closing(JournalStore(place)) as first, closing(JournalStore(place)) as second:
        do(first, lambda store: store.bind(OWNER))
        do(second, lambda store: store.bind(OWNER))
        with pytest.raises(JournalError, match="in use with another API key by 1 worker"):
            do(second, lambda store: store.bind(OWNER | {"key": "other"}))


def test_a_schema_may_be_called_like_a_word_of_sql(postgres_dsn: str) -> None:
    place = at(f"{postgres_dsn.partition('&schema=')[0]}&schema=default")
    with closing(JournalStore(place)) as first, closing(JournalStore(place)) as second:
        assert [do(store, claiming("a")).met for store in (first, second)] == ["new", "elsewhere"]
        lease = database_of(first)._lease
        assert lease is not None
        lease._renewed -= 60.0
        do(first, lambda store: store.show("heard"))
        while not lease.is_sure:
            pass
