"""Established connections that become black holes: what is sent on them is neither received nor refused, ever.

The sockets of this process's own servers get a packet filter that drops every segment before TCP sees it, as a router
does that has forgotten a connection. No rights are needed for that, and new connections are not affected.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

CAN_SWALLOW = sys.platform == "linux"

_SO_ATTACH_FILTER = 26
_DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # one instruction of BPF: return 0 bytes
_PROGRAM = struct.pack("HxxxxxxP", 1, ctypes.addressof(_DROP_ALL))


def swallow(*ports: int) -> int:
    """Make black holes of all connections that this process has accepted on `ports`; their number."""
    swallowed = 0
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError), socket.socket(fileno=os.dup(int(descriptor.name))) as found:
            if found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] in ports:
                found.getpeername()  # raises for one that listens
                found.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM)
                swallowed += 1
    return swallowed
