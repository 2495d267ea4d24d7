"""Which row of the journal each source of a run has: the lower half of `JournalStore`. Plain blocking SQLite."""

from __future__ import annotations

import sqlite3
from typing import Any, Final, Literal

import attrs

from aistemsplitter_async.journal.matching import Fit, are_comparable, choose, fit, has_failed, is_bought, merge
from aistemsplitter_async.journal.record import AudioId, Changed, Record, State, Variant
from aistemsplitter_async.journal.rows import COLUMNS, Sighting, Stamp, dump_input, dump_name, load_record
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
            now. The last two are not claimed.
        besides: what was bought of the same song and delivered as something else than is asked for now.
    """

    record: Record
    met: Literal["new", "known", "again", "unsettled", "changed"]
    besides: Record | None = None


class Claims:
    """The rows of the sources of one run.

    Args:
        db: open.
        run: the number of this run.
    """

    def __init__(self, db: sqlite3.Connection, run: int) -> None:
        self._db = db
        self.run = run

    def note(self, name: str) -> str | None:
        """Return the note of this name."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_note(self, name: str, value: str) -> None:
        """Write the note of this name."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def get(self, track: int) -> Record:
        """Return a track."""
        (record,) = self._select("WHERE id = ?", track)
        return record

    def audio_of(self, path: str, stamp: Stamp) -> AudioId | None:
        """Return what identifies a file that was read before and has not changed since."""
        row = self._db.execute(
            "SELECT content, identity FROM sources WHERE (path, size, mtime_ns, ctime_ns) = (?, ?, ?, ?)",
            (dump_name(path), *attrs.astuple(stamp)),
        ).fetchone()
        return None if row is None or row[1] is None else AudioId(*row)

    def claim(
        self, found: Sighting, wanted: Variant, *, dedupe: bool, resplit: bool = False, changed: Changed = "refuse"
    ) -> Claim:
        """Return the track of a source, that of an earlier run or a new one. One run meets each only once.

        A track is the source's if it is the same song, and was delivered as what is wanted or may be. One for which
        nothing was bought yet is taken over, whatever was to be asked for it.

        Args:
            found: the source.
            wanted: the model and format asked of it.
            dedupe: whether the same audio met again is the same track, rather than another one.
            resplit: whether a finished track of an earlier run is dropped, to be split, and paid for, once more. A
                run that was stopped before `finish_resplit` and those that continue it count as one.
            changed: what a file is that was bought with other bytes, where its audio cannot be compared.
        """
        rows = self._find(found.audio)
        met = [record for run, record in rows if run == self.run]
        unmet = [(run, record) for run, record in rows if run != self.run]
        left = self._drop_finished(unmet, wanted) if resplit else [record for _, record in unmet]
        record, how = choose(left, wanted)
        if record is not None and how in (Fit.EXACT, Fit.SAME, Fit.FAILED):
            return Claim(self._take(record, found), "known")
        if met and dedupe:
            self._remember(found)
            return Claim(met[0], "again")
        if record is not None and how is Fit.UNSETTLED:
            return Claim(record, "unsettled")
        besides = next((one for _, one in rows if fit(one, wanted) is Fit.OTHER and not has_failed(one)), None)
        if record is not None and how is Fit.OPEN:
            return Claim(self._take(record, found, wanted), "known", besides)
        if (free := self._find_free(found)) is not None:
            return Claim(self._take(self._restart(free, found), found, wanted), "known", besides)
        earlier = self._find_earlier(found, wanted)
        if earlier is not None and changed == "same":
            self._db.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?)", (found.audio.identity, earlier.id))
            return self.claim(found, wanted, dedupe=dedupe, resplit=resplit)
        if earlier is not None and changed == "refuse" and not resplit:
            return Claim(earlier, "changed")
        return Claim(self._insert(found, wanted), "new", besides)

    def finish_resplit(self) -> None:
        """Note that the run reached the end of its sources: the next re-split starts from the beginning."""
        self._db.execute("DELETE FROM meta WHERE name = ?", (_RESPLIT,))

    def _find(self, audio: AudioId) -> list[tuple[int, Record]]:
        """Return the rows of the same song, each with the run that came across it last."""
        rows = self._db.execute(
            f"SELECT run, {COLUMNS} FROM tracks WHERE identity = :identity OR content = :content "  # noqa: S608  # ours
            "OR id IN (SELECT track FROM aliases WHERE identity = :identity) ORDER BY id",
            attrs.asdict(audio),
        )
        return [(run, load_record(row)) for run, *row in rows]

    def _find_before(self, found: Sighting) -> list[tuple[int, Record]]:
        """Return the rows of the song that a file was when it was read last, with other bytes."""
        if found.stamp is None:
            return []
        path = dump_name(found.source)
        known = self._db.execute("SELECT content, identity FROM sources WHERE path = ?", (path,)).fetchone()
        return [] if known is None or known[0] == found.audio.content else self._find(AudioId(*known))

    def _find_free(self, found: Sighting) -> Record | None:
        """Return the row of an earlier run that a file had before it changed, if nothing was bought for it."""
        for run, record in self._find_before(found):
            if run != self.run and not is_bought(record) and record.source == found.source:
                return record
        return None

    def _find_earlier(self, found: Sighting, wanted: Variant) -> Record | None:
        """Return the row that a file had before it changed, unless its audio is certainly another one now.

        Nothing is bought for a file that may only have other tags than when it was bought.
        """
        record, how = choose([record for _, record in self._find_before(found)], wanted)
        if how in (Fit.OPEN, Fit.OTHER) or record is None or are_comparable(record.audio, found.audio):
            return None
        return record

    def _drop_finished(self, rows: list[tuple[int, Record]], wanted: Variant) -> list[Record]:
        """Delete what a re-split replaces, and return the rows that are left to choose from."""
        started = self._begin_resplit()
        if ours := [record for run, record in rows if run >= started]:
            return ours
        records = [record for _, record in rows]
        best, how = choose(records, wanted)
        if best is None or how not in (Fit.EXACT, Fit.SAME) or best.state is not State.DOWNLOADED:
            return records
        for record in records:
            if record.state is State.DOWNLOADED and record.asked == best.asked:
                self._db.execute("DELETE FROM tracks WHERE id = ?", (record.id,))
                self._db.execute("DELETE FROM aliases WHERE track = ?", (record.id,))
        return [record for record in records if record.state is not State.DOWNLOADED and record.asked == best.asked]

    def _begin_resplit(self) -> int:
        """Return the run that started the unfinished re-split, this one if there is none."""
        since = self.note(_RESPLIT)
        if since is None:
            self.set_note(_RESPLIT, since := str(self.run))
        return int(since)

    def _take(self, record: Record, found: Sighting, wanted: Variant | None = None) -> Record:
        """Claim a row of an earlier run; with `wanted`, that is asked for it from now on.

        As long as nothing was bought, its stems go where they are wanted now: a volume may have refused the old name.
        """
        self._remember(found)
        audio = merge(record.audio, found.audio)
        values: dict[str, Any] = {"run": self.run, "content": audio.content, "identity": audio.identity}
        if not is_bought(record):
            place = self._choose_place(found, record.id)
            values |= {"folder": place.folder, "pattern": place.pattern, "place": place.key}
        if wanted not in (None, record.asked):
            values |= {"variant": str(wanted), "failure": None}  # another request failed, not this one
        return self._set(record.id, **values)

    def _restart(self, record: Record, found: Sighting) -> Record:
        """Begin again with a row whose file has other bytes now; nothing was bought for it."""
        audio = {"content": found.audio.content, "identity": found.audio.identity}
        return self._set(record.id, **audio, state=State.FOUND, input=None, expires_at=None, failure=None)

    def _insert(self, found: Sighting, wanted: Variant) -> Record:
        self._remember(found)
        place = self._choose_place(found)
        cursor = self._db.execute(
            "INSERT INTO tracks (content, identity, variant, run, source, state, folder, pattern, place, input) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(found.audio.content, found.audio.identity, str(wanted), self.run, dump_name(found.source)),
                *(State.FOUND, place.folder, place.pattern, place.key, dump_input(found.split_input)),
            ),
        )
        return self.get(int(cursor.lastrowid or 0))

    def _remember(self, found: Sighting) -> None:
        """Note what identifies a file: it is not read again as long as it does not change."""
        if found.stamp is None:
            return
        stamp = found.stamp if found.settled else attrs.evolve(found.stamp, size=-1)  # of no file: it is read again
        if self.audio_of(found.source, stamp) != found.audio:
            self._db.execute(
                "INSERT OR REPLACE INTO sources (path, size, mtime_ns, ctime_ns, content, identity) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (dump_name(found.source), *attrs.astuple(stamp), found.audio.content, found.audio.identity),
            )

    def _select(self, where: str, *values: Any) -> list[Record]:
        return [load_record(row) for row in self._db.execute(f"{_SELECT} {where}", values)]

    def _set(self, track: int, **values: Any) -> Record:
        names = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE tracks SET {names} WHERE id = ?", (*values.values(), track))  # noqa: S608  # our names
        return self.get(track)

    def _choose_place(self, found: Sighting, track: int | None = None) -> Place:
        def is_taken(place: str) -> bool:
            rows = self._db.execute("SELECT 1 FROM tracks WHERE place = ? AND id IS NOT ?", (place, track))
            return rows.fetchone() is not None

        return choose_place(Place(found.folder, found.pattern), is_taken)
