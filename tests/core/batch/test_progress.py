"""The status file of a batch, read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from aistemsplitter_async.batch.progress import read_status


@pytest.mark.parametrize("left", [b"", bytes(592), b'{"at": 1.0', b"\xff\xfe", b"[1, 2]", b"{}"])
def test_a_status_that_a_power_cut_damaged_is_named_with_what_restores_it(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "journal.status.json"
    path.write_bytes(left)
    with pytest.raises(ValueError, match=r"journal\.status\.json is not the status .* next run writes the status anew"):
        read_status(path)
