"""The sources of `split`: files and URLs, each with a folder for its stems and a name on the screen."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from aistemsplitter_async._transfer.names import folder_name
from aistemsplitter_async._wire.urls import filename_of_url, is_url
from aistemsplitter_async.cli.screen.render import command, shown_source
from aistemsplitter_async.library.names import Names
from aistemsplitter_async.library.playlists import kind_of
from aistemsplitter_async.library.spellings import Closeness

_PATTERN = re.compile(r"[*?[]")
_FALLBACK = "audio"  # the folder for a URL without a file name


def advise_on(source: str) -> str | None:
    """Return the command for a source that cannot be split as one song: a folder, a list, a pattern. It blocks."""
    if "://" in source:
        return None
    path, batch = Path(source), command("batch", source)
    with suppress(OSError, ValueError):
        if path.is_dir():
            return f"all songs in a folder are split by: {batch}"
        if path.is_file():
            return f"the songs in a list are split by: {batch}" if kind_of(path.name) is not None else None
        if _PATTERN.search(source):
            return f"if it is a pattern, the shell did not expand it; this does: {batch}"
    return None


def plan_folders(sources: Sequence[str]) -> list[str]:
    """Return a folder name per source: its name without extension, numbered where two would be the same.

    Names that differ only in case are the same on some systems.
    """
    wanted = [usual_folder(source) for source in sources]
    taken = {name.casefold() for name in wanted}
    used: set[str] = set()
    folders = []
    for name in wanted:
        folder, count = name, 1
        while folder.casefold() in used or (count > 1 and folder.casefold() in taken):
            count += 1
            folder = f"{name}-{count}"
        used.add(folder.casefold())
        folders.append(folder)
    return folders


def usual_folder(source: str) -> str:
    """Return the folder name for a source that shares its name with no other."""
    return folder_name(_name_of(source), fallback=_FALLBACK)


def settle_sources(sources: Sequence[str]) -> list[str]:
    """Return the sources in their order, each once: the same file twice would be paid for twice.

    A file that is called so but for the form of its accents (NFC, NFD) or its code page is meant.
    """
    seen: dict[object, str] = {}
    for source in sources:
        if is_url(source):
            seen.setdefault(source, source)
            continue
        path = _find_spelled(source)
        try:
            status = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):
            seen.setdefault(source, source)
        else:
            seen.setdefault((status.st_dev, status.st_ino or os.path.realpath(path)), path)
    return list(seen.values())


def _find_spelled(source: str) -> str:
    if "\x00" in source or os.path.lexists(source):
        return source
    found = Names().find(os.path.abspath(source), os.getcwd(), Closeness.REENCODED)  # noqa: PTH100, PTH109
    return found if isinstance(found, str) else source


def plan_labels(sources: Sequence[str]) -> list[str]:
    """Return a name on the screen for each source: its file name, or all of it where two have the same."""
    names = [_name_of(source) or shown_source(source) for source in sources]
    count = Counter(names)
    return [shown_source(source) if count[name] > 1 else name for source, name in zip(sources, names, strict=True)]


def _name_of(source: str) -> str:
    return filename_of_url(source) if is_url(source) else Path(source).name
