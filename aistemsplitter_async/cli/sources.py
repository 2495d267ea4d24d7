"""What `split` is given: files and URLs, and the folder that each one's stems go to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aistemsplitter_async._transfer.names import folder_name
from aistemsplitter_async._wire.urls import filename_of_url
from aistemsplitter_async.models import redact_url

_NAMELESS = "audio"  # the folder for a URL that ends in no name


def is_url(source: str) -> bool:
    """Return whether the API is to fetch a source by itself."""
    return source[:8].lower().startswith(("http://", "https://"))


def shown_source(source: str) -> str:
    """Return a source fit to be shown: of a URL without its query, which may be what grants access."""
    return redact_url(source) if is_url(source) else source


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
    """Return the folder name that a source's own name leads to."""
    name = filename_of_url(source) if is_url(source) else Path(source).name
    return folder_name(name, fallback=_NAMELESS)


def without_repeats(sources: Sequence[str]) -> list[str]:
    """Return the sources in their order, each once: the same file twice would be paid twice."""
    seen: dict[str, str] = {}
    for source in sources:
        seen.setdefault(source if is_url(source) else os.path.realpath(source), source)
    return list(seen.values())


def plan_labels(sources: Sequence[str]) -> list[str]:
    """Return what to call each source on the screen: its name, or all of it where two have the same name."""
    names = [
        (filename_of_url(source) if is_url(source) else Path(source).name) or shown_source(source) for source in sources
    ]
    count = Counter(names)
    return [shown_source(source) if count[name] > 1 else name for source, name in zip(sources, names, strict=True)]
