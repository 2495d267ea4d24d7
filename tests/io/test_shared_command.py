"""The command line with a gate that is shared: why it waits, how it ends, and what it does not take."""

from __future__ import annotations

from pathlib import Path

import pytest

from aistemsplitter_async._gate import outage
from aistemsplitter_async._gate.shared_gate import SharedGate
from aistemsplitter_async.cli.app import run_app
from aistemsplitter_async.cli.values import parse_shared
from tests.e2e.harness import build_wav

NOBODY = "redis://127.0.0.1:1"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISTEMSPLITTER_API_KEY", "ast_key")
    monkeypatch.setattr(outage, "_NOTICEABLE", 0.1)
    defaults = SharedGate.__init__.__kwdefaults__ or {}
    monkeypatch.setitem(defaults, "patience", 0.3)  # instead of a minute


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("how", ["option", "variable"])
def test_without_the_store_a_command_says_what_it_waits_for_and_ends_with_75(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("redis")
    monkeypatch.setenv("AISTEMSPLITTER_SHARED", NOBODY if how == "variable" else "")
    options = ["--shared", NOBODY] if how == "option" else []
    assert run_app(["credits", "--base-url", "http://127.0.0.1:1/v1", *options]) == 75
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("nothing is sent: the shared gate cannot be asked (")
    assert "127.0.0.1:1" in lines[0]
    assert lines[-1].startswith("error: the request was not sent: the shared gate cannot be asked (")
    assert "check --shared or AISTEMSPLITTER_SHARED" in lines[-1]


@pytest.mark.usefixtures("hasty")
def test_a_store_that_refuses_is_one_line_for_all_songs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        (tmp_path / f"{number}.wav").write_bytes(build_wav(1.0 + number))
    (tmp_path / "gate.db").write_text("no database at all, but text" * 9)
    options = ["--into", str(tmp_path / "out"), "--shared", f"sqlite://{tmp_path}/gate.db"]
    assert run_app(["batch", str(tmp_path), "--base-url", "http://127.0.0.1:1/v1", *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert not any("failed for good" in line for line in lines)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host",
        "redis://me:hunter2@host/0",
        "redis://host?password=hunter2",
        "unix:///run/redis.sock?Password=hunter2",
        "postgresql://me:hunter2@host/db",
        "postgresql://host/db?pass%77ord=hunter2",
        "postgresql://host/db?sslmode=require&sslpassword=hunter2",
        "postgresql://me:p@ss:hunter2/x@host/db",
        "postgresql://host/db?oauth_client_secret=hunter2",
    ],
)
def test_a_password_is_not_taken_from_where_others_see_it(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["credits", "--shared", url]) == 2
    shown = capsys.readouterr().err
    assert "AISTEMSPLITTER_SHARED" in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    "url", ["host", "sqlite:///var/lib/a:b@c/gate.db", "redis://me@host:6379/0", "postgresql://[::1]:5432/db?schema=a"]
)
def test_what_holds_none_is_taken(url: str) -> None:
    assert parse_shared(url) == url


def test_a_sandbox_shares_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["split", "song.wav", "--sandbox", "--shared", "host"]) == 2
    assert "--shared" in capsys.readouterr().err
