"""Converts values to columns of the journal, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import attrs
from cattrs.preconf.json import make_converter

from aistemsplitter_async.journal.record import AudioId, Record, State, StoredFailure, StoredFile, Variant
from aistemsplitter_async.models import DirectURL, Split, SplitInput, Submission, UploadedFile

COLUMNS: Final = (
    "id, content, identity, variant, source, state, folder, pattern, input, expires_at, idempotency_key, body, "
    "intended_at, split_id, credits_used, created_at, split, files, failure, sender"
)  # as `load_record` reads them
_SECOND: Final = 10**9  # ns
_COARSE: Final = 2.5  # s: FAT has times of two seconds, older file systems of one
_FINE: Final = 0.05  # s: exFAT has hundredths, and others as fine as the ticks of the system's clock
_AHEAD: Final = 60.0  # s that a server's clock may be ahead of ours; a time further on was set by a program
_json = make_converter()


@attrs.frozen
class Stamp:
    """Shows whether a file is still the same without reading it.

    Its inode number is no part of it: FAT and many network shares number a file again whenever they are mounted. Where
    it means something, a rename of another file to this name shows in the time of that file's last change.
    """

    size: int
    mtime_ns: int
    ctime_ns: int

    def is_settled(self, now: float) -> bool:
        """Return whether a change from now on gives the file another stamp.

        Args:
            now: POSIX seconds; the file was read before.
        """
        times = (at / _SECOND for at in (self.mtime_ns, self.ctime_ns))
        changed = max((at for at in times if at < now + _AHEAD), default=0.0)
        return now - changed > (_COARSE if self.mtime_ns % _SECOND == 0 else _FINE)


@attrs.frozen(kw_only=True)
class Sighting:
    """A source as a run came across it, and where its stems would go.

    Attributes:
        audio: what identifies it.
        source: the path or URL it was found under.
        stamp: of the file, if it is one.
        settled: whether the stamp shows every change after this sighting.
        folder: where its stems would go; numbered if that is taken.
        pattern: how their files would be called.
        split_input: the URL, if the source is one.
    """

    audio: AudioId
    source: str
    stamp: Stamp | None = None
    settled: bool = True
    folder: str
    pattern: str
    split_input: SplitInput | None = None


def dump_input(split_input: SplitInput | None) -> str | None:
    """Return the audio source of a create as text."""
    if isinstance(split_input, DirectURL):
        return json.dumps({"url": split_input.url})
    return None if split_input is None else json.dumps(attrs.asdict(split_input))


def dump_value(value: Split | StoredFailure | dict[str, StoredFile]) -> str:
    """Return a value as JSON."""
    return _json.dumps(value)


def load_record(row: Any, load_name: Callable[[Any], str]) -> Record:
    """Return the record in a row of `COLUMNS`; `load_name` reads the column with a file's name."""
    (
        number, content, identity, variant, source, state, folder, pattern, split_input, expires_at, key, body,
        intended_at, split_id, credits_used, created_at, split, files, failure, sender,
    ) = row  # fmt: skip
    ended = None if split is None else _json.loads(split, Split)
    named = {} if ended is None else ended.stems
    stored = {} if files is None else _json.loads(files, dict[str, StoredFile])
    return Record(
        id=number,
        audio=AudioId(content, identity),
        asked=Variant.parse(variant),
        source=load_name(source),
        state=State(state),
        folder=folder,
        pattern=pattern,
        input=None if split_input is None else _load_input(split_input),
        expires_at=expires_at,
        submission=None if key is None else Submission(key, body),
        intended_at=intended_at,
        sender=sender,
        split_id=split_id,
        credits_used=credits_used,
        created_at=created_at,
        split=None if ended is None else attrs.evolve(ended, stems={stem: url for stem, url in named.items() if url}),
        stems=tuple(named or stored),  # earlier versions kept no names, and had downloaded all
        files=stored,
        failure=None if failure is None else _json.loads(failure, StoredFailure),
    )


def _load_input(text: str) -> SplitInput:
    fields = json.loads(text)
    return DirectURL(fields["url"]) if "url" in fields else UploadedFile(**fields)
