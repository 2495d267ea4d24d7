"""What a command hands out for each split: a JSON object, or a few lines for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from aistemsplitter_async.cli.failures import Failure
from aistemsplitter_async.cli.screen.render import clock, columns, price, show
from aistemsplitter_async.cli.screen.terminal import BOLD, Terminal


@attrs.frozen(kw_only=True)
class Result:
    """How one source or split stands.

    Attributes:
        source: as it was given, or the file name the server knows it by.
        stems: stem name to file, or to URL where nothing was fetched.
        seconds: length of the audio.
    """

    source: str | None
    id: str | None = None
    status: str | None = None
    stems: Mapping[str, object] = attrs.field(factory=dict[str, object])
    credits_used: float | None = None
    seconds: float | None = None
    error: Failure | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the object that scripts get."""
        return {
            "id": self.id,
            "status": self.status,
            "source": self.source,
            "stems": {name: str(place) for name, place in self.stems.items()},
            "credits_used": self.credits_used,
            "error": self.error.as_json() if self.error else None,
        }

    def headline(self) -> list[str]:
        """Return what there is to say about the split itself."""
        length = clock(self.seconds) if self.seconds is not None else None
        cost = price(self.credits_used) if self.credits_used is not None else None
        return [part for part in (length, cost, self.id) if part]


def hand_out(result: Result, terminal: Terminal, *, as_json: bool) -> None:
    """Write a result: on stdout, and its error on stderr too."""
    if as_json:
        hand_out_json(result.as_json(), terminal)
    elif result.error is None:
        title = terminal.paint(show(result.source or result.id), BOLD)
        terminal.result("  ".join((title, *result.headline())))
        for name, file in result.stems.items():
            terminal.result(f"  {show(file)}" if str(file) else f"  {show(name)}")
    if result.error is not None:
        terminal.error(result.error.message)


def hand_out_json(value: dict[str, Any], terminal: Terminal) -> None:
    """Write one JSON object on a line of its own."""
    text = json.dumps(value)
    terminal.result(text if terminal.key is None else text.replace(terminal.key, "ast_***"))


def tell_interrupted(how_it_stands: str, ways_on: Sequence[str], terminal: Terminal) -> None:
    """Write what a signal left behind, and the commands to go on with, each on a line that can be copied."""
    terminal.say(f"interrupted; {show(how_it_stands)}")
    for way_on in ways_on:
        terminal.say(f"  {show(way_on)}")


def hand_out_state(result: Result, terminal: Terminal) -> None:
    """Write how a split stands, a line per fact."""
    facts = [
        ("id", result.id),
        ("status", result.status),
        ("source", result.source),
        ("length", clock(result.seconds) if result.seconds is not None else None),
        ("price", price(result.credits_used) if result.credits_used is not None else None),
        ("stems", ", ".join(result.stems) or None),
    ]
    rows = [(name, show(value)) for name, value in facts if value is not None]
    for line in columns(rows, indent=""):
        terminal.result(line)
