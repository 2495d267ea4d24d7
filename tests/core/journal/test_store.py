"""The journal's file: what may follow what, whose it is, and what is refused without being touched."""

from __future__ import annotations

import itertools
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aistemsplitter_async import (
    ConfigurationError,
    CreatedSplit,
    DirectURL,
    JournalError,
    JournalLockedError,
    Split,
    Submission,
    UploadedFile,
)
from aistemsplitter_async.journal import file
from aistemsplitter_async.journal.binding import GATE
from aistemsplitter_async.journal.claims import Claim
from aistemsplitter_async.journal.record import AudioId, Changed, Record, State, StoredFailure, StoredFile, Variant
from aistemsplitter_async.journal.rows import Sighting, Stamp
from aistemsplitter_async.journal.schema import MIGRATIONS
from aistemsplitter_async.journal.store import JournalStore

ANYTHING = Variant()
NOW = datetime(2027, 1, 1, tzinfo=UTC)
CREATED = CreatedSplit(id="split_1", status="queued", credits_used=214, created_at=NOW)
SPLIT = Split(
    id="split_1",
    status="succeeded",
    stem_model="4s",
    filename="song.wav",
    duration_seconds=214.0,
    credits_used=214,
    created_at=NOW,
    updated_at=NOW,
    stems={"vocals": "https://cdn.test/vocals.mp3?token=1"},
    error=None,
)
FAILED = attrs.evolve(SPLIT, status="failed", stems={})
BROUGHT = UploadedFile("upl_1", "https://cdn.test/1", "sources/1")
URL = DirectURL("https://example.com/a.mp3")
FILES = {"vocals": StoredFile("a/vocals.mp3", 10, "ab" * 32)}
PASSING = StoredFailure("wait", "ServerError", "down", status_code=503)
REFUSED = StoredFailure("create", "ValidationError", "no", status_code=422)
SPLIT_FAILED = StoredFailure("wait", "SplitFailedError", "bad audio")
keys = (f"key-{number}" for number in itertools.count())


def claim(
    store: JournalStore,
    identity: str | None = "url:a",
    *,
    content: str | None = None,
    wanted: Variant = ANYTHING,
    dedupe: bool = True,
    resplit: bool = False,
    changed: Changed = "refuse",
    **fields: Any,
) -> Claim:
    usual: dict[str, Any] = {"source": "a.mp3", "folder": "a", "pattern": "{stem}", "split_input": URL}
    found = Sighting(audio=AudioId(content, identity), **(usual | fields))
    return store.claim(found, wanted, dedupe=dedupe, resplit=resplit, changed=changed)


def submission() -> Submission:
    return Submission(next(keys), b'{"input":{}}')


Move = Callable[[JournalStore, int], Record]
MOVES: dict[str, Move] = {
    "uploaded": lambda store, track: store.uploaded(track, BROUGHT, 1e9),
    "intend": lambda store, track: store.intend(track, submission(), 1e9),
    "refused": lambda store, track: store.refused(track),
    "uncertain": lambda store, track: store.uncertain(track),
    "needs_review": lambda store, track: store.needs_review(track),
    "created": lambda store, track: store.created(track, CREATED, 1e9),
    "succeeded": lambda store, track: store.succeeded(track, SPLIT),
    "downloaded": lambda store, track: store.downloaded(track, FILES),
}
ALLOWED: dict[State, set[str]] = {
    State.FOUND: {"uploaded", "intend"},
    State.UPLOADED: {"uploaded", "intend"},
    State.INTENT: {"refused", "uncertain", "needs_review", "created"},
    State.UNCERTAIN: {"uncertain", "needs_review", "created"},
    State.NEEDS_REVIEW: {"uncertain", "needs_review", "created"},
    State.CREATED: {"succeeded"},
    State.SUCCEEDED: {"downloaded"},
    State.DOWNLOADED: {"succeeded"},
}
WAYS: dict[State, list[str]] = {
    State.FOUND: [],
    State.UPLOADED: ["uploaded"],
    State.INTENT: ["uploaded", "intend"],
    State.UNCERTAIN: ["intend", "uncertain"],
    State.NEEDS_REVIEW: ["intend", "needs_review"],
    State.CREATED: ["intend", "created"],
    State.SUCCEEDED: ["intend", "created", "succeeded"],
    State.DOWNLOADED: ["intend", "created", "succeeded", "downloaded"],
}


def at(store: JournalStore, state: State, identity: str | None = None) -> int:
    """A track in `state`."""
    track = claim(store, identity or f"url:{next(keys)}").record.id
    for move in WAYS[state]:
        MOVES[move](store, track)
    assert store.get(track).state is state
    return track


