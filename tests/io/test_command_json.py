"""What `--json` prints: the same as `to_dict()`, on one line that every JSON parser takes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from aistemsplitter_async import Skipped
from aistemsplitter_async.cli.results import Result, print_result
from aistemsplitter_async.cli.screen.terminal import Terminal

NAME = "caf\udce9.wav"


def test_names_that_are_not_text_and_numbers_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    result = Result(source=NAME, stems={"vocals": Path("out") / NAME}, credits_used=math.nan)
    print_result(result, Terminal(), as_json=True)
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed["source"] == Skipped(Path(NAME), "finished").to_dict()["source"] == "caf\\udce9.wav"
    assert printed["stems"] == {"vocals": "out/caf\\udce9.wav"}
    assert printed["credits_used"] is None
