"""What a process did to its files and sent to its peers, as `strace` shows it (Linux; it must be installed)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

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
    acts = [act for call in _join(lines) for act in _read(call, positions)]
    certain = [act for act in acts if act.ended < len(lines) or happened(act)]
    return sorted(certain, key=lambda act: act.began if act.what == "send" else act.ended)


@attrs.frozen
class _Call:
    """A call that did not fail.

    Attributes:
        name: of the call.
        arguments: all of them, as shown.
        result: a number, `None` if the process was killed meanwhile.
        began: number of its first line.
        ended: number of its last line, behind all others if there is none.
    """

    name: str
    arguments: str
    result: int | None
    began: int
    ended: int

    @property
    def texts(self) -> list[bytes]:
        return [_decode(text) for text in _TEXT.findall(self.arguments)]

    @property
    def files(self) -> list[Path]:
        """What the descriptors among the arguments stand for."""
        return [Path(os.fsdecode(_decode(text))) for text in _FILE.findall(self.arguments)]

    @property
    def descriptor(self) -> str:
        return self.arguments.partition("<")[0]

    @property
    def last(self) -> int:
        return int(self.arguments.rpartition(", ")[2])

    def named(self) -> list[Path]:
        """Return the paths among the arguments.

        Raises:
            ValueError: one is relative, and the folder is not shown.
        """
        texts, files = self.texts, self.files
        folders: list[Path | None] = [*files] if len(files) == len(texts) else [None] * len(texts)
        paths = [Path(folder or "", os.fsdecode(text)) for folder, text in zip(folders, texts, strict=True)]
        if not all(path.is_absolute() for path in paths):
            raise ValueError(f"{self.name} of a relative path: {paths}")
        return paths

    def act(self, what: What, path: Path, **more: Any) -> Act:
        return Act(what, path, began=self.began, ended=self.ended, **more)


def _join(lines: Sequence[str]) -> Iterator[_Call]:
    """Yield the calls. One that another thread interrupted has two lines, one that a kill interrupted has no result."""
    begun: dict[str, tuple[str, int]] = {}  # by thread
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
            yield _Call(match[1], match[2], None, began, len(lines))
        elif match is not None and int(match[3]) >= 0:
            yield _Call(match[1], match[2], int(match[3]), began, ended)


def _read(call: _Call, positions: dict[str, int]) -> Iterable[Act]:
    """Return what a call did; keep the positions of descriptors, which only the calls before tell."""
    match call.name:
        case "openat" | "open" | "creat":
            positions[str(call.result)] = 0
            return _read_open(call)
        case "lseek":
            positions[call.descriptor] = call.result or 0
            return ()
        case "write" | "pwrite64":
            data = call.texts[0]
            size = len(data) if call.result is None else call.result
            offset = call.last if call.name == "pwrite64" else positions.get(call.descriptor, 0)
            if call.name == "write":
                positions[call.descriptor] = offset + size
            return (call.act("write", call.files[0], offset=offset, data=data[:size], size=size),)
        case "sendto" | "sendmsg":
            return (call.act("send", Path(), data=b"".join(call.texts)),)
        case _:
            return _read_change(call)


def _read_open(call: _Call) -> Iterator[Act]:
    (path,) = call.named()
    if call.name == "creat" or "O_CREAT" in call.arguments:
        yield call.act("create", path)
    if call.name == "creat" or "O_TRUNC" in call.arguments:
        yield call.act("truncate", path)
    if "O_APPEND" in call.arguments:  # where it is written to is not shown
        yield call.act("unknown", path)


def _read_change(call: _Call) -> Iterator[Act]:
    match call.name.removesuffix("at2").removesuffix("at"):
        case "mkdir":
            yield call.act("folder", *call.named())
        case "rename" | "link" as what:
            old, new = call.named()
            yield call.act(what, old, to=new)
        case "unlink" | "rmdir":
            yield call.act("unlink", *call.named())
        case "ftruncate":
            yield call.act("truncate", call.files[0], offset=call.last)
        case "fsync" | "fdatasync":
            yield call.act("sync", call.files[0])
        case _:
            yield from (call.act("unknown", path) for path in call.files)


def _decode(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