@pytest.fixture
def store() -> Iterator[JournalStore]:
    with closing(JournalStore(None)) as opened:
        yield opened


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("move", MOVES)
def test_a_track_goes_only_where_its_state_leads(store: JournalStore, state: State, move: str) -> None:
    track = at(store, state)
    before = store.get(track)
    if move in ALLOWED[state]:
        assert MOVES[move](store, track) == store.get(track)
        return
    with pytest.raises(JournalError, match="cannot go"):
        MOVES[move](store, track)
    assert store.get(track) == before


def test_what_is_written_is_read_as_it_was(store: JournalStore) -> None:
    track = claim(store, split_input=None).record.id
    asked = submission()
    assert store.uploaded(track, BROUGHT, 5.0).input == BROUGHT
    intended = store.intend(track, asked, 6.0)
    assert (intended.submission, intended.intended_at, intended.expires_at) == (asked, 6.0, 5.0)
    created = store.created(track, CREATED, 7.0)
    assert (created.split_id, created.credits_used, created.created_at) == ("split_1", 214, 7.0)
    assert store.succeeded(track, SPLIT).split == SPLIT
    assert store.downloaded(track, FILES).files == FILES


def test_addresses_of_stems_that_are_here_are_not_kept(store: JournalStore) -> None:
    track = at(store, State.DOWNLOADED)
    assert store.get(track).split == attrs.evolve(SPLIT, stems={})


def test_a_refused_create_leaves_no_key_behind(store: JournalStore) -> None:
    for state in (State.FOUND, State.UPLOADED):
        track = at(store, state)
        store.intend(track, submission(), 1.0)
        after = store.refused(track)
        assert (after.state, after.submission, after.intended_at) == (state, None, None)


def test_a_create_that_was_refused_for_its_upload_leaves_neither_behind(store: JournalStore) -> None:
    track = at(store, State.UPLOADED)
    store.intend(track, submission(), 1.0)
    after = store.refused(track, upload_expired=True)
    assert (after.state, after.submission, after.input, after.expires_at) == (State.FOUND, None, None, None)
    assert store.uploaded(track, BROUGHT, 5.0).state is State.UPLOADED
    assert store.intend(track, submission(), 2.0).state is State.INTENT


@pytest.mark.parametrize("state", [State.UNCERTAIN, State.CREATED])
def test_what_may_have_happened_is_not_taken_for_refused(store: JournalStore, state: State) -> None:
    track = at(store, state)
    with pytest.raises(JournalError):
        store.refused(track, upload_expired=True)
    assert store.get(track).state is state


def test_one_key_belongs_to_one_track(store: JournalStore) -> None:
    asked = submission()
    store.intend(at(store, State.FOUND), asked, 1.0)
    other = at(store, State.FOUND)
    with pytest.raises(ConfigurationError, match=asked.idempotency_key):
        store.intend(other, asked, 1.0)
    assert store.get(other).state is State.FOUND


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("failure", [PASSING, REFUSED, SPLIT_FAILED], ids=lambda failure: failure.kind)
def test_a_retry_starts_over_only_after_a_split_that_failed(
    store: JournalStore, state: State, failure: StoredFailure
) -> None:
    track = at(store, state)
    before = store.get(track)
    failed = store.fail(track, failure, FAILED if failure is SPLIT_FAILED else None)
    assert failed.failure == failure
    reopened = store.reopen(track, Variant())
    if failure is not SPLIT_FAILED:
        assert reopened == before
        return
    assert reopened.state is (State.FOUND if before.expires_at is None else State.UPLOADED)
    assert (reopened.submission, reopened.split_id, reopened.split, reopened.failure) == (None, None, None, None)
    assert reopened.input == before.input


