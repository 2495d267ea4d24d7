"""How mistakes are built into the package, and the list of them. `mistakes` and `oversights` have them.

Each replaces one function of the package by one that does what a careless version would do. A name that is gone is an
error, so that a mistake cannot become harmless unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import attrs

_PACKAGE = "aistemsplitter_async"


@attrs.frozen
class Mistake:
    """A mistake, and the kind of trouble that finds it.

    Attributes:
        kind: of `scenario.KINDS`.
        build_in: puts it into the package, for this process and those forked from it.
        does: what is wrong then.
        first: the seed to begin with, one that found it when it was written: only so that it is found soon.
    """

    kind: str
    build_in: Callable[[], None]
    does: str
    first: int


MISTAKES: dict[str, Mistake] = {}


def mistake(name: str, kind: str, *, first: int = 1) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function that builds a mistake in."""

    def register(build_in: Callable[[], None]) -> Callable[[], None]:
        MISTAKES[name] = Mistake(kind, build_in, (build_in.__doc__ or "").strip(), first)
        return build_in

    return register


def replace(where: str, build: Callable[[Any], Any]) -> None:
    """Replace what `module:Class.name` is with what `build` makes of it."""
    module, _, path = where.partition(":")
    owner: Any = import_module(f"{_PACKAGE}.{module}")
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    if name not in vars(owner):
        raise LookupError(f"{where} is gone: rewrite the mistake that replaces it")
    setattr(owner, name, build(getattr(owner, name)))
