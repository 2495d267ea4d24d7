"""What a process may be started with, put right before anything else runs: closed streams, odd locales, odd sizes."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_MOST = 10_000  # columns or lines; nothing real has more, and help would be drawn that wide
_FEWEST = 5  # columns; for one, or none, the layout of the help never ends


def prepare() -> None:
    """Prepare this process for a command; it may restart Python in its place."""
    _open_streams()
    _use_utf8_names()
    _bound_sizes()


def _open_streams() -> None:
    """Open the standard streams that are closed, lest the first file or socket of ours take their numbers.

    What is written goes nowhere, as the caller wished. Reading fails, as it should: nothing was given.
    """
    closed = [number for number in range(3) if not _is_open(number)]
    for number in closed:
        opened = os.open(os.devnull, os.O_WRONLY)  # standard input too: to read from it is an error then
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # a descriptor; it stays open
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif os.name == "posix" and not os.get_blocking(number):
            os.set_blocking(number, True)  # left so by another program on the same pipe; a long text would be cut


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _use_utf8_names() -> None:
    """Restart Python in its UTF-8 mode if the locale has another encoding.

    The names of stems and folders come from tags and from the server. Under `LC_ALL=C` or Latin-1 many of them could
    not be created, after they are paid for. In this mode a name of any bytes survives; what is printed keeps the
    encoding of the locale, with escapes for what it lacks.
    """
    is_utf8 = os.name != "posix" or sys.getfilesystemencoding() == "utf-8"
    if is_utf8 or "utf8" in sys._xoptions:  # noqa: SLF001  # documented for `-X`
        return
    if not sys.executable or getattr(sys, "frozen", False) or sys.argv[0] in ("", "-"):
        return  # no Python to start; an application that would take `-X` for its own; a program that stdin has no more
    environment = {b"PYTHONIOENCODING": f"{sys.stdout.encoding}:backslashreplace".encode()} | os.environb
    with suppress(OSError):  # the command line is as long as can be, or Python was removed meanwhile
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)  # noqa: S606  # ourselves


def _bound_sizes() -> None:
    """Make the size of the terminal, as the environment or the system gives it, one that help can be laid out for."""
    for name, least in (("COLUMNS", _FEWEST), ("LINES", 1)):
        value = os.environ.get(name, "")
        if value and not (value.isascii() and value.isdecimal() and len(value) < 6 and least <= int(value) <= _MOST):  # noqa: PLR2004
            del os.environ[name]
    if "COLUMNS" not in os.environ and any(0 < _columns(number) < _FEWEST for number in range(3)):
        os.environ["COLUMNS"] = str(_FEWEST)


def _columns(number: int) -> int:
    try:
        return os.get_terminal_size(number).columns
    except OSError:  # it is no terminal
        return 0
