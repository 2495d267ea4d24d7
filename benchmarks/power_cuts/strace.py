"""What a process did to its files and sent to its peers, as `strace` shows it (Linux; it must be installed)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import attrs

# Those with a question mark are not known to every processor.
_CALLS: Final = (
    "openat,?open,?creat,?mkdir,mkdirat,write,pwrite64,writev,pwritev,?pwritev2,lseek,ftruncate,truncate,fallocate,"
    "copy_file_range,sendfile,?rename,renameat,?renameat2,?link,linkat,?unlink,unlinkat,?rmdir,fsync,fdatasync,sendto,"
    "sendmsg"
)
_LONGEST: Final = 8192  # bytes shown of what is written: more than a page of SQLite

_UNFINISHED = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_WHOLE = re.compile(r"^\d+ +(\w+\(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+|\?)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FILE = re.compile(r"(?:\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")

What = Literal["create", "folder", "write", "truncate", "link", "rename", "unlink", "sync", "send", "unknown"]


@attrs.frozen
class Act:
    """One thing that a process did. Those that failed are left out.

    Attributes:
        what: it did; `unknown` is a call that is not understood.
        path: of the file or folder.
        offset: where the bytes went, or how long the file is now.
        data: what was written or sent; of long data the beginning.
        size: how many bytes that were.
        to: the other name of a link, or the new name.
        began: number of the line that shows its begin. It may have had its effect from here on.
        ended: number of the line that shows its end. From here on it is certain.
    """

    what: What
    path: Path = Path()
    offset: int = 0
    data: bytes = b""
    size: int = 0
    to: Path = Path()
    began: int = 0
    ended: int = 0


def can_trace() -> bool:
    """Return whether `strace` works here."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


def record(command: list[str], log: Path, *, killed: bool = False) -> list[Act]:
    """Run a program under `strace`, which writes to `log`, and return what it did.

    Raises:
        RuntimeError: the program or `strace` failed; or, with `killed`, it was not killed.
    """
    watched = ["strace", "-f", "--seccomp-bpf", "-qq", "-xx", "-y", "-s", str(_LONGEST), "-e", f"trace={_CALLS}"]
    done = subprocess.run([*watched, "-o", str(log), *command], capture_output=True, text=True, check=False)
    if done.returncode != (-signal.SIGKILL if killed else 0):
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return read_trace(log.read_text().splitlines(), has_happened)


def has_happened(act: Act) -> bool:
    """Return whether the folders here show what a process did that was killed meanwhile."""
    match act.what:
        case "create" | "folder" | "write" | "truncate":
            return os.path.lexists(act.path)
        case "link":
            return os.path.lexists(act.to)
        case "rename" | "unlink":
            return not os.path.lexists(act.path)
        case _:
            return False


def read_trace(lines: Sequence[str], happened: Callable[[Act], bool] = lambda _: False) -> list[Act]:
    """Return what the lines of a trace show, in the order in which it was certain; what was sent, when that began.

    Args:
        lines: the trace.
        happened: says it of what had begun when the process was killed, and no line shows the end of.
    """
    positions: dict[str, int] = {}  # of descriptors
    acts = [act for call in _join(lines) for act in _read_call(*call, positions)]
    certain = [act for act in acts if act.ended < len(lines) or happened(act)]
    return sorted(certain, key=lambda act: act.began if act.what == "send" else act.ended)


def _join(lines: Sequence[str]) -> Iterator[tuple[str, str, int | None, int, int]]:
    """Yield name, arguments, result, first and last line of each call that did not fail.

    One that a kill interrupted has no result, and its last line is behind all others.
    """
    begun: dict[str, tuple[str, int]] = {}
    calls: list[tuple[str, int, int]] = []
    for number, line in enumerate(lines):
        if (match := _UNFINISHED.match(line)) is not None:
            begun[match[1]] = match[2], number
        elif (match := _RESUMED.match(line)) is not None:
            head, began = begun.pop(match[1])
            calls.append((head + match[2], began, number))
        elif (match := _WHOLE.match(line)) is not None:
            calls.append((match[1], number, number))
    calls += [(f"{head}) = ?", began, len(lines)) for head, began in begun.values()]
    for call, began, ended in calls:
        match = _CALL.match(call)
        if match is not None and match[3] == "?":
            yield match[1], match[2], None, began, len(lines)
        elif match is not None and int(match[3]) >= 0:
            yield match[1], match[2], int(match[3]), began, ended


def _read_call(
    name: str, arguments: str, result: int | None, began: int, ended: int, positions: dict[str, int]
) -> Iterator[Act]:
    texts = [_decode(text) for text in _TEXT.findall(arguments)]
    files = [Path(os.fsdecode(_decode(text))) for text in _FILE.findall(arguments)]
    descriptor, last = arguments.partition("<")[0], arguments.rpartition(", ")[2]
    act = Act("unknown", files[0] if files else Path(), began=began, ended=ended)
    match name:
        case "openat" | "open" | "creat":
            positions[str(result)] = 0
            path = _named(files[:1], texts[0])
            if name == "creat" or "O_CREAT" in arguments:
                yield attrs.evolve(act, what="create", path=path)
            if name == "creat" or "O_TRUNC" in arguments:
                yield attrs.evolve(act, what="truncate", path=path)
            if "O_APPEND" in arguments:  # where it is written to is not shown
                yield attrs.evolve(act, path=path)
        case "mkdir" | "mkdirat":
            yield attrs.evolve(act, what="folder", path=_named(files[:1], texts[0]))
        case "lseek":
            positions[descriptor] = result or 0
        case "write" | "pwrite64":
            size = len(texts[0]) if result is None else result
            offset = int(last) if name == "pwrite64" else positions.get(descriptor, 0)
            if name == "write":
                positions[descriptor] = offset + size
            yield attrs.evolve(act, what="write", offset=offset, data=texts[0][:size], size=size)
        case "ftruncate":
            yield attrs.evolve(act, what="truncate", offset=int(last))
        case "rename" | "renameat" | "renameat2" | "link" | "linkat":
            what: What = "link" if name.startswith("link") else "rename"
            old, new = _named(files[:1], texts[0]), _named(files[-1:], texts[1])
            yield attrs.evolve(act, what=what, path=old, to=new)
        case "unlink" | "unlinkat" | "rmdir":
            yield attrs.evolve(act, what="unlink", path=_named(files[:1], texts[0]))
        case "fsync" | "fdatasync":
            yield attrs.evolve(act, what="sync")
        case "sendto" | "sendmsg":
            yield attrs.evolve(act, what="send", data=b"".join(texts))
        case _:
            yield from (attrs.evolve(act, path=path) for path in files)


def _named(folder: list[Path], name: bytes) -> Path:
    path = Path(*folder, os.fsdecode(name))
    if not path.is_absolute():
        raise ValueError(f"{path} is not absolute: the trace does not show where it is")
    return path


def _decode(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
