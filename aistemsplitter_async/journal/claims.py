"""Which row of the journal each source of a run has: the lower half of `JournalStore`. It blocks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final, Literal

import attrs

from aistemsplitter_async.errors import LostLeaseError
from aistemsplitter_async.journal.database import LOST_LEASE, Database, Row
from aistemsplitter_async.journal.matching import Fit, are_comparable, choose, fit, has_failed, is_bought, merge
from aistemsplitter_async.journal.record import AudioId, Changed, Record, State, Variant
from aistemsplitter_async.journal.rows import COLUMNS, Sighting, Stamp, dump_input, load_record
from aistemsplitter_async.library.template import Place, choose_place

_RESPLIT: Final = "anew"  # the note that says which run started a re-split; its name is part of the file format
_SELECT: Final = f"SELECT {COLUMNS} FROM tracks"  # noqa: S608  # our own columns


@attrs.frozen
class Claim:
    """A track and how this run found it.

    Attributes:
        record: of the track.
        met: `new`; `known` from an earlier run; met `again` in this run; `unsettled`: it may be delivered as what is
            asked for, so nothing may be bought before it is; `changed`: it may be the source's, which has other bytes
            now; `elsewhere`: it is another worker's. The last three are not claimed. A record that another worker is
            just adding has no number yet: 0.
        besides: what was bought of the same song and delivered as something else than is asked for now.
        is_fresh: whether another worker of this run's fleet came across a known one before, so that what became of it
            is not of an earlier run.
    """

    record: Record
    met: Literal["new", "known", "again", "unsettled", "changed", "elsewhere"]
    besides: Record | None = None
    is_fresh: bool = False


@attrs.frozen
class _Found:
    """A row of a song: the run that came across it last, and whether it is another worker's."""

    run: int
    record: Record
    elsewhere: bool


