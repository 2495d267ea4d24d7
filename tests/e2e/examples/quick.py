"""Runs an example as Python would, except that its client polls twenty times as often: the sandbox takes no time.

python quick.py EXAMPLE [ARGUMENT...]
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from aistemsplitter_async import PollPolicy, client

QUICK = PollPolicy().scaled(0.05)

if __name__ == "__main__":
    vars(client)["PollPolicy"] = lambda: QUICK
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
