"""The seal of a journal that is moved: what its other place is, and by which number that is known. Pure.

Every version of this package refuses a sealed journal: those that know no seals take it for one of a newer version.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Final, Self

import attrs

from aistemsplitter_async.errors import JournalError

SEALED: Final = "SEALED"  # the code of the error of a run on a journal that is sealed
SEALED_VERSIONS: Final = 1_000_000  # added to the number of a sealed file's tables: more than there will ever be
SEALED_STATE: Final = "AS001"  # the SQLSTATE of every change of tables that are sealed
SEAL: Final = "sealed"  # the note that has the seal
MOVES: Final = "moves"  # the note of all moves that a journal's rows have made, the oldest first


@attrs.frozen
class Seal:
    """Why no run may use a journal: it is one of the two ends of a move.

    Attributes:
        place: the other end, as `End.place` has it: without a password.
        move: identifies the move. The journal that has the rows notes it for ever.
        state: `leaving`: the rows may still be here alone; `left`: they are known to be at the other end; `awaited`:
            they come from there.
    """

    place: str
    move: str
    state: str = "leaving"

    def dump(self) -> str:
        """Return it as the note that `load` reads."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        """Return the seal in a note."""
        fields = json.loads(text)
        return cls(str(fields["place"]), str(fields["move"]), str(fields["state"]))


def dump_moves(moves: Sequence[str]) -> str:
    """Return moves as a note."""
    return json.dumps(list(moves))


def load_moves(text: str | None) -> tuple[str, ...]:
    """Return the moves in a note, none where there is no such note."""
    return () if text is None else tuple(json.loads(text))


def build_sealed(place: object, seal: Seal) -> JournalError:
    """Return the error of a run on the sealed journal at `place`; it names the place to use and how to go on."""
    here, there = str(place), seal.place
    match seal.state:
        case "left":
            message = f"{here} was moved to {there}: use that"
        case "leaving":
            message = f"{here} is being moved to {there}; if that was interrupted, finish it: {_command(here, there)}"
        case _:
            message = f"{here} awaits what is moved from {there}; if that was interrupted: {_command(there, here)}"
    return JournalError(message, code=SEALED)


def _command(source: str, target: str) -> str:
    return f"aistemsplitter-async journal move {shlex.quote(source)} {shlex.quote(target)}"
