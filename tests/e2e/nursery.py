"""A process that has the command line imported, and forks one for each command.

Most of the time of a command that does little is spent on imports. Here they are done once for all tests of a worker.
Each command still has a process of its own, with its own arguments, environment, folder, streams and exit code.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import attrs

_ROOMS = ("_audio", "_gate", "_logs", "_poll", "_send", "_transfer", "_wire", "batch", "cli", "journal", "library")
_OPTIONAL = ("aistemsplitter_async._transfer.sound",)  # loads numpy, which starts threads
_AT_START = ("PYTHON", "LC_", "LANG", "TZ")  # variables that Python reads when it starts
_REQUEST_BYTES = 200_000


@attrs.frozen
class Nursery:
    """The address of one that runs."""

    address: str

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Return whether a forked process is as good as a new one."""
        changed = {name for name, _ in environment.items() ^ os.environ.items()}
        return not any(name.startswith(_AT_START) for name in changed)

    async def run(
        self, arguments: Iterable[str], folder: Path, environment: Mapping[str, str]
    ) -> tuple[int, bytes, bytes]:
        """Run a command without input; return its exit code, and what it wrote to stdout and stderr."""
        loop = asyncio.get_running_loop()
        request = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(self.address)
            outs = [os.pipe(), os.pipe()]
            given = [os.open(os.devnull, os.O_RDONLY), *(write for _, write in outs)]
            socket.send_fds(connection, [json.dumps(request).encode()], given)
            for descriptor in given:
                os.close(descriptor)
            connection.setblocking(False)
            reading = [asyncio.ensure_future(_read(read)) for read, _ in outs]
            pid = int(await loop.sock_recv(connection, 16))
            try:
                out, err = [await one for one in reading]
                return int(await loop.sock_recv(connection, 16)), out, err
            except BaseException:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                await asyncio.wait(reading)
                raise


async def _read(descriptor: int) -> bytes:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    try:
        return await reader.read()
    finally:
        transport.close()


@contextmanager
def running(folder: Path) -> Iterator[Nursery]:
    """Start a nursery; it ends with the block, or with this process."""
    address = str(folder / "nursery")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen(64)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AISTEMSPLITTER_")}
        with subprocess.Popen(
            [sys.executable, __file__, str(listening.fileno())],
            pass_fds=[listening.fileno()], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n", "it says why on stderr"
                yield Nursery(address)
            finally:
                process.kill()


def serve(listening: socket.socket) -> int:
    """Fork a process for each connection; return, in each of them, the exit code of its command."""
    import aistemsplitter_async
    from aistemsplitter_async.cli import main

    for module in walk_packages(aistemsplitter_async.__path__, "aistemsplitter_async."):
        if module.name.split(".")[1] in _ROOMS and module.name not in _OPTIONAL:
            import_module(module.name)
    assert threading.active_count() == 1, "what is forked must have one thread"
    assert "numpy" not in sys.modules, "or a command would not have to load it"
    gc.freeze()
    print("ready", flush=True)  # noqa: T201
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # they need not be waited for
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        if sys.stdin in ready:  # closed: who started this has ended
            return 0
        connection, _ = listening.accept()
        if os.fork():
            connection.close()
            continue
        listening.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        data, descriptors, _, _ = socket.recv_fds(connection, _REQUEST_BYTES, 3)
        if child := os.fork():
            connection.send(str(child).encode())
            for descriptor in descriptors:
                os.close(descriptor)
            connection.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
            os._exit(0)
        connection.close()
        request = json.loads(data)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        for name, mode in (("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb")):  # the old ones know where they were
            old = getattr(sys, name)
            binary = open(old.fileno(), mode, closefd=False)  # noqa: SIM115  # a descriptor; it stays open
            text = io.TextIOWrapper(binary, old.encoding, old.errors, line_buffering=old.line_buffering)
            setattr(sys, name, text)
            setattr(sys, f"__{name}__", text)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.path[0] = request["folder"]
        sys.argv = [str(Path(aistemsplitter_async.__file__).with_name("__main__.py")), *request["arguments"]]
        return main()


if __name__ == "__main__":
    sys.exit(serve(socket.socket(fileno=int(sys.argv[1]))))
