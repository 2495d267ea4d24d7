"""What the library logs is no output of a command."""

from __future__ import annotations

import logging

import pytest

from aistemsplitter_async.cli.run import run
from aistemsplitter_async.cli.screen.terminal import Terminal


def test_a_warning_is_not_printed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "lastResort", None)  # restored at the end
    logger = logging.getLogger("aistemsplitter_async._gate.gate")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)  # pytest's handlers are those of the root
    monkeypatch.setattr(logger.manager, "emittedNoHandlerWarning", False)

    async def work(_: Terminal) -> int:
        logger.warning("nothing is sent for an hour")
        return 0

    assert run(work) == 0
    assert capfd.readouterr() == ("", "")
