"""Which boot of which machine this is: the monotonic clocks of two boots have nothing in common."""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path
from typing import Final

from aistemsplitter_async.config import STORE_ELSEWHERE

_MOMENT: Final = "~"  # begins the name of a boot that is only known by its moment
_CLOCK_STEP: Final = 10.0  # s by which that may seem to move as the wall clock is corrected


def read_boot() -> str:
    """Return a name of this boot: the system's id of it, or else the moment of it by the wall clock."""
    if sys.platform == "linux":
        try:
            boot, clock = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/time")
            return f"{boot.read_text('ascii').strip()} {clock.readlink()}"  # a container may have a clock of its own
        except OSError:
            pass
    if sys.platform == "darwin" and (found := _sysctl("kern.bootsessionuuid")):
        return found
    return f"{_MOMENT}{time.time() - time.monotonic():.3f}"


def is_same_boot(one: str, other: str) -> bool:
    """Return whether two names, as `read_boot` gives them, are of one boot. A clock that was set counts as another."""
    if one.startswith(_MOMENT) and other.startswith(_MOMENT):
        return abs(float(one[1:]) - float(other[1:])) <= _CLOCK_STEP
    return one == other


def is_elsewhere(other: str, boot: str, *, age: float, uptime: float) -> bool:
    """Return whether another boot is one that still runs, on another machine, and not an earlier one of this.

    Args:
        other: its name.
        boot: of this one.
        age: seconds ago, by the wall clock, that it was heard of.
        uptime: seconds since this boot.
    """
    are_ids = not (other.startswith(_MOMENT) or boot.startswith(_MOMENT))
    return are_ids and other != boot and abs(age) < min(uptime, STORE_ELSEWHERE)


def _sysctl(name: str) -> str:
    """Return a setting of macOS, empty if it has none of that name."""
    size = ctypes.c_size_t(128)
    value = ctypes.create_string_buffer(size.value)
    failed = ctypes.CDLL(None).sysctlbyname(name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0))
    return "" if failed else value.value.decode()
