"""Paths as they are written on a command line, where the shell has not made them what the system wants."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from aistemsplitter_async._wire.urls import is_url

STDIN = "-"  # as a path
_END_OF_OPTIONS = "--"
_TAKING_PATHS = frozenset({"split", "batch", "estimate"})


def expand_home(path: str) -> str:
    """Return `path` with `~` or `~user` at its beginning replaced by that home folder.

    Shells do it for `~/stems`, but not for `--into=~/stems`, and not for what comes from a program or a
    service file. What exists as it is written is left alone, and so is a name that belongs to no user.

    Raises:
        ValueError: it is `~`, but where that is cannot be found out.
    """
    first = path.partition(os.sep)[0]
    if not first.startswith("~") or os.path.lexists(first):
        return path
    expanded = os.path.expanduser(path)  # noqa: PTH111  # `Path` raises where a name is no user's
    if first == "~" and expanded == path:
        raise ValueError(f"there is no home folder for {path}; set HOME")
    return expanded


def expand_path(text: str) -> Path:
    """Return an option's path, with `expand_home`; a path that is empty is not the current folder.

    Raises:
        ValueError: it is empty, has a NUL in it, or there is no such home folder.
    """
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not a path")
    return Path(expand_home(text))


def expand_source(source: str) -> str:
    """Return a source with `expand_home`, unless it is a URL.

    Raises:
        ValueError: there is no such home folder.
    """
    return source if is_url(source) else expand_home(source)


def protect_paths(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which every path after `--` is seen to be one: `-intro.wav` becomes `./-intro.wav`."""
    if _END_OF_OPTIONS not in arguments or arguments[0] not in _TAKING_PATHS:
        return list(arguments)
    end = arguments.index(_END_OF_OPTIONS) + 1
    paths = (os.path.join(os.curdir, path) if path.startswith("-") else path for path in arguments[end:])  # noqa: PTH118
    return [*arguments[:end], *paths]
