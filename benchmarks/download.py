"""Measures the speed and memory of downloading a stem, against plain aiohttp that writes one to a file.

All take it from the same server process and end with the bytes on the disk (`fsync`); see `paired.py` for how they are
compared. With `--against` the package of another checkout is one of them.

    python benchmarks/download.py [--mib 1024] [--rounds 3] [--into FOLDER] [--against CHECKOUT]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import paired  # type: ignore[import-not-found]  # a script beside this one

MIB = 1024 * 1024
WAYS = (paired.OURS, "as it comes", "1 MiB in threads")
_SECOND = 44_100 * 4  # bytes of stereo samples with 16 bits
_BLOCK = bytes(range(256)) * (MIB // 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--into", metavar="FOLDER", help="on which disk; by default that of temporary files")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another one of this repository")
    parser.add_argument("--child", nargs=4, metavar=("WAY", "MIB", "INTO", "URL"), help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=int, metavar="MIB", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
    elif options.child:
        way, mib, into, url = options.child
        asyncio.run(download(way, int(mib), into, url))
    else:
        compare(options.mib, options.rounds, options.into, options.against)


def compare(mib: int, rounds: int, into: str | None, other: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=into) as folder:
        command = [sys.executable, __file__, "--serve", str(mib)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            try:
                results = paired.run_rounds(__file__, WAYS, [str(mib), folder, url], rounds, other)
            finally:
                server.kill()
    print(f"{mib} MiB over plain HTTP on loopback, to a file that is synced, medians of {rounds} rounds")
    paired.report(results)


def serve(mib: int) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{listening.getsockname()[1]}"
    print(base, flush=True)
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=answer, args=(connection, base, mib), daemon=True).start()


def answer(connection: socket.socket, base: str, mib: int) -> None:
    """Answer one request after the other: with the split, or with its stem."""
    split = {
        "id": "split_1",
        "status": "succeeded",
        "stemModel": "4s",
        "filename": "long.wav",
        "durationSeconds": mib * MIB / _SECOND,
        "creditsUsed": 1,
        "createdAt": "2026-05-04T10:00:00Z",
        "updatedAt": "2026-05-04T10:01:00Z",
        "stems": {"vocals": f"{base}/cdn/vocals.wav"},
        "error": None,
    }
    with suppress(OSError), connection, connection.makefile("rb") as asked:
        while first := asked.readline():
            while asked.readline().strip():
                pass
            if b"/cdn/" not in first:
                body = json.dumps({"success": True, "data": split}).encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                continue
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nContent-Length: %d\r\n\r\n" % (mib * MIB)
            )
            for _ in range(mib):
                connection.sendall(_BLOCK)


async def download(way: str, mib: int, into: str, base: str) -> None:
    with tempfile.TemporaryDirectory(dir=into) as folder:
        target = Path(folder)
        run = await prepare_ours(target, base) if way == paired.OURS else prepare_plain(way, target, base)
        await paired.print_measured(run, mib * MIB)
        (file,) = (path for path in target.rglob("*") if path.is_file() and not path.name.startswith("."))
        assert file.stat().st_size == mib * MIB


async def prepare_ours(target: Path, base: str) -> Callable[[], Any]:
    from aistemsplitter_async import AsyncAIStemSplitter

    client = AsyncAIStemSplitter("ast_benchmark", base_url=f"{base}/v1")
    split = await client.get_split("split_1")  # loads the modules of a call: imports are measured elsewhere

    async def run() -> None:
        async with client:
            await client.download_stems(split, target)

    return run


def prepare_plain(way: str, target: Path, base: str) -> Callable[[], Any]:
    import aiohttp

    async def write_as_it_comes(response: aiohttp.ClientResponse, file: Any) -> None:
        async for chunk in response.content.iter_any():
            file.write(chunk)

    async def write_in_threads(response: aiohttp.ClientResponse, file: Any) -> None:
        async for chunk in response.content.iter_chunked(MIB):
            await asyncio.to_thread(file.write, chunk)

    async def run() -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout, read_bufsize=256 * 1024) as session:
            response = await session.get(f"{base}/cdn/vocals.wav")
            with open(target / "vocals.wav", "wb", buffering=0) as file:  # noqa: ASYNC230, PTH123
                await (write_as_it_comes if way == WAYS[1] else write_in_threads)(response, file)
                await asyncio.to_thread(os.fsync, file.fileno())

    return run


if __name__ == "__main__":
    main()
