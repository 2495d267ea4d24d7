"""The results that a command prints: for each split a JSON object, or a few lines for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from aistemsplitter_async._plain import to_plain
from aistemsplitter_async.cli.failures import Exit, Problem
from aistemsplitter_async.cli.screen.render import clock, columns, price, show
from aistemsplitter_async.cli.screen.terminal import BOLD, Terminal
from aistemsplitter_async.models import Split


@attrs.frozen(kw_only=True)
class Result:
    """The state of one source or split.

    Attributes:
        source: as it was given, or the file name that the server knows.
        stems: stem name to file, or to URL where nothing was downloaded.
        seconds: length of the audio.
        gain_db: of each mix, what kept it from clipping: 0 or less.
    """

    source: str | None
    id: str | None = None
    status: str | None = None
    stems: Mapping[str, object] = attrs.field(factory=dict[str, object])
    credits_used: float | None = None
    seconds: float | None = None
    gain_db: Mapping[str, float] = attrs.field(factory=dict[str, float])
    error: Problem | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the object that scripts get; it says `gain_db` of mixes if there are any."""
        return {
            "id": self.id,
            "status": self.status,
            "source": self.source,
            "stems": {name: str(file) for name, file in self.stems.items()},
            **({"gain_db": dict(self.gain_db)} if self.gain_db else {}),
            "credits_used": self.credits_used,
            "error": self.error.as_json() if self.error else None,
        }

    def turned_down(self) -> dict[str, str]:
        """Return what to say of the mixes that are quieter than the sum of their stems."""
        return {name: f"{name} {gain:.2f} dB, not to clip" for name, gain in self.gain_db.items() if gain}

    def headline(self) -> list[str]:
        """Return the length, the price and the id, as far as they are known."""
        length = clock(self.seconds) if self.seconds is not None else None
        cost = price(self.credits_used) if self.credits_used is not None else None
        return [part for part in (length, cost, self.id) if part]


def build_result(
    split: Split | None,
    source: str | None,
    *,
    stems: Mapping[str, object] | None = None,
    gain_db: Mapping[str, float] | None = None,
    error: Problem | None = None,
) -> Result:
    """Return the result for a split, if one exists, with its stem files if `stems` are given."""
    if split is None:
        return Result(
            source=source, id=error.split_id if error else None, stems=stems or {}, gain_db=gain_db or {}, error=error
        )
    return Result(
        source=source,
        id=split.id,
        status=split.status,
        stems=split.stems if stems is None else stems,
        credits_used=split.credits_used,
        seconds=split.duration_seconds,
        gain_db=gain_db or {},
        error=error,
    )


def print_result(result: Result, terminal: Terminal, *, as_json: bool) -> None:
    """Write a result to stdout, and its error to stderr too."""
    if as_json:
        print_json(result.as_json(), terminal)
    elif result.error is None:
        title = terminal.paint(show(result.source or result.id), BOLD)
        terminal.result("  ".join((title, *result.headline())))
        notes = result.turned_down()
        for name, file in result.stems.items():
            note = f"  ({show(notes[name])})" if name in notes else ""
            terminal.result(f"  {show(file) if str(file) else show(name)}{note}")
    if result.error is not None:
        terminal.error(result.error.message)


def print_json(value: dict[str, Any], terminal: Terminal) -> None:
    """Write one JSON object on a line of its own, as every JSON parser takes it (`to_plain`)."""
    text = json.dumps(to_plain(value))
    terminal.result(text if terminal.key is None else text.replace(terminal.key, "ast_***"))


def print_interrupted(state: str, commands: Sequence[str], terminal: Terminal) -> None:
    """Write the state that a signal left, and the commands that continue, each on a line that can be copied."""
    terminal.say(f"interrupted; {show(state)}")
    for line in commands:
        terminal.say(f"  {show(line)}")


def build_interrupted(split_id: str | None, idempotency_key: str | None = None) -> Problem:
    """Return the error of a result that a signal prevented."""
    return Problem(
        code="INTERRUPTED",
        message="interrupted",
        exit_code=Exit.INTERRUPTED,
        split_id=split_id,
        idempotency_key=idempotency_key,
    )


def print_split(result: Result, terminal: Terminal, *, as_json: bool) -> None:
    """Write the state of a split, a line per fact."""
    if as_json:
        print_json(result.as_json(), terminal)
        return
    facts = [
        ("id", result.id),
        ("status", result.status),
        ("source", result.source),
        ("length", clock(result.seconds) if result.seconds is not None else None),
        ("price", price(result.credits_used) if result.credits_used is not None else None),
        ("stems", ", ".join(result.stems) or None),
        ("reason", result.error.message if result.error is not None else None),
    ]
    rows = [(name, show(value)) for name, value in facts if value is not None]
    for line in columns(rows, indent=""):
        terminal.result(line)
