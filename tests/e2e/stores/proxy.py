"""A TCP proxy before PostgreSQL that can break a connection at a commit, before or after the server has done it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

Cut = Literal["before", "after", "late"]
COMMIT = b"COMMIT\0"  # the end of the message that sends it


class Proxy:
    """Passes bytes on between clients and a server.

    Attributes:
        cut: what becomes of the next commit: the client's connection is broken `before` the server hears of it, `after`
            it was done but before its answer, or before the server hears of it `late`, once `release` is called.
    """

    def __init__(self, server: str) -> None:
        self.cut: Cut | None = None
        self._server = server
        self._released = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def release(self) -> None:
        self._released.set()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._threads.append(threading.Thread(target=self._pass, args=(client, server)))
                self._threads[-1].start()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            answers = threading.Thread(target=_pump, args=(server, client))
            answers.start()
            with suppress(OSError):
                while data := client.recv(65536):
                    if self.cut is not None and data.endswith(COMMIT):
                        cut, self.cut = self.cut, None
                        _break(client)
                        if cut == "late":
                            self._released.wait()
                        if cut != "before":
                            server.sendall(data)
                        break
                    server.sendall(data)
            with suppress(OSError):
                server.shutdown(socket.SHUT_WR)  # what it got is done before it reads the end
            answers.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            with suppress(OSError):
                target.sendall(data)
    _break(target)


def _break(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(server: str) -> Iterator[Proxy]:
    running = Proxy(server)
    try:
        yield running
    finally:
        running.release()
        running.close()
