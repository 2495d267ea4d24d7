"""Proves that all workers on a journal write to the same folder.

Each machine has its own idea of what `/mnt/stems` is. If it were two folders, the stems of one library would be in
both, and what one worker has finished would be missing to another. So the first worker leaves a file in the folder
whose name nobody can guess, and notes that name in the journal; every other worker must find that file.
"""

from __future__ import annotations

import json
import secrets
import socket
from pathlib import Path
from typing import Self

import attrs

from aistemsplitter_async._files import make_folder, reason_of, replacing
from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.config import PROOF_PAUSE, PROOF_WAIT
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.journal.journal import Journal
from aistemsplitter_async.journal.store import JournalStore

OTHER_FOLDER = "OTHER_FOLDER"  # the code of the error that says that this is another folder than the other workers'
_NOTE = "into"  # the journal's note of the proof
_PREFIX = ".aistemsplitter-"


@attrs.frozen
class Proof:
    """The file that shows that a folder is the one that the workers share.

    Attributes:
        name: of the file.
        place: the folder, as the worker that made the file calls it.
        host: the machine of that worker.
        is_written: whether the file is there; the worker may have been killed before.
    """

    name: str
    place: str
    host: str
    is_written: bool = False

    @classmethod
    def propose(cls, into: Path) -> Self:
        """Return a proof of this worker's own."""
        return cls(_PREFIX + secrets.token_hex(8), str(into.absolute()), socket.gethostname())

    @classmethod
    def load(cls, text: str) -> Self:
        """Return the proof that `dump` has written."""
        return cls(**json.loads(text))

    def dump(self) -> str:
        """Return it as the journal has it."""
        return json.dumps(attrs.asdict(self))

    def is_in(self, into: Path) -> bool:
        """Return whether the file is in this folder."""
        return (into / self.name).is_file()

    def write(self, into: Path) -> None:
        """Write the file, durably.

        Raises:
            OSError: it cannot be written.
        """
        make_folder(into)
        with replacing(into / self.name, durable=True, mode=0o666) as file:
            file.write(
                f"Shows the workers of aistemsplitter_async that they share this folder, {self.place} on {self.host}.\n"
            )


async def check_shared_folder(journal: Journal, into: Path, clock: Clock) -> None:
    """Check that `into` is the folder of all workers on the journal; the first one decides which that is.

    Raises:
        ConfigurationError: it is another one (`code` is `OTHER_FOLDER`), or cannot be written.
        JournalError: the journal cannot be used.
    """
    mine = Proof.propose(into)
    proof = await _agree(journal, mine, into, clock)
    if not await run_in_thread(proof.is_in, into):
        raise ConfigurationError(_describe(proof, mine), code=OTHER_FOLDER)


async def _agree(journal: Journal, mine: Proof, into: Path, clock: Clock) -> Proof:
    """Return the proof that is in the journal; if there is none, that is `mine`, which is written then."""
    stale: str | None = None
    while True:
        proof = Proof.load(await journal.write(JournalStore.swap_note, _NOTE, stale, mine.dump()))
        if proof == mine:
            await _write(mine, into)
            written = attrs.evolve(mine, is_written=True)
            proof = Proof.load(await journal.write(JournalStore.swap_note, _NOTE, mine.dump(), written.dump()))
        if proof.is_written:
            return proof
        stale = proof.dump()  # unless its worker, which is just about to write the file, does so in time
        begun = clock.monotonic()
        while clock.monotonic() - begun < PROOF_WAIT and await journal.write(JournalStore.note, _NOTE) == stale:
            await clock.sleep(PROOF_PAUSE)


async def _write(proof: Proof, into: Path) -> None:
    try:
        await run_in_thread(proof.write, into)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {into}, where the stems are to go: {reason_of(error)}") from error


def _describe(proof: Proof, mine: Proof) -> str:
    return (
        f"{mine.place} on {mine.host} is not the folder that the workers on this journal share, {proof.place} on "
        f"{proof.host}: the file {proof.name} is missing in it. Mount or name that folder here. If you have moved or "
        f"emptied it yourself, put that file back, which may be empty: touch {mine.place}/{proof.name}"
    )
