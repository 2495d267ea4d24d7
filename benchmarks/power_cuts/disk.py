"""A disk on which nothing survives a power cut but what was synced: the strictest that a file system may be.

The bytes of a file survive when it was synced after they were written; a name, when its folder was synced after it was
made; a new folder, when its parent was synced as well. A sync counts only for what had ended before it began.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from benchmarks.power_cuts.strace import Act


@attrs.define(eq=False)
class File:
    """A file: its bytes that survive, and what was done to it since."""

    content: bytes = b""
    waiting: list[Act] = attrs.field(factory=list[Act])

    def after(self, acts: Iterable[Act]) -> bytes:
        """Return the bytes after some of what was done. Of long data only the beginning is known."""
        content = bytearray(self.content)
        for act in acts:
            content.extend(bytes(max(0, act.offset - len(content))))
            if act.what == "truncate":
                del content[act.offset :]
            content[act.offset : act.offset + act.size] = act.data.ljust(act.size, b"?")
        return bytes(content)

    @property
    def now(self) -> bytes:
        """The bytes as they are until the power is cut."""
        return self.after(self.waiting)

    def survives(self, size: int) -> bool:
        """Return whether the first so many bytes survive as they are."""
        return len(self.content) >= size and all(act.offset >= size for act in self.waiting)

    def sync(self, began: int) -> None:
        covered = [act for act in self.waiting if act.ended < began]
        self.content = self.after(covered)
        self.waiting = [act for act in self.waiting if act.ended >= began]


@attrs.define(eq=False)
class Folder:
    """A folder: its names that survive, and those that were made (or with `None` removed) since."""

    synced: dict[str, File | Folder] = attrs.field(factory=dict)
    waiting: list[tuple[int, str, File | Folder | None]] = attrs.field(factory=list)

    @property
    def names(self) -> dict[str, File | Folder]:
        return self._after(len(self.waiting))

    def put(self, moment: int, name: str, what: File | Folder | None) -> None:
        self.waiting.append((moment, name, what))

    def sync(self, began: int) -> None:
        covered = sum(moment < began for moment, *_ in self.waiting)  # they are in order
        self.synced = self._after(covered)
        del self.waiting[:covered]

    def _after(self, count: int) -> dict[str, File | Folder]:
        names = dict(self.synced)
        for _, name, what in self.waiting[:count]:
            if what is None:
                names.pop(name, None)
            else:
                names[name] = what
        return names


class Disk:
    """What is below `root`, a folder that survives, with what is in it already."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.top = _read(root)

    def find(self, path: Path, *, synced: bool = False) -> File | Folder | None:
        """Return what is at `path`, or, with `synced`, what survives there."""
        found: File | Folder | None = self.top
        for name in path.relative_to(self.root).parts:
            if not isinstance(found, Folder):
                return None
            found = (found.synced if synced else found.names).get(name)
        return found

    def files(self, folder: Path) -> Iterator[tuple[Path, File]]:
        """Yield path and file of all that is below `folder`."""
        here = self.find(folder)
        for name, what in here.names.items() if isinstance(here, Folder) else ():
            if isinstance(what, File):
                yield folder / name, what
            else:
                yield from self.files(folder / name)

    def first_lost(self, path: Path) -> Path | None:
        """Return the first part of `path` that does not survive as it is, `None` if all of it does."""
        below = [path, *path.parents][: len(path.relative_to(self.root).parts)]
        for part in reversed(below):
            here = self.find(part)
            if here is None or self.find(part, synced=True) is not here:
                return part
        return None

    def do(self, act: Act) -> None:
        """Do what a process did, if it is about this disk."""
        if not act.path.is_relative_to(self.root):
            return
        here = self.find(act.path)
        match act.what:
            case "create" if here is None:
                self._put(act, act.path, File())
            case "folder":
                self._put(act, act.path, Folder())
            case "write" | "truncate" if isinstance(here, File):
                here.waiting.append(act)
            case "link" | "rename" if isinstance(here, File):
                self._put(act, act.to, here)
                if act.what == "rename":
                    self._put(act, act.path, None)
            case "unlink":
                self._put(act, act.path, None)
            case "sync" if here is not None:
                here.sync(act.began)
            case "create" | "sync":  # it is there already; or it was renamed meanwhile, and counts as not synced
                pass
            case _:
                raise ValueError(f"{act} does not fit what is there: {here}")

    def _put(self, act: Act, path: Path, what: File | Folder | None) -> None:
        folder = self.find(path.parent)
        assert isinstance(folder, Folder), f"{act} is in no folder that is known"
        folder.put(act.ended, path.name, what)


def _read(path: Path) -> Folder:
    return Folder(
        {entry.name: _read(entry) if entry.is_dir() else File(entry.read_bytes()) for entry in path.iterdir()}
    )
