"""Which row of the journal a source belongs to: the same song, delivered as what is asked for now. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from pathlib import PurePosixPath
from typing import Final

from aistemsplitter_async._transfer.names import UNKNOWN_EXTENSION, extension_for
from aistemsplitter_async.journal.record import AudioId, Record, State, Variant

_WHOLE_FILE: Final = "sha256:"  # how the identity of a file begins whose format says nothing about its audio
_NOT_BOUGHT: Final = frozenset({State.FOUND, State.UPLOADED})


class Fit(IntEnum):
    """How a row for the same song fits the options of this run; of several rows the lowest is taken.

    Members:
        EXACT: it was bought, or may have been, with these very options.
        SAME: it was delivered as what is asked for now.
        UNSETTLED: it was bought by leaving to the service what is asked for now, and is not delivered yet.
        FAILED: `EXACT` or `SAME`, and failed for good.
        OPEN: nothing was bought.
        OTHER: it was delivered as something else.
    """

    EXACT = 0
    SAME = 1
    UNSETTLED = 2
    FAILED = 3
    OPEN = 4
    OTHER = 5


def fit(record: Record, wanted: Variant) -> Fit:
    """Return how `record` fits what is asked for now. An option that is not given accepts whatever was delivered."""
    if record.state in _NOT_BOUGHT:
        return Fit.OPEN
    asked, got = record.asked, delivered(record)
    options = (
        _compare(wanted.stem_model, asked.stem_model, got.stem_model),
        _compare(wanted.output_format, asked.output_format, got.output_format),
    )
    if False in options:
        return Fit.OTHER
    failed_for_good = record.failure is not None and not record.failure.passing
    has_ended = record.split is not None
    if None in options and not (has_ended and failed_for_good):  # what failed was delivered as nothing, and never will
        return Fit.OTHER if has_ended else Fit.UNSETTLED
    if failed_for_good:
        return Fit.FAILED
    return Fit.EXACT if asked == wanted else Fit.SAME


def _compare(wanted: str | None, asked: str | None, got: str | None) -> bool | None:
    """Return whether an option is served by what was asked for or delivered, `None` if that is not known."""
    if wanted is None or wanted == asked or (got is not None and wanted.casefold() == got.casefold()):
        return True
    return None if got is None and asked is None else False


def choose(records: Iterable[Record], wanted: Variant) -> tuple[Record | None, Fit]:
    """Return the row to go on with, if there is one, and how it fits; of several that fit alike, the oldest."""
    fits = [(fit(record, wanted), record.id, record) for record in records]
    best, _, record = min(fits, key=lambda one: one[:2], default=(Fit.OTHER, 0, None))
    return record, best


def delivered(record: Record) -> Variant:
    """Return the model and the format in which the service delivered a split, as far as they are known."""
    kinds = {PurePosixPath(file.path).suffix.removeprefix(".") for file in record.files.values()}
    if not kinds and record.split is not None:
        kinds = {extension_for(url, None) for url in record.split.stems.values()}
    kind = next(iter(kinds)) if len(kinds) == 1 else UNKNOWN_EXTENSION
    return Variant(
        record.split.stem_model or None if record.split is not None else None,
        None if kind == UNKNOWN_EXTENSION else kind,
    )


def is_bought(record: Record) -> bool:
    """Return whether a split of it exists, or may exist."""
    return record.state not in _NOT_BOUGHT


def has_failed(record: Record) -> bool:
    """Return whether its split was delivered as nothing, and never will be."""
    return record.split is not None and record.split.status == "failed"


def is_same_song(first: AudioId, second: AudioId) -> bool:
    """Return whether two sources are the same song for certain. `Claims` asks the same of SQLite, and of people."""
    return (first.content is not None and first.content == second.content) or (
        first.identity is not None and first.identity == second.identity
    )


def are_comparable(first: AudioId, second: AudioId) -> bool:
    """Return whether different identities of the two mean different audio, rather than perhaps only other tags."""
    return all(audio.identity is not None and not audio.identity.startswith(_WHOLE_FILE) for audio in (first, second))


def merge(known: AudioId, found: AudioId) -> AudioId:
    """Return what identifies a row from now on, after the same song was found: what is known of it stays."""
    is_weak = known.identity is None or (known.identity.startswith(_WHOLE_FILE) and are_comparable(found, found))
    return AudioId(known.content or found.content, (found.identity if is_weak else None) or known.identity)
