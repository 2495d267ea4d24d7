"""What a search left out, for people: how much of what, which for instance, and what to do about it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from os import sep

import attrs

from aistemsplitter_async.cli.screen.render import number, show
from aistemsplitter_async.library.found import EXAMPLES, Ignored
from aistemsplitter_async.library.kinds import Kind

_LINES = {  # in the order in which they are shown: what it is, with `{s}` for several, and the way out
    Kind.VIDEO: ("video{s}", "a pattern that names the extension takes the sound: "),  # the patterns follow
    Kind.ELSEWHERE: ("song{s} that a cloud has and this disk has not", "download first"),
    Kind.UNFINISHED: ("unfinished download{s}", ""),
    Kind.PROTECTED: ("protected file{s}", "only the player of the shop reads such files"),
    Kind.STEM: ("stem{s} of earlier separations", "a stem that is named itself is split"),
    Kind.HIDDEN: ("hidden audio file{s}", "a file that is named itself is split"),
    Kind.SYSTEM: (
        "recycle bin{s}, system folder{s} or file{s} of the system",
        "a folder that is named itself is searched",
    ),
    Kind.OTHER: ("other file{s}", ""),
}


@attrs.define
class IgnoredFiles:
    """A tally of what was left out."""

    _counts: Counter[Kind] = attrs.field(factory=Counter[Kind])
    _videos: Counter[str] = attrs.field(factory=Counter[str])  # by extension, in the letters of the names
    _roots: dict[str, str] = attrs.field(factory=dict[str, str])  # where the first video of an extension was found
    _examples: dict[Kind, list[str]] = attrs.field(factory=dict[Kind, list[str]])

    def note(self, found: Ignored) -> None:
        """Count what was left out of one folder."""
        above = found.root.rstrip(sep) + sep if found.root else ""
        self._counts[found.kind] += found.files
        names = [f"{found.folder.rstrip(sep)}{sep}{name}".removeprefix(above) for name in found.examples]
        if found.kind is Kind.VIDEO:
            extension = _extension(names[0])
            self._videos[extension] += found.files
            self._roots.setdefault(extension, above or found.folder + sep)
        if found.files > 0:
            examples = self._examples.setdefault(found.kind, [])
            examples += names[: EXAMPLES - len(examples)]

    def count(self, kind: Kind) -> int:
        """Return how much was left out for one reason."""
        return self._counts[kind]

    def as_json(self) -> dict[str, int]:
        """Return how much was left out for each reason that occurred."""
        return {kind.value: self._counts[kind] for kind in _LINES if self._counts[kind]}

    def lines(self, *, without: Kind | None = None) -> list[str]:
        """Return a line for each reason that occurred, except `without`."""
        return [self._line(kind) for kind in _LINES if self._counts[kind] and kind is not without]

    def _line(self, kind: Kind) -> str:
        count, examples = self._counts[kind], self._examples[kind]
        what, advice = (text.replace("{s}", "s" * (count != 1)) for text in _LINES[kind])
        if kind is Kind.VIDEO:
            examples = [name for name in examples if self._videos[_extension(name)]]
            patterns = [shlex.quote(pattern) for pattern in self._patterns()]
            advice += _joined(patterns, len(patterns), " ")
        shown = f" ({_joined(examples, count, ', ')})" if examples and kind is not Kind.OTHER else ""
        return show(f"left out: {number(count)} {what}{shown}{'; ' * bool(advice)}{advice}")

    def _patterns(self) -> list[str]:
        return [f"{self._roots[extension]}**{sep}*.{extension}" for extension, count in self._videos.items() if count]


def _joined(texts: Sequence[str], count: int, between: str) -> str:
    """Return the first of `count` texts."""
    few = texts[:EXAMPLES]
    return between.join([*few, ".."] if count > len(few) else few)


def _extension(name: str) -> str:
    return name.rpartition(".")[2]