class Claims:
    """The rows of the sources of one run.

    Args:
        db: open.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self.run: int = db.run
        self._resplit_since: int | None = None  # the run that started the re-split that this run takes part in
        # Tracks of a shared journal that this worker took and has not released, and those that this transaction takes.
        # One of them that is not its own any more was taken from it while it was silent: until what works on it here
        # has found that out and released it, it is not taken again, or that would go on with what is over.
        self._has: set[int] = set()
        self._takes: set[int] = set()

    def note(self, name: str) -> str | None:
        """Return the note of this name."""
        row = self._db.row("SELECT value FROM meta WHERE name = ?", name)
        return None if row is None else str(row[0])

    def set_note(self, name: str, value: str) -> None:
        """Write the note of this name."""
        self._db.execute(
            "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            *(name, value),
        )

    def swap_note(self, name: str, old: str | None, new: str) -> str:
        """Write a note if it is `old`, or with `None` if there is none, and return what it is now."""
        if old is None:
            self._db.execute("INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", name, new)
        else:
            self._db.execute("UPDATE meta SET value = ? WHERE name = ? AND value = ?", new, name, old)
        return self.note(name) or new

    def get(self, track: int) -> Record:
        """Return a track.

        Raises:
            LostLeaseError: another worker has replaced it.
        """
        for record in self._select("WHERE id = ?", track):
            return record
        raise LostLeaseError(f"track {track} was taken over by another worker, and replaced", code=LOST_LEASE)

    def audio_of(self, path: str, stamp: Stamp) -> AudioId | None:
        """Return what identifies a file that was read before and has not changed since."""
        row = self._db.row(
            "SELECT content, identity FROM sources WHERE (path, size, mtime_ns, ctime_ns) = (?, ?, ?, ?)",
            *(self._db.dump_name(path), *attrs.astuple(stamp)),
        )
        return None if row is None or row[1] is None else AudioId(*row)

    def claim(
        self, found: Sighting, wanted: Variant, *, dedupe: bool, resplit: bool = False, changed: Changed = "refuse"
    ) -> Claim:
        """Return the track of a source, that of an earlier run or a new one. One run meets each only once.

        A track is the source's if it is the same song, and was delivered as what is wanted or may be. One for which
        nothing was bought yet is taken over, whatever was to be asked for it; what another worker has is not.

        Args:
            found: the source.
            wanted: the model and format asked of it.
            dedupe: whether the same audio met again is the same track, rather than another one.
            resplit: whether a finished track of an earlier run is dropped, to be split, and paid for, once more. A
                run that was stopped before `finish_resplit` and those that continue it count as one.
            changed: what a file is that was bought with other bytes, where its audio cannot be compared.
        """
        if not self._db.lock([name for name in attrs.astuple(found.audio) if name is not None]):
            return Claim(_describe(found), "elsewhere")
        rows = self._find(found.audio)
        met = [row.record for row in rows if row.run == self.run and not row.elsewhere]
        unmet = [row for row in rows if row.run != self.run or row.elsewhere]
        held = {row.record.id for row in rows if row.elsewhere}
        left = self._drop_finished(unmet, wanted) if resplit else [row.record for row in unmet]
        record, how = choose(left, wanted)
        if record is not None and record.id in held and how is not Fit.OTHER:
            self._remember(found)
            return Claim(record, "elsewhere")
        if record is not None and how in (Fit.EXACT, Fit.SAME, Fit.FAILED):
            is_fresh = any(row.record.id == record.id and row.run >= self._db.first_run for row in rows)
            return Claim(self._take(record, found), "known", is_fresh=is_fresh)
        if met and dedupe:
            self._remember(found)
            return Claim(met[0], "again")
        if record is not None and how is Fit.UNSETTLED:
            return Claim(self._own(self._db.take_track(record.id, {})), "unsettled")
        records = [row.record for row in rows]
        besides = next((one for one in records if fit(one, wanted) is Fit.OTHER and not has_failed(one)), None)
        if record is not None and how is Fit.OPEN:
            return Claim(self._take(record, found, wanted), "known", besides)
        return self._claim_changed(found, wanted, besides, dedupe=dedupe, resplit=resplit, changed=changed)

    def finish_resplit(self) -> None:
        """Note that the run reached the end of its sources: the next re-split starts from the beginning."""
        if not self._db.others():  # the last worker of a fleet does it
            self._resplit_since = None
            self._db.execute("DELETE FROM meta WHERE name = ?", _RESPLIT)

    def _claim_changed(
        self,
        found: Sighting,
        wanted: Variant,
        besides: Record | None,
        *,
        dedupe: bool,
        resplit: bool,
        changed: Changed,
    ) -> Claim:
        """Return the track of a song that has none, but whose file may have had one before it changed."""
        before = self._find_before(found)
        if (free := self._find_free(before, found)) is not None:
            return Claim(self._take(free, found, wanted, afresh=True), "known", besides)
        earlier = self._find_earlier(before, found, wanted)
        if earlier is not None and changed == "same":
            self._db.execute(
                "INSERT INTO aliases (identity, track) VALUES (?, ?) "
                "ON CONFLICT (identity) DO UPDATE SET track = excluded.track",
                *(found.audio.identity, earlier.id),
            )
            return self.claim(found, wanted, dedupe=dedupe, resplit=resplit)
        if earlier is not None and changed == "refuse" and not resplit:
            return Claim(earlier, "changed")
        return Claim(self._insert(found, wanted), "new", besides)

    def _find(self, audio: AudioId) -> list[_Found]:
        """Return the rows of the same song. Until the transaction ends, nobody changes those that can be taken."""
        rows = self._read_song(audio)
        held = self._db.hold([record.id for _, record in rows], self._has)
        if rows and self._db.is_shared:
            rows = self._read_song(audio)  # what it is now that nobody changes it
        return [_Found(run, record, record.id in held) for run, record in rows]

    def _read_song(self, audio: AudioId) -> list[tuple[int, Record]]:
        rows = self._db.rows(
            f"SELECT run, {COLUMNS} FROM tracks WHERE id IN (SELECT id FROM tracks WHERE identity = ? "  # noqa: S608  # ours
            "UNION ALL SELECT id FROM tracks WHERE content = ? UNION ALL SELECT track FROM aliases WHERE identity = ?) "
            "ORDER BY id",
            *(audio.identity, audio.content, audio.identity),
        )
        return [(run, self._load(row)) for run, *row in rows]

    def _find_before(self, found: Sighting) -> list[_Found]:
        """Return the rows of the song that a file was when it was read last, with other bytes."""
        if found.stamp is None:
            return []
        path = self._db.dump_name(found.source)
        known = self._db.row("SELECT content, identity FROM sources WHERE path = ?", path)
        return [] if known is None or known[0] == found.audio.content else self._find(AudioId(*known))

    def _find_free(self, before: Iterable[_Found], found: Sighting) -> Record | None:
        """Return the row of an earlier run that a file had before it changed, if nothing was bought for it."""
        for row in before:
            is_free = row.run != self.run and not row.elsewhere and not is_bought(row.record)
            if is_free and row.record.source == found.source:
                return row.record
        return None

    def _find_earlier(self, before: Iterable[_Found], found: Sighting, wanted: Variant) -> Record | None:
        """Return the row that a file had before it changed, unless its audio is certainly another one now.

        Nothing is bought for a file that may only have other tags than when it was bought.
        """
        record, how = choose([row.record for row in before], wanted)
        if how in (Fit.OPEN, Fit.OTHER) or record is None or are_comparable(record.audio, found.audio):
            return None
        return record

    def _drop_finished(self, rows: Collection[_Found], wanted: Variant) -> list[Record]:
        """Delete what a re-split replaces, and return the rows that are left to choose from."""
        started = self._begin_resplit()
        if ours := [row.record for row in rows if row.run >= started]:
            return ours
        records = [row.record for row in rows]
        best, how = choose(records, wanted)
        held = {row.record.id for row in rows if row.elsewhere}
        is_replaced = best is not None and best.state is State.DOWNLOADED and best.id not in held
        if best is None or not is_replaced or how not in (Fit.EXACT, Fit.SAME):
            return records
        left = [record for record in records if record.asked == best.asked]
        dropped = [record.id for record in left if record.state is State.DOWNLOADED and record.id not in held]
        for track in dropped:
            self._db.execute("DELETE FROM tracks WHERE id = ?", track)
            self._db.execute("DELETE FROM aliases WHERE track = ?", track)
        return [record for record in left if record.id not in dropped]

    def _begin_resplit(self) -> int:
        """Return the run that started the unfinished re-split, this one if there is none."""
        if self._resplit_since is None:
            since = int(self.swap_note(_RESPLIT, None, str(self.run)))
            if since == self.run:  # its own note is not certain before the commit
                return since
            self._resplit_since = since
        return self._resplit_since

    def _take(self, record: Record, found: Sighting, wanted: Variant | None = None, *, afresh: bool = False) -> Record:
        """Claim a row of an earlier run; with `wanted`, that is asked for it from now on.

        As long as nothing was bought, its stems go where they are wanted now: a volume may have refused the old name.
        With `afresh`, its file has other bytes now, and nothing was bought for it.
        """
        self._remember(found)
        audio = found.audio if afresh else merge(record.audio, found.audio)
        values: dict[str, Any] = {"run": self.run, "content": audio.content, "identity": audio.identity}
        if afresh:
            values |= {"state": State.FOUND, "input": None, "expires_at": None, "failure": None}
        if not is_bought(record):
            place = self._choose_place(found, record.id)
            values |= {"folder": place.folder, "pattern": place.pattern, "place": place.key}
        if wanted not in (None, record.asked):
            values |= {"variant": str(wanted), "failure": None}  # another request failed, not this one
        return self._own(self._db.take_track(record.id, values))

    def _insert(self, found: Sighting, wanted: Variant) -> Record:
        self._remember(found)
        place = self._choose_place(found)
        row = self._db.insert_track(
            {
                "content": found.audio.content,
                "identity": found.audio.identity,
                "variant": str(wanted),
                "run": self.run,
                "source": self._db.dump_name(found.source),
                "state": State.FOUND,
                "folder": place.folder,
                "pattern": place.pattern,
                "place": place.key,
                "input": dump_input(found.split_input),
            }
        )
        return self._own(row)

    def _remember(self, found: Sighting) -> None:
        """Note what identifies a file: it is not read again as long as it does not change."""
        if found.stamp is None:
            return
        stamp = found.stamp if found.settled else attrs.evolve(found.stamp, size=-1)  # of no file: it is read again
        if self.audio_of(found.source, stamp) != found.audio:
            self._db.execute(
                "INSERT INTO sources (path, size, mtime_ns, ctime_ns, content, identity) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, "
                "ctime_ns = excluded.ctime_ns, inode = NULL, content = excluded.content, identity = excluded.identity",
                *(self._db.dump_name(found.source), *attrs.astuple(stamp), *attrs.astuple(found.audio)),
            )

    def _select(self, where: str, *values: Any) -> list[Record]:
        return [self._load(row) for row in self._db.rows(f"{_SELECT} {where}", *values)]

    def _own(self, row: Row) -> Record:
        """Return the record of a row that this transaction takes."""
        record = self._load(row)
        if self._db.is_shared:
            self._takes.add(record.id)
        return record

    def _load(self, row: Row) -> Record:
        return load_record(row, self._db.load_name)

    def _set(self, track: int, **values: Any) -> Record:
        row = self._db.change_track(track, values)
        assert row is not None  # noqa: S101  # no state was asked for
        return self._load(row)

    def _choose_place(self, found: Sighting, track: int | None = None) -> Place:
        """Return a place that no other track has, nor gets in a transaction that is not over."""
        wanted, taken = Place(found.folder, found.pattern), set[str]()

        def is_taken(place: str) -> bool:
            query = "SELECT 1 FROM tracks WHERE place = ? AND id != ?"
            return place in taken or self._db.row(query, place, track or 0) is not None

        place = wanted
        while not self._db.lock([f"place {place.key}"]) or is_taken(place.key):
            taken.add(place.key)
            place = choose_place(wanted, is_taken)
        return place


def _describe(found: Sighting) -> Record:
    """Return what is known of a source whose row another worker is just adding."""
    return Record(id=0, source=found.source, audio=found.audio, folder=found.folder, pattern=found.pattern)
