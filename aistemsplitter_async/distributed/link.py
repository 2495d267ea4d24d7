"""The connection of a driver to its scheduler, made again when that is gone or restarted."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError as FutureCancelled
from contextlib import suppress
from typing import Any, Final

import attrs
from distributed import Client, KilledWorker, Security

from aistemsplitter_async._logs.loggers import Log
from aistemsplitter_async.clock import Clock
from aistemsplitter_async.distributed.tasks import Reply, Task
from aistemsplitter_async.distributed.worker import Closing, end_run, split_song
from aistemsplitter_async.errors import SCHEDULER_LOST, APIConnectionError, ConfigurationError

_log = Log("batch")
_CONNECT: Final = 5.0  # s for one attempt to connect
_REGISTER: Final = 10.0  # s for one attempt with all that is said then; Dask waits for ever for what says nothing
_PAUSE: Final = 0.5  # s between two
_GOODBYE: Final = 5.0  # s for the workers to hear that a run ends
# A wrong address, Dask of another kind, or no scheduler: what an HTTP server says is a length of exabytes to Dask.
_UNFIT: Final = (ImportError, ValueError, TypeError, MemoryError)


class GoneError(Exception):
    """The scheduler forgot a task, or is not there: it is given out again."""


class WorkerDiedError(Exception):
    """The workers that had a task died, one after another, as often as Dask puts up with."""


@attrs.define(eq=False)
class Link:
    """The connection to a scheduler.

    Args:
        address: of the scheduler.
        patience: seconds to wait for one that is gone.
        security: for TLS.
        clock: where time comes from.
    """

    address: str
    patience: float
    security: Security | None
    clock: Clock
    _client: Any = attrs.field(default=None, init=False)  # distributed has no types
    _connecting: asyncio.Lock = attrs.field(factory=asyncio.Lock, init=False)

    async def connect(self) -> None:
        """Connect, unless that is done.

        Raises:
            APIConnectionError: there is no scheduler, for as long as `patience` (`SCHEDULER_LOST`).
            ConfigurationError: the scheduler is none that can be used.
        """
        async with self._connecting:
            until, is_told = self.clock.monotonic() + self.patience, False
            while not self._is_connected:
                await self.close()
                client: Any = Client(  # type: ignore[no-untyped-call]
                    self.address,
                    asynchronous=True,
                    set_as_default=False,
                    timeout=_CONNECT,
                    security=self.security,
                    name="aistemsplitter",
                )
                try:
                    async with asyncio.timeout(_REGISTER):
                        await client
                except BaseException as error:
                    await client.close()
                    if isinstance(error, _UNFIT):
                        raise ConfigurationError(
                            f"cannot use what is at {self.address} as a scheduler: {error}"
                        ) from None
                    if not isinstance(error, OSError):
                        raise
                    if self.clock.monotonic() >= until:
                        raise self._lost() from None
                    if not is_told:
                        is_told = True
                        _log.warning(
                            "no Dask scheduler at %s; waiting for one, %g s at most",
                            self.address,
                            self.patience,
                        )
                    await self.clock.sleep(_PAUSE)
                else:
                    self._client = client

    async def ask(self, task: Task) -> Reply:
        """Give a task out, and return what the worker answers.

        Raises:
            GoneError: it must be given out again.
            WorkerDiedError: the same, but perhaps it is the song that kills workers.
            ConfigurationError: scheduler or worker cannot load this package.
            Exception: raised by the worker, which has a fault.
        """
        if not self._is_connected:
            raise GoneError
        future = self._client.submit(split_song, task.dump(), key=task.key, pure=False)
        try:
            reply: Reply = await future
        except KilledWorker as error:
            raise WorkerDiedError(str(error)) from None
        except (FutureCancelled, OSError) as error:  # errors of `TimeoutError` are OSErrors too
            raise GoneError(str(error)) from None
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(
                f"the scheduler or a worker at {self.address} cannot load this package ({error}): install the same "
                "version of aistemsplitter-async[dask] on all of them"
            ) from None
        finally:
            future.release()
        return reply

    async def count_workers(self) -> int:
        """Return how many workers there are, 0 if that cannot be found out."""
        if self._is_connected:
            with suppress(Exception):  # whatever Dask raises of a connection that it is just closing
                return len(await self._client.nthreads())
        return 0

    async def end(self, run: str, how: Closing) -> None:
        """Tell all workers that a run ends; those that do not hear it find out later."""
        if self._is_connected:
            with suppress(OSError, FutureCancelled):
                async with asyncio.timeout(_GOODBYE):
                    await self._client.run(end_run, run, how, on_error="ignore")

    async def close(self) -> None:
        """Close the connection; tasks of it are forgotten."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(OSError):
                await client.close()

    @property
    def _is_connected(self) -> bool:
        return self._client is not None and self._client.status == "running"

    def _lost(self) -> APIConnectionError:
        return APIConnectionError(
            f"there is no Dask scheduler at {self.address}, for {self.patience:g} s now; start it, and run the same "
            "again: what is finished costs nothing",
            code=SCHEDULER_LOST,
            may_have_arrived=False,
        )
