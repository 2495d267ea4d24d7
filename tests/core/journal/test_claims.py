"""The row of a source: found again under any name and with any tags, and never bought for what was only relabelled."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async import CreatedSplit, Split, Submission, UploadedFile
from aistemsplitter_async.journal.claims import Claim
from aistemsplitter_async.journal.matching import is_same_song
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.record import AudioId, Changed, Record, State, StoredFailure, StoredFile, Variant
from aistemsplitter_async.journal.rows import Sighting, Stamp
from aistemsplitter_async.journal.schema import MIGRATIONS
from aistemsplitter_async.journal.store import JournalStore

SAMPLES = Path(__file__).parents[2] / "samples"
NOW = datetime(2027, 1, 1, tzinfo=UTC)
SPLIT = Split("split_1", "succeeded", "4s", 214, NOW, NOW, stems={"vocals": "https://cdn.test/vocals.mp3"})
FILES = {"vocals": StoredFile("a/vocals.mp3", 10, "ab" * 32)}
REFUSED = StoredFailure("create", "ValidationError", "there is no model 9s", status_code=422)
SPLIT_FAILED = StoredFailure("wait", "SplitFailedError", "no sound in it")
DEFAULT = Variant()
ids = st.builds(
    AudioId, st.sampled_from([None, "sha256:a", "sha256:b"]), st.sampled_from([None, "mp3:a", "sha256:a", "sha256:b"])
)


@attrs.frozen
class Run:
    """One run: call it with a source to claim its row."""

    runs: Runs
    store: JournalStore

    def __call__(
        self,
        name: str,
        wanted: Variant = DEFAULT,
        *,
        dedupe: bool = True,
        resplit: bool = False,
        changed: Changed = "refuse",
        finish: bool = True,
    ) -> Claim:
        """Claim a row; with `finish`, buy it if nothing was bought."""
        audio, stamp = self.runs.files[name]
        assert self.store.audio_of(name, stamp) in (None, audio)
        found = Sighting(audio=audio, source=name, stamp=stamp, folder=Path(name).stem, pattern="{stem}")
        got = self.store.claim(found, wanted, dedupe=dedupe, resplit=resplit, changed=changed)
        if finish and got.met in ("new", "known") and got.record.state in (State.FOUND, State.UPLOADED):
            self.runs.buy(self.store, got.record, wanted)
        return got


@attrs.define
class Runs:
    """Runs on one journal; each file has the bytes and the audio that it was last given, and a new stamp then."""

    path: Path | JournalURL
    files: dict[str, tuple[AudioId, Stamp]] = attrs.field(factory=dict[str, tuple[AudioId, Stamp]])

    def write(self, name: str, content: str, identity: str | None) -> None:
        changes = len(self.files) + 1 + (self.files[name][1].size if name in self.files else 0)
        self.files[name] = AudioId(f"sha256:{content}", identity), Stamp(changes, changes, changes)

    @contextmanager
    def run(self) -> Iterator[Run]:
        with closing(JournalStore(self.path)) as store:
            yield Run(self, store)

    def claim(self, name: str, wanted: Variant = DEFAULT, **options: Any) -> Claim:
        """Claim one source in a run of its own, and buy it if nothing was bought."""
        with self.run() as claim:
            return claim(name, wanted, **options)

    @property
    def rows(self) -> list[Record]:
        with closing(JournalStore(self.path)) as store:
            return store.page(0, 100)

    def change(self, track: int, *moves: Callable[[JournalStore, int], object]) -> None:
        with closing(JournalStore(self.path)) as store:
            store.take(track)
            for move in moves:
                move(store, track)

    @staticmethod
    def buy(store: JournalStore, record: Record, wanted: Variant) -> None:
        split = attrs.evolve(SPLIT, id=f"split_{record.id}", stem_model=wanted.stem_model or "4s")
        kind = wanted.output_format or "mp3"
        store.intend(record.id, Submission(f"key-{record.id}", b"{}"), 1.0)
        store.created(record.id, CreatedSplit(split.id, "queued", 214, NOW), 1.0)
        store.succeeded(record.id, split)
        store.downloaded(record.id, {"vocals": StoredFile(f"{record.folder}/vocals.{kind}", 10, "ab" * 32)})


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "journal")


def test_a_file_with_other_tags_another_name_or_a_copy_is_the_same_song(runs: Runs) -> None:
    runs.write("a.mp3", "1", "mp3:a")
    runs.claim("a.mp3")
    runs.write("a.mp3", "2", "mp3:a")
    runs.write("moved.mp3", "3", "mp3:a")
    with runs.run() as claim:
        assert [claim("a.mp3").met, claim("moved.mp3").met] == ["known", "again"]
    runs.write("b.mp3", "4", "mp3:b")
    assert [runs.claim("moved.mp3").met, runs.claim("b.mp3").met] == ["known", "new"]
    assert len(runs.rows) == 2


def test_two_rips_with_other_tags_in_one_run_are_one_song(runs: Runs) -> None:
    runs.write("a.mp3", "1", "mp3:a")
    runs.write("b.mp3", "2", "mp3:a")
    with runs.run() as claim:
        first, second = claim("a.mp3"), claim("b.mp3")
    assert (second.met, second.record.source) == ("again", first.record.source)


@given(ids, ids)
def test_sqlite_finds_the_songs_that_are_the_same(first: AudioId, second: AudioId) -> None:
    with closing(JournalStore(None)) as store:
        for audio in (first, second):
            store.claim(Sighting(audio=audio, source="a", folder="a", pattern="{stem}"), DEFAULT, dedupe=True)
        assert len(store.page(0, 9)) == (1 if is_same_song(first, second) else 2)


def test_identity_and_content_are_never_compared_with_each_other(runs: Runs) -> None:
    runs.write("a.mp3", "same", "mp3:a")
    runs.claim("a.mp3")
    with closing(JournalStore(runs.path)) as store:
        hostile = Sighting(audio=AudioId("mp3:a", "sha256:same"), source="b", folder="b", pattern="{stem}")
        assert store.claim(hostile, DEFAULT, dedupe=True).met == "new"


def test_a_stream_is_known_by_its_bytes_and_a_file_with_these_names_its_audio(runs: Runs) -> None:
    with closing(JournalStore(runs.path)) as store:
        stream = Sighting(audio=AudioId("sha256:1", None), source="a.mp3", folder="a", pattern="{stem}")
        Runs.buy(store, store.claim(stream, DEFAULT, dedupe=True).record, DEFAULT)
    runs.write("a.mp3", "1", "mp3:a")
    assert runs.claim("a.mp3").met == "known"
    runs.write("a.mp3", "2", "mp3:a")
    assert runs.claim("a.mp3").met == "known"
    with closing(JournalStore(runs.path)) as store:
        assert store.claim(stream, DEFAULT, dedupe=True).met == "known"


def test_options_that_say_what_was_delivered_buy_nothing(runs: Runs) -> None:
    runs.write("a.mp3", "1", "mp3:a")
    for wanted in (DEFAULT, Variant("4s"), Variant(None, "mp3"), Variant("4s", "mp3"), DEFAULT):
        assert runs.claim("a.mp3", wanted).met in ("new", "known")
    assert len(runs.rows) == 1
    other = runs.claim("a.mp3", Variant("6s"))
    assert (other.met, other.besides, other.record.folder) == ("new", runs.rows[0], "a (2)")
    for wanted in (Variant("6s"), Variant("4s"), DEFAULT, Variant(None, "mp3")):
        assert runs.claim("a.mp3", wanted).met == "known"
    assert len(runs.rows) == 2


def test_a_split_that_failed_was_delivered_as_nothing(runs: Runs) -> None:
    runs.write("a.mp3", "1", "mp3:a")
    track = runs.claim("a.mp3", finish=False).record.id
    runs.change(
        track,
        lambda store, row: store.intend(row, Submission("key", b"{}"), 1.0),
        lambda store, row: store.created(row, CreatedSplit("split_1", "queued", 214, NOW), 1.0),
        lambda store, row: store.fail(row, SPLIT_FAILED, attrs.evolve(SPLIT, status="failed", stems={})),
    )
    claim = runs.claim("a.mp3", Variant("6s"))
    assert (claim.met, claim.besides) == ("new", None)


def test_what_may_be_delivered_as_asked_is_not_bought_and_not_claimed(runs: Runs) -> None:
    runs.write("a.mp3", "1", "mp3:a")
    track = runs.claim("a.mp3", finish=False).record.id
    runs.change(track, lambda store, row: store.intend(row, Submission("key", b"{}"), 1.0))
    with runs.run() as claim:
        assert [claim("a.mp3", Variant("4s")).met for _ in range(2)] == ["unsettled", "unsettled"]
        assert claim("a.mp3").met == "known"
    assert len(runs.rows) == 1


def test_a_refused_model_leaves_its_place_to_the_next_one(runs: Runs) -> None:
    runs.write("a.mp3", "1", "mp3:a")
    track = runs.claim("a.mp3", Variant("9s"), finish=False).record.id
    runs.change(track, lambda store, row: store.fail(row, REFUSED, None))
    again = runs.claim("a.mp3", Variant("9s"), finish=False)
    assert again.record.failure == REFUSED
    other = runs.claim("a.mp3", Variant("6s"))
    assert (other.met, other.record.id, other.record.folder, other.record.failure) == ("known", track, "a", None)
    assert other.record.asked == Variant("6s")


def test_an_upload_serves_the_same_song_with_other_tags_and_not_another_one(runs: Runs) -> None:
    stored = UploadedFile("upl_1", "https://cdn.test/1", "sources/1")
    runs.write("a.mp3", "1", "mp3:a")
    track = runs.claim("a.mp3", finish=False).record.id
    runs.change(track, lambda store, row: store.uploaded(row, stored, 1e9))
    runs.write("a.mp3", "2", "mp3:a")
    tagged = runs.claim("a.mp3", finish=False).record
    assert (tagged.id, tagged.state, tagged.input) == (track, State.UPLOADED, stored)
    runs.write("a.mp3", "3", "mp3:b")
    edited = runs.claim("a.mp3", finish=False)
    assert (edited.met, edited.record.id, edited.record.folder) == ("known", track, "a")  # its place was not used
    assert (edited.record.state, edited.record.input, edited.record.audio.identity) == (State.FOUND, None, "mp3:b")


def test_another_recording_at_the_same_path_is_bought(runs: Runs) -> None:
    runs.write("a.wav", "1", "wav:a")
    runs.claim("a.wav")
    runs.write("a.wav", "2", "wav:b")
    assert runs.claim("a.wav").met == "new"


@pytest.mark.parametrize("identity", ["sha256:2", "wma:b"])
def test_a_changed_file_whose_audio_cannot_be_compared_is_a_persons_decision(runs: Runs, identity: str) -> None:
    runs.write("a.wma", "1", "sha256:1")
    bought = runs.claim("a.wma").record
    runs.write("a.wma", "2", identity)
    for _ in range(2):  # it stays refused, in every run
        refused = runs.claim("a.wma")
        assert (refused.met, refused.record.id) == ("changed", bought.id)
    assert runs.claim("a.wma", changed="same").met == "known"
    assert runs.claim("a.wma").met == "known"
    assert len(runs.rows) == 1
    runs.write("a.wma", "4", "sha256:4")
    assert runs.claim("a.wma", changed="new").met == "new"
    assert runs.claim("a.wma").met == "known"
    assert len(runs.rows) == 2


def test_a_copy_with_the_old_bytes_does_not_undo_the_decision(runs: Runs) -> None:
    runs.write("a.wma", "1", "sha256:1")
    runs.write("b.wma", "1", "sha256:1")
    with runs.run() as claim:
        assert [claim("a.wma").met, claim("b.wma").met] == ["new", "again"]
    runs.write("b.wma", "2", "sha256:2")
    with runs.run() as claim:
        assert [claim("a.wma").met, claim("b.wma").met] == ["known", "changed"]
    assert runs.claim("b.wma", changed="same").met == "known"
    with runs.run() as claim:
        assert [claim("a.wma").met, claim("b.wma").met] == ["known", "again"]


def test_a_decision_about_one_copy_forgets_nothing_of_the_others(runs: Runs) -> None:
    for name in ("a.wma", "b.wma"):
        runs.write(name, "1", "sha256:1")
    with runs.run() as claim:
        assert [claim("a.wma").met, claim("b.wma").met] == ["new", "again"]
    runs.write("a.wma", "2", "sha256:2")
    runs.write("b.wma", "3", "sha256:3")
    with runs.run() as claim:
        assert [claim(name, changed="same").met for name in ("a.wma", "b.wma")] == ["known", "again"]
    for name in ("a.wma", "b.wma"):
        assert runs.claim(name).met == "known"


def test_a_decision_about_a_damaged_file_leaves_the_audio_that_was_bought(runs: Runs) -> None:
    runs.write("a.mp3", "1", "mp3:a")
    runs.claim("a.mp3")
    runs.write("a.mp3", "2", "sha256:2")
    assert runs.claim("a.mp3", changed="same").met == "known"
    runs.write("b.mp3", "3", "mp3:a")
    assert [runs.claim(name).met for name in ("b.mp3", "a.mp3")] == ["known", "known"]


def test_a_re_split_takes_its_decisions_along(runs: Runs) -> None:
    runs.write("a.wma", "1", "sha256:1")
    runs.claim("a.wma")
    runs.write("a.wma", "2", "sha256:2")
    runs.claim("a.wma", changed="same")
    assert runs.claim("a.wma", resplit=True).met == "new"
    with closing(sqlite3.connect(str(runs.path))) as db:  # SQLite may give the number of the old row to another song
        assert db.execute("SELECT count(*) FROM aliases").fetchone() == (0,)


def test_without_dedupe_copies_that_did_not_change_are_not_taken_for_changed(runs: Runs) -> None:
    for name in ("a.wma", "b.wma", "c.wma"):
        runs.write(name, "1", "sha256:1")
    for expected in ("new", "known"):
        with runs.run() as claim:
            assert [claim(name, dedupe=False).met for name in ("a.wma", "b.wma", "c.wma")] == [expected] * 3


def test_a_re_split_drops_what_fits_and_takes_its_place(runs: Runs) -> None:
    runs.write("a.mp3", "1", "mp3:a")
    runs.claim("a.mp3")
    runs.claim("a.mp3", Variant("6s"))
    fresh = runs.claim("a.mp3", Variant("4s"), resplit=True)
    assert (fresh.met, fresh.record.folder) == ("new", "a")
    assert sorted(record.folder for record in runs.rows) == ["a", "a (2)"]
    assert runs.claim("a.mp3", Variant("4s"), resplit=True).met == "known"  # that re-split was never finished


# A journal that version 0.1 wrote: "copy of two.wav" and "one.wav" downloaded, "three.wav" uploaded, "two.wav" a copy.


@pytest.fixture
def old(runs: Runs) -> Runs:
    shutil.copyfile(SAMPLES / "old.journal", str(runs.path))
    with closing(sqlite3.connect(str(runs.path))) as db:
        for path, content in db.execute("SELECT path, identity FROM sources"):
            runs.write(path, content.removeprefix("sha256:"), f"wav:{content[-8:]}")
    return runs


def test_an_old_journal_knows_its_songs_by_their_bytes_and_learns_their_audio(old: Runs) -> None:
    with old.run() as claim:
        assert {name: claim(name, finish=False).met for name in sorted(old.files)} == {
            "/music/copy of two.wav": "known",
            "/music/one.wav": "known",
            "/music/three.wav": "known",
            "/music/two.wav": "again",
        }
    assert all(record.audio.identity is not None for record in old.rows)
    audio, _ = old.files["/music/one.wav"]
    old.write("/music/elsewhere.wav", "other tags", audio.identity)
    assert old.claim("/music/elsewhere.wav").met == "known"


@pytest.mark.parametrize("name", ["/music/one.wav", "/music/two.wav"])
def test_a_song_of_an_old_journal_with_other_tags_is_not_bought_silently(old: Runs, name: str) -> None:
    rows = len(old.rows)
    audio, _ = old.files[name]
    old.write(name, "other tags", audio.identity)
    assert old.claim(name).met == "changed"
    assert old.claim(name, changed="same").met == "known"
    assert old.claim(name).met == "known"
    assert len(old.rows) == rows


def test_what_an_old_journal_had_not_bought_is_begun_again_in_its_place(old: Runs) -> None:
    old.write("/music/three.wav", "other tags", "wav:3")
    claim = old.claim("/music/three.wav", finish=False)
    assert (claim.met, claim.record.folder, claim.record.state) == ("known", "three", State.FOUND)


def test_songs_that_are_known_by_their_bytes_alone_are_named(old: Runs) -> None:
    with old.run() as claim:
        assert claim.store.unrecognised() == ["/music/copy of two.wav", "/music/one.wav"]
        claim("/music/one.wav")
        assert claim.store.unrecognised() == ["/music/copy of two.wav"]


def test_the_migration_keeps_every_value(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    shutil.copyfile(SAMPLES / "old.journal", path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "INSERT INTO tracks (identity, variant, run, source, state, folder, pattern, place) "
            "VALUES ('url:https://example.com/a.mp3', '6s/wav', 1, 'a', 'found', 'x', '{stem}', 'x')"
        )
        db.commit()
        db.row_factory = sqlite3.Row
        before = [dict(row) for row in db.execute("SELECT * FROM tracks ORDER BY id")]
    with closing(JournalStore(path)) as store:
        after = store.page(0, 100)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute("SELECT * FROM tracks ORDER BY id")]
    for was, row in zip(before, rows, strict=True):
        identity = was.pop("identity")
        is_bytes = identity.startswith("sha256:")
        assert (row.pop("content"), row.pop("identity")) == ((identity, None) if is_bytes else (None, identity))
        assert (row.pop("sender") is None) is (was["body"] is None)
        assert row == was
    assert after[-1].asked == Variant("6s", "wav")


# Whatever happens to files between runs: tags are edited, files are copied and moved, options change.

steps = st.lists(
    st.tuples(
        st.sampled_from(["tag", "copy", "record", "run"]),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([DEFAULT, Variant("4s"), Variant("6s"), Variant(None, "mp3")]),
    ),
    max_size=25,
)


@given(steps)
def test_no_song_is_bought_twice_as_the_same_thing(steps: list[tuple[str, str, Variant]]) -> None:
    with closing(JournalStore(None)) as store:
        songs = {"a": "mp3:1"}
        count = 1
        bought: list[tuple[str, str]] = []
        for step, name, wanted in steps:
            count += 1
            if step == "record":
                songs[name] = f"mp3:{count}"
            elif step == "copy":
                songs[name] = songs["a"]
            elif step == "run" and name in songs:
                store.run += 1
                found = Sighting(
                    audio=AudioId(f"sha256:{count}", songs[name]),  # every run meets other tags
                    source=name,
                    stamp=Stamp(count, 1, 1),
                    folder=name,
                    pattern="{stem}",
                )
                claim = store.claim(found, wanted, dedupe=True)
                if claim.record.state is State.FOUND:
                    Runs.buy(store, claim.record, wanted)
                    bought.append((songs[name], wanted.stem_model or "4s"))
                assert claim.met in ("new", "known")
        assert len(set(bought)) == len(bought)


edits = st.lists(
    st.tuples(st.sampled_from(["tag", "damage", "repair", "copy"]), st.sampled_from("abcd"), st.sampled_from("abcd")),
    max_size=12,
)


@given(edits, st.booleans())
def test_who_says_that_changed_files_are_the_same_buys_nothing(
    edits: list[tuple[str, str, str]], is_known: bool
) -> None:
    """Two songs, and any copies of them; a damaged file is known by its bytes alone, as one of an unknown format is."""
    with closing(JournalStore(None)) as store:
        files = dict[str, tuple[str, AudioId, int]]()
        bought: list[str] = []

        def write(name: str, song: str, count: int, *, readable: bool) -> None:
            content = f"sha256:{count}"
            files[name] = song, AudioId(content, f"mp3:{song}" if readable else content), count

        def meet_all() -> None:
            store.run += 1
            for name, (song, audio, count) in sorted(files.items()):
                stamp = Stamp(count, 1, 1)
                found = Sighting(audio=audio, source=name, stamp=stamp, folder=name, pattern="{stem}")
                record = store.claim(found, DEFAULT, dedupe=True, changed="same").record
                if record.state is State.FOUND:
                    Runs.buy(store, record, DEFAULT)
                    bought.append(song)

        write("a", "one", 1, readable=is_known)
        write("b", "two", 2, readable=is_known)
        meet_all()
        for count, (edit, name, other) in enumerate(edits, 3):
            song, audio, _ = files.get(name, ("", AudioId(None, None), 0))
            is_readable = audio.identity != audio.content
            if edit == "copy" and song and files.get(other, (song,))[0] == song:
                files[other] = song, audio, count
            elif edit != "copy" and song:
                write(name, song, count, readable=edit == "repair" or (edit == "tag" and is_readable))
            meet_all()
        assert bought == ["one", "two"]


def test_as_long_as_nothing_was_bought_stems_go_where_they_are_wanted_now(tmp_path: Path) -> None:
    """A volume may have refused the first name, so that another one is asked for; it stays once a split exists."""
    path = tmp_path / "journal"

    def claim(name: str, folder: str, *, buy: bool = False) -> tuple[str, str]:
        with closing(JournalStore(path)) as store:
            found = Sighting(audio=AudioId(f"sha256:{name}", None), source=name, folder=folder, pattern="{stem}")
            record = store.claim(found, DEFAULT, dedupe=True).record
            if buy:
                store.intend(record.id, Submission(name, b"{}"), 1.0)
            return record.folder, record.pattern

    assert claim("a", "\u66f2") == ("\u66f2", "{stem}")
    assert claim("b", "\u66f2") == ("\u66f2 (2)", "{stem}")
    assert claim("b", "\u66f2") == ("\u66f2 (2)", "{stem}")  # the number of another run
    assert claim("a", "plain") == ("plain", "{stem}")
    assert claim("b", "plain", buy=True) == ("plain (2)", "{stem}")
    assert claim("b", "other") == ("plain (2)", "{stem}")