def test_the_same_audio_is_one_track_and_met_once_a_run(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(JournalStore(path)) as first:
        new, again = claim(first), claim(first, source="b.mp3")
        assert (new.met, again.met) == ("new", "again")
        assert again.record == new.record
    with closing(JournalStore(path)) as second:
        assert [claim(second).met, claim(second).met] == ["known", "again"]


def test_without_dedupe_each_has_its_track_and_finds_it_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(JournalStore(path)) as first:
        ids = [claim(first, dedupe=False).record.id for _ in range(3)]
        assert len(set(ids)) == 3
    with closing(JournalStore(path)) as second:
        claims = [claim(second, dedupe=False) for _ in range(4)]
        assert [one.met for one in claims] == ["known"] * 3 + ["new"]
        assert [one.record.id for one in claims[:3]] == ids


def test_a_finished_track_is_replaced_once_a_run_in_a_re_split(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(JournalStore(path)) as first:
        at(first, State.DOWNLOADED, "url:a")
    with closing(JournalStore(path)) as second:
        (old,) = second.page(0, 10)
        fresh = claim(second, resplit=True)
        assert (fresh.met, fresh.record.state, fresh.record.folder) == ("new", State.FOUND, old.folder)
        assert claim(second, resplit=True).met == "again"
        assert second.page(0, 10) == [fresh.record]


def test_a_track_that_is_not_finished_is_never_dropped_for_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(JournalStore(path)) as first:
        at(first, State.INTENT, "url:a")
    with closing(JournalStore(path)) as second:
        assert claim(second, resplit=True).met == "known"


def test_another_variant_is_another_track(store: JournalStore) -> None:
    track = at(store, State.DOWNLOADED, "url:a")
    other = claim(store, wanted=Variant("6s"), dedupe=False)
    assert (other.met, other.besides) == ("new", store.get(track))


@given(folders=st.lists(st.sampled_from(["a", "A", "ä", "a\N{COMBINING DIAERESIS}", "a (2)"]), max_size=12))
@settings(deadline=None)
def test_no_two_tracks_share_a_place_on_any_file_system(folders: list[str]) -> None:
    with closing(JournalStore(None)) as store:
        places = [claim(store, str(number), folder=folder).record.folder for number, folder in enumerate(folders)]
    assert len({place.casefold() for place in places}) == len(places)


def test_a_thousand_of_one_name_are_numbered_without_reading_all_the_others(
    store: JournalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ask = 0, store._db.row

    def count(statement: str, *values: object) -> Any:
        nonlocal asked
        asked += "WHERE place" in statement
        return ask(statement, *values)

    monkeypatch.setattr(store._db, "row", count)
    places = [claim(store, str(number), folder="song").record.folder for number in range(1000)]
    assert places[:3] == ["song", "song (2)", "song (3)"]
    assert len(set(places)) == 1000
    assert asked < 25 * 1000


def test_a_file_is_known_again_until_anything_about_it_changes(store: JournalStore) -> None:
    stamp = Stamp(1, 2, 3)
    claim(store, "wav:a", content="sha256:aa", source="/music/a.wav", stamp=stamp)
    assert store.audio_of("/music/a.wav", stamp) == AudioId("sha256:aa", "wav:a")
    for changed in (Stamp(0, 2, 3), Stamp(1, 0, 3), Stamp(1, 2, 0)):
        assert store.audio_of("/music/a.wav", changed) is None
    assert store.audio_of("/music/b.wav", stamp) is None


def test_a_name_that_is_not_text_can_be_a_source(store: JournalStore) -> None:
    name, stamp = os.fsdecode(b"/music/\xff.wav"), Stamp(1, 2, 3)
    assert claim(store, "wav:a", content="sha256:aa", source=name, stamp=stamp).record.source == name
    assert store.audio_of(name, stamp) == AudioId("sha256:aa", "wav:a")


def test_counts_separate_the_failed_from_the_rest(store: JournalStore) -> None:
    at(store, State.FOUND)
    at(store, State.DOWNLOADED)
    store.fail(at(store, State.FOUND), REFUSED, None)
    assert store.count() == {"found": 1, "downloaded": 1, "failed": 1}


def test_a_journal_belongs_to_one_key_of_one_api(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(JournalStore(path)) as store:
        store.bind({"api": "https://api.test/v1", "key": "abc"})
        at(store, State.UPLOADED)
    with closing(JournalStore(path)) as store:
        store.bind({"api": "https://api.test/v1", "key": "abc"})
        with pytest.raises(JournalError, match="another API key"):
            store.bind({"api": "https://api.test/v1", "key": "other"})
        with pytest.raises(JournalError, match=r"another API \(https://api.test/v1\)"):
            store.bind({"api": "https://other.test/v1", "key": "abc"})


def test_another_key_takes_over_neither_the_limit_nor_the_uploads_of_the_one_before(tmp_path: Path) -> None:
    api = {"api": "https://api.test/v1"}
    with closing(JournalStore(tmp_path / "journal")) as store:
        store.bind(api | {"key": "first"})
        sent, uploaded, paid = (at(store, state) for state in (State.INTENT, State.UPLOADED, State.SUCCEEDED))
        store.set_note(GATE, "{}")
        (proof,) = store.find_proofs(api | {"key": "second"}, 5) or []
        assert proof == store.get(paid).split_id
        assert store.find_proofs(api | {"key": "first"}, 5) is None
        assert store.find_proofs({"api": "https://other.test/v1", "key": "second"}, 5) is None
        store.accept_key("second", proven=True)
        assert store.note(GATE) is None
        assert store.get(uploaded).state is State.FOUND
        assert store.get(uploaded).input is None
        assert store.get(sent).sender == "first"
        before = store.get(sent)
        assert store.resent(sent) == attrs.evolve(before, sender="second"), "its age counts from the first attempt"
        store.set_note(GATE, "{}")
        store.bind(api | {"key": "second"})
        assert store.note(GATE) == "{}"
        store.bind(api | {"key": "first"})
        assert (store.note(GATE), store.sender()) == (None, "first")
        with pytest.raises(JournalError, match="another API key"):
            store.bind(api | {"key": "third"})


def test_a_journal_with_nothing_uploaded_or_created_can_change_its_key(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(JournalStore(path)) as store:
        store.bind({"api": "https://api.test/v1", "key": "mistyped"})
        store.fail(at(store, State.FOUND), REFUSED, None)
    with closing(JournalStore(path)) as store:
        store.bind({"api": "https://api.test/v1", "key": "abc"})
        at(store, State.INTENT)
        with pytest.raises(JournalError, match="another API key"):
            store.bind({"api": "https://api.test/v1", "key": "mistyped"})


@pytest.mark.parametrize("accepted", [True, False])
def test_keys_with_which_nothing_was_paid_are_not_taken_for_the_same_account(
    store: JournalStore, accepted: bool
) -> None:
    api = {"api": "https://api.test/v1"}
    store.bind(api | {"key": "ours"})
    at(store, State.UPLOADED)
    if accepted:
        assert store.find_proofs(api | {"key": "stranger"}, 5) == []
        store.accept_key("stranger", proven=False)
    else:
        store.accept_key("ours", proven=True)  # all was split anew, say, and nothing is left that was paid
        store.bind(api | {"key": "stranger"})
    at(store, State.SUCCEEDED)
    with pytest.raises(JournalError, match="another API key"):
        store.bind(api | {"key": "ours"})


@pytest.mark.parametrize(
    ("written", "now"),
    [
        ("https://API.test/v1", "https://api.test/v1"),
        ("https://api.test:443/v1", "https://api.test/v1"),
        ("https://api.test//v1", "https://api.test/v1"),
        ("https://münchen.test/v1", "https://xn--mnchen-3ya.test/v1"),
        ("127.0.0.1", "localhost"),
        ("::1", "localhost"),
        ("localhost", "localhost"),
    ],
)
def test_what_an_earlier_version_wrote_is_the_same_api_in_any_spelling(tmp_path: Path, written: str, now: str) -> None:
    with closing(JournalStore(tmp_path / "journal")) as store:
        store.bind({"api": written, "key": "abc"})
        at(store, State.UPLOADED)
        store.bind({"api": now, "key": "abc"})
        for other in ("https://other.test/v1", "http://api.test/v1"):
            with pytest.raises(JournalError, match="another API"):
                store.bind({"api": other, "key": "abc"})


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        (tmp_path / "empty").touch(0o666)
        for name in ("journal", "empty"):
            with closing(JournalStore(tmp_path / name)) as store:
                claim(store)
                found = sorted(tmp_path.glob(f"{name}*"))
                assert [path.name for path in found] == [name, f"{name}-journal", f"{name}.lock"]
                assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}
    finally:
        os.umask(mask)


def test_a_journal_open_here_is_not_opened_twice_and_is_free_when_closed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(JournalStore(path)) as store:
        for _ in range(2):
            with pytest.raises(JournalLockedError, match="another batch is running"):
                JournalStore(path)
        claim(store)
    JournalStore(path).close()


VERSION_TWO = "ALTER TABLE tracks ADD COLUMN mood TEXT;\nUPDATE tracks SET mood = 'calm'"


def test_an_older_journal_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    with closing(JournalStore(path)) as store:
        known = claim(store).record
    monkeypatch.setattr(file, "MIGRATIONS", (*MIGRATIONS, VERSION_TWO))
    for _ in range(2):
        with closing(JournalStore(path)) as store:
            assert store.get(known.id) == known
            assert list(store._db.rows("SELECT mood FROM tracks")) == [("calm",)]


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    with closing(JournalStore(path)) as store:
        known = claim(store).record
    with monkeypatch.context() as patch:
        patch.setattr(file, "MIGRATIONS", (*MIGRATIONS, VERSION_TWO + ";\nNONSENSE"))
        with pytest.raises(JournalError):
            JournalStore(path)
    with closing(JournalStore(path)) as store:
        assert store.get(known.id) == known


def make_text(path: Path) -> None:
    path.write_text("a shopping list, and not a short one\n" * 100)


def make_foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE photos (name TEXT); INSERT INTO photos VALUES ('holiday')")


def make_newer(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "MIGRATIONS", (*MIGRATIONS, VERSION_TWO))
        JournalStore(path).close()


def make_damaged(path: Path) -> None:
    with closing(JournalStore(path)) as store:
        for number in range(200):
            claim(store, str(number), source="x" * 500)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8000] = bytes(8000)
    path.write_bytes(data)


def make_cut(path: Path) -> None:
    make_damaged(path)
    path.write_bytes(path.read_bytes()[:10_000])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (make_text, "damaged or not a journal"),
        (make_foreign, "not a journal"),
        (make_newer, "newer version"),
        (make_damaged, "damaged"),
        (make_cut, "damaged"),
    ],
)
def test_a_file_that_is_not_a_good_journal_is_refused_and_left_as_it_was(
    make: Callable[[Path], None], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "journal"
    make(path)
    before, mode, files = path.read_bytes(), path.stat().st_mode, sorted(tmp_path.iterdir())
    with pytest.raises(JournalError, match=why) as caught:
        JournalStore(path)
    assert str(path) in str(caught.value)
    assert not isinstance(caught.value, JournalLockedError)
    assert path.read_bytes() == before
    assert path.stat().st_mode == mode
    assert sorted(tmp_path.iterdir()) == files


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for place in ("file/journal", "folder"):
        with pytest.raises(JournalError, match=str(tmp_path / place)):
            JournalStore(tmp_path / place)


def test_a_device_is_refused_and_keeps_its_mode(tmp_path: Path) -> None:
    device = tmp_path / "device"
    os.mkfifo(device, 0o644)  # what a journal at /dev/null would be, for a test that is not root
    mode = device.stat().st_mode
    with pytest.raises(JournalError, match="folder or a device"):
        JournalStore(device)
    assert device.stat().st_mode == mode


class Life(RuleBasedStateMachine):
    """Any order of writes that the rules of the runner allow, with crashes: a commit or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.store = JournalStore(None)
        self.track = claim(self.store).record.id
        self.sent: set[str] = set()  # keys under which a split may exist and be unknown to the journal

    def teardown(self) -> None:
        self.store.close()

    @property
    def record(self) -> Record:
        return self.store.get(self.track)

    @rule(name=st.sampled_from(sorted(MOVES)))
    def move(self, name: str) -> None:
        before = self.record
        try:
            MOVES[name](self.store, self.track)
        except JournalError:
            assert self.record == before
            return
        if name == "refused":  # the caller's word that nothing came of it
            assert before.submission is not None
            self.sent.discard(before.submission.idempotency_key)
        if name == "created":
            self.sent.clear()
        if name == "intend":
            known = self.record.submission
            assert known is not None
            self.sent.add(known.idempotency_key)

    @rule(failure=st.sampled_from([PASSING, REFUSED]))
    def fail_and_try_again(self, failure: StoredFailure) -> None:
        self.store.fail(self.track, failure, None)
        self.store.reopen(self.track, Variant())

    @precondition(lambda self: self.record.state is State.CREATED)
    @rule()
    def fail_at_the_server_and_try_again(self) -> None:
        self.store.fail(self.track, SPLIT_FAILED, FAILED)
        self.store.reopen(self.track, Variant())

    @rule()
    def crash_before_the_commit(self) -> None:
        before = self.record
        self.store.begin()
        for name in sorted(ALLOWED[before.state]):
            MOVES[name](self.store, self.track)
            break
        self.store.roll_back()
        assert self.record == before

    @invariant()
    def a_key_that_may_have_been_sent_is_never_lost(self) -> None:
        known = self.record.submission
        assert self.sent <= ({known.idempotency_key} if known is not None else set())


TestLife = Life.TestCase


@pytest.mark.parametrize(
    ("mtime", "ctime", "settled"),
    [
        (90.0, 90.0, True),
        (98.0, 98.0, False),  # FAT: a change in the next moment may have the same two seconds
        (97.0, 97.0, True),
        (50.0, 98.0, False),  # copied just now, with its time
        (99.9, 99.9, True),
        (99.99, 99.99, False),
        (110.0, 110.0, False),  # by the clock of a server
        (9e8, 50.0, True),  # by a recorder that knows no year: it is not read again in every run
        (9e8, 99.99, False),
    ],
)
def test_a_stamp_is_settled_once_every_change_would_show(mtime: float, ctime: float, settled: bool) -> None:
    assert Stamp(1, round(mtime * 1e9), round(ctime * 1e9)).is_settled(100.0) is settled
