"""A shared journal's connection breaks at any moment, even amid a commit: what was kept is found out, never guessed."""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from aistemsplitter_async import JournalError
from aistemsplitter_async.journal import session
from aistemsplitter_async.journal.record import State
from aistemsplitter_async.journal.session import Session
from aistemsplitter_async.journal.store import JournalStore
from tests.e2e.stores.conftest import StartServer
from tests.e2e.stores.journals import at, claiming, commit, database_of, do, intending, raw
from tests.e2e.stores.proxy import Cut, Proxy, proxy


def through(running: Proxy, dsn: str) -> str:
    schema = parse_qs(urlsplit(dsn).query)["schema"][0]
    return f"postgresql://postgres@127.0.0.1:{running.port}/postgres?sslmode=disable&schema={schema}"


def socket_of(dsn: str) -> str:
    return str(Path(parse_qs(urlsplit(dsn).query)["host"][0], ".s.PGSQL.5432"))


@pytest.mark.parametrize("cut", ["before", "after", "late"])
def test_a_commit_whose_answer_was_lost_is_neither_lost_nor_made_twice(
    postgres_dsn: str, cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ask = list[str](), Session._ask_for

    with proxy(socket_of(postgres_dsn)) as running, closing(JournalStore(at(through(running, postgres_dsn)))) as store:

        def note(session: Session, xid: str) -> str:
            asked.append(ask(session, xid))
            running.release()
            return asked[-1]

        monkeypatch.setattr(Session, "_ask_for", note)
        track = do(store, claiming("a")).record.id
        setattr(running, "cut", cut)  # noqa: B010  # mypy would think that it stays
        record, _ = commit(store, intending(track, "K1"), lambda store: store.set_note("count", "1"))
        assert record.state is State.INTENT, "had it been made twice, the second would be refused"
        assert running.cut is None
        kept = do(store, lambda store: store.get(track))
    assert kept == record
    assert asked[-1] == ("aborted" if cut == "before" else "committed")
    assert cut != "late" or asked[0] == "in progress"


def test_who_took_a_lost_answer_for_a_failure_would_make_a_commit_twice(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: without asking, an intent that was kept is refused, and its create never sent."""
    monkeypatch.setattr(Session, "_was_committed", lambda _self, _xid: False)
    with proxy(socket_of(postgres_dsn)) as running, closing(JournalStore(at(through(running, postgres_dsn)))) as store:
        track = do(store, claiming("a")).record.id
        running.cut = "after"
        (refused,) = commit(store, intending(track, "K1"))
    assert isinstance(refused, JournalError)


def test_a_server_that_has_lost_what_it_kept_before_ends_the_batch_rather_than_guess(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(socket_of(postgres_dsn)) as running, closing(JournalStore(at(through(running, postgres_dsn)))) as store:
        ask, place = Session._ask_for, at(postgres_dsn)

        def forget(session: Session, xid: str) -> str:
            with raw(place) as connection:
                connection.execute("DELETE FROM commits")
            return ask(session, xid)

        monkeypatch.setattr(Session, "_ask_for", forget)
        running.cut = "before"
        (unknown,) = commit(store, claiming("a"))
    assert isinstance(unknown, JournalError)
    assert "does not know what became of a commit" in str(unknown)
    assert unknown.code == "JOURNAL_UNFIT"


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("other", ["in the future", "of another transaction"])
def test_the_servers_number_of_a_transaction_is_not_relied_on_after_a_crash(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, cut: Cut, other: str
) -> None:
    """A crash forgets numbers of which nothing was on the disk: it gives them away again, or has not come to them."""
    with proxy(socket_of(postgres_dsn)) as running, closing(JournalStore(at(through(running, postgres_dsn)))) as store:
        ask, place = Session._ask_for, at(postgres_dsn)
        with raw(place) as connection:
            connection.execute("BEGIN; INSERT INTO meta VALUES ('other', '')")
            (xid,) = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
            connection.execute("COMMIT")
        number = xid if other == "of another transaction" else str(int(xid) + 10**6)
        monkeypatch.setattr(Session, "_ask_for", lambda session, _: ask(session, number))
        track = do(store, claiming("a")).record.id
        setattr(running, "cut", cut)  # noqa: B010  # mypy would think that it stays
        record = do(store, intending(track, "K1"))
        assert do(store, lambda store: store.get(track)) == record
        assert record.state is State.INTENT


def test_writes_fail_as_ones_that_may_pass_while_the_server_is_down_and_go_on_once_it_is_back(
    start_server: StartServer,
) -> None:
    server = start_server("postgres", own="restarted")
    with closing(JournalStore(at(server["url"]))) as store:
        track = do(store, claiming("a")).record.id
        os.kill(server["pid"], signal.SIGKILL)
        down = do_until_down(store, track)
        assert (type(down), down.code) == (JournalError, "JOURNAL_DOWN")
        start_server("postgres", own="restarted")
        assert do(store, intending(track, "K1")).state is State.INTENT
        with raw(at(server["url"])) as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()")
        assert do(store, lambda store: store.get(track)).state is State.INTENT, (
            "one that only broke is replaced at once"
        )


def do_until_down(store: JournalStore, track: int) -> Any:
    while True:
        (result,) = commit(store, lambda store: store.get(track))
        if isinstance(result, BaseException):
            return result


def test_a_journal_is_closed_although_its_server_hangs(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "JOURNAL_CONNECT", 0.05)
    place = at(postgres_dsn)
    store = JournalStore(place)
    track = do(store, claiming("a")).record.id
    with raw(place) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN; LOCK TABLE tracks")
        database_of(store)._session._begin = "BEGIN; SET LOCAL search_path = " + place.database.schema
        hanging = pool.submit(commit, store, lambda store: store.get(track))
        store.hurry()
        (failed,) = hanging.result(timeout=30)
        assert isinstance(failed, JournalError)
        other.execute("ROLLBACK")
    store.close()


def test_nothing_is_expected_of_the_session_between_transactions(postgres_dsn: str) -> None:
    """As with a pooler that gives each transaction another one."""
    with closing(JournalStore(at(f"{postgres_dsn}&options=-c%20synchronous_commit%3Doff"))) as store:
        connection = database_of(store)._session
        track = do(store, claiming("a")).record.id
        connection.hang_up()
        assert do(store, intending(track, "K1")).state is State.INTENT
        connection.hang_up()
        settings = "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation')"
        assert do(store, lambda store: store._db.row(settings)) == ("on", "read committed")
        assert connection._connection is not None
        assert connection._connection.execute("SHOW synchronous_commit").fetchone() == ("off",)


def test_a_stricter_commit_is_kept(postgres_dsn: str) -> None:
    with closing(JournalStore(at(f"{postgres_dsn}&options=-c%20synchronous_commit%3Dremote_apply"))) as store:
        assert do(store, lambda store: store._db.row("SHOW synchronous_commit")) == ("remote_apply",)


def test_a_deadlock_is_run_again(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    errors, recover = list[str](), Session.recover

    def note(session: Session, error: Exception, failures: int) -> JournalError | None:
        errors.append(type(error).__name__)
        return recover(session, error, failures)

    monkeypatch.setattr(Session, "recover", note)
    with closing(JournalStore(at(f"{postgres_dsn}&options=-c%20deadlock_timeout%3D5ms"))) as store:
        first, second = (do(store, claiming(name)).record.id for name in ("a", "b"))
        with raw(at(postgres_dsn)) as other, raw(at(postgres_dsn)) as watch, ThreadPoolExecutor(1) as pool:
            other.execute("BEGIN")
            other.execute("UPDATE tracks SET run = run WHERE id = %s", [second])

            def finish() -> None:
                other.execute("UPDATE tracks SET run = run WHERE id = %s", [first])
                other.execute("COMMIT")

            def collide(_: JournalStore) -> None:
                if not errors:
                    waiting.append(pool.submit(finish))
                    pid = other.info.backend_pid
                    while watch.execute("SELECT cardinality(pg_blocking_pids(%s))", [pid]).fetchone() == (0,):
                        pass

            waiting = list[Future[Any]]()
            done = commit(store, intending(first, "K1"), collide, intending(second, "K2"))
            assert [record.state for record in done if record] == [State.INTENT] * 2
            waiting[0].result()
    assert errors == ["DeadlockDetected"]


def test_a_change_that_the_server_refuses_fails_alone(postgres_dsn: str) -> None:
    with closing(JournalStore(at(postgres_dsn))) as store:
        wrong, first, second = commit(
            store, lambda store: store._db.row("SELECT 1 / 0"), claiming("a"), claiming("b\0b")
        )
        assert (type(wrong), wrong.code) == (JournalError, None)
        assert first.met == "new"
        assert isinstance(second, JournalError), "no text of PostgreSQL has a NUL"
        assert do(store, claiming("a")).met == "again"
