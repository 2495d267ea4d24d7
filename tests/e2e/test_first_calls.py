"""What the event loop's thread does in the public calls, the first of a process among them.

Nothing is timed: an import, a file that is opened and a question to the file system are each seen. How long every call
takes of the loop is measured by the program that is started here, without `--audit`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "first_calls.py"
# Fifty times a second, and of a file on this machine, as an inbox must be: a thread would take more of the loop.
LOOKS = "webhooks/sqlite_inbox.py"


def test_no_public_call_imports_or_touches_the_disk_on_the_event_loop() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--audit"], capture_output=True, text=True, check=True, timeout=120
    )
    seen: list[str] = json.loads(done.stdout)
    assert [what for what in seen if not (what.startswith("os.stat ") and LOOKS in what)] == []
    for child in ("http", "gate", "poll", "transfer", "split", "batch"):
        assert f"DEBUG   aistemsplitter_async.{child}: " in done.stderr


def test_what_blocks_the_event_loop_is_seen(tmp_path: Path) -> None:
    (tmp_path / "slow_module.py").write_text("")
    code = (
        "import asyncio, json, os, sys;"
        f"sys.path[:0] = [{str(PROGRAM.parents[1])!r}, {str(tmp_path)!r}];"
        "from benchmarks.blocking.watch import Watch; watched = Watch()\n"
        "async def main():\n"
        "    await asyncio.to_thread(os.listdir, '/')\n"
        "    import slow_module; open(slow_module.__file__).close(); os.path.exists('/')\n"
        "with watched.on(audit=True):\n"
        "    asyncio.run(main())\n"
        "print(json.dumps(watched.seen))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    seen = json.loads(done.stdout)
    for expected in ("import ('slow_module',)", f"open ('{tmp_path}/slow_module.py',)"[:60], "os.stat ('/',)"):
        assert [what for what in seen if what.startswith(expected)], expected
    assert not [what for what in seen if what.startswith("os.listdir ('/',)")], "of another thread"
