"""Loaded first by the workers that `--on local:N` starts: Ctrl-C is for the driver, which lets them finish."""

from __future__ import annotations

import signal


def dask_setup(_: object) -> None:
    """Ignore the signal that a terminal sends to all processes of a command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
