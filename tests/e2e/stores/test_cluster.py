"""What a library on a cluster asks of its journal, and `batch --on` at the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from aistemsplitter_async import ConfigurationError, JournalError
from aistemsplitter_async.cli.app import run_app

pytest.importorskip("distributed", reason="the extra dask is not installed")

from aistemsplitter_async.distributed import DaskLibrary, link
from aistemsplitter_async.distributed.library import open_and_identify, parse_shared
from aistemsplitter_async.distributed.worker import find_journal


def test_a_worker_takes_no_other_journal_than_the_drivers(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same address may be another database on another machine."""
    journal = parse_shared(postgres_dsn)
    shown, url = journal.database.shown, journal.database.url.reveal()
    identity = open_and_identify(journal)
    assert open_and_identify(journal) == identity
    monkeypatch.setenv("AISTEMSPLITTER_JOURNAL", url)
    assert find_journal(shown, identity) == url
    with pytest.raises(ConfigurationError, match="it has another journal than the driver: postgresql://"):
        find_journal(shown, "another")
    with pytest.raises(JournalError, match="there is no journal at"):
        find_journal(f"{shown}_elsewhere", identity)


def test_a_lost_scheduler_ends_the_command_with_75(
    postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "song.wav").write_bytes(b"sound")
    monkeypatch.setenv("AISTEMSPLITTER_API_KEY", "ast_key")
    monkeypatch.setenv("AISTEMSPLITTER_JOURNAL", postgres_dsn)
    monkeypatch.setattr(link, "_CONNECT", 0.05)
    monkeypatch.setattr(link, "_PAUSE", 0.05)
    monkeypatch.setitem(DaskLibrary.__init__.__kwdefaults__ or {}, "patience", 0.2)
    words = ["batch", str(tmp_path), "--into", str(tmp_path / "stems")]
    assert run_app([*words, "--on", "tcp://127.0.0.1:1"]) == 75
    waiting, line = capfd.readouterr().err.splitlines()
    assert waiting == "no Dask scheduler at tcp://127.0.0.1:1; waiting for one, 0.2 s at most"
    assert line.startswith("error: there is no Dask scheduler at tcp://127.0.0.1:1, for 0.2 s now; start it")
    assert "--base-url" not in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "scheduler:8786"], "--on is the address of a Dask scheduler"),
        (["--on", "local:0"], "or local:4 for four workers, not local:0"),
        (["--on", "local:2", "--sandbox"], "--sandbox is one process, and --on several"),
        (["--on", "local:2", "--report", "r.html"], "--report is written by one process"),
        (["--on", "local:2", "--proxy", "http://proxy:3128"], "--proxy and --ca-file are for this process"),
        (["--on", "local:2"], "a cluster needs a journal that all its workers share"),
    ],
)
def test_what_a_cluster_cannot_do_is_said_before_one_is_started(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AISTEMSPLITTER_API_KEY", "ast_key")
    monkeypatch.delenv("AISTEMSPLITTER_JOURNAL", raising=False)
    assert run_app(["batch", str(tmp_path), "--into", str(tmp_path / "stems"), *words]) == 2
    assert message in capsys.readouterr().err
