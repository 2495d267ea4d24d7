from __future__ import annotations

from pathlib import Path

import pytest

from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.shared import PostgresGateStore, RedisGateStore, SQLiteGateStore
from aistemsplitter_async.shared.urls import host_folder, open_gate_store

HOME = Path("/home/me")


@pytest.mark.parametrize(
    ("environment", "platform", "folder"),
    [
        ({}, "linux", "/home/me/.local/state/aistemsplitter-async"),
        ({"XDG_RUNTIME_DIR": "/run/user/1"}, "linux", "/home/me/.local/state/aistemsplitter-async"),
        ({"XDG_STATE_HOME": "/state"}, "linux", "/state/aistemsplitter-async"),
        ({"XDG_STATE_HOME": "state"}, "linux", "/home/me/.local/state/aistemsplitter-async"),
        ({"XDG_STATE_HOME": "/state", "AISTEMSPLITTER_SHARED_DIR": "/shared"}, "linux", "/shared"),
        ({}, "darwin", "/home/me/Library/Application Support/aistemsplitter-async"),
        ({}, "win32", "/home/me/AppData/Local/aistemsplitter-async"),
        ({"LOCALAPPDATA": "/local"}, "win32", "/local/aistemsplitter-async"),
    ],
)
def test_what_is_shared_on_a_host_is_where_it_outlives_a_session(
    environment: dict[str, str], platform: str, folder: str
) -> None:
    assert host_folder(environment, platform, HOME) == Path(folder)


@pytest.mark.parametrize("home", [None, Path("relative")])
def test_who_has_no_home_is_told_the_variable(home: Path | None) -> None:
    with pytest.raises(ConfigurationError, match="AISTEMSPLITTER_SHARED_DIR"):
        host_folder({}, "linux", home)
    assert host_folder({"AISTEMSPLITTER_SHARED_DIR": "/shared"}, "linux", home) == Path("/shared")


def test_a_folder_that_depends_on_where_a_process_starts_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="AISTEMSPLITTER_SHARED_DIR must be an absolute path"):
        host_folder({"AISTEMSPLITTER_SHARED_DIR": "shared"}, "linux", HOME)


@pytest.mark.parametrize(
    ("url", "kind", "shown"),
    [
        ("host", SQLiteGateStore, "/home/me/.local/state/aistemsplitter-async/gates.db"),
        ("sqlite:///var/my%20app/gate.db", SQLiteGateStore, "/var/my app/gate.db"),
        ("redis://:canary@cache/1", RedisGateStore, "Redis at cache (database 1)"),
        ("rediss://cache", RedisGateStore, "Redis at cache"),
        ("unix:///run/redis.sock", RedisGateStore, "Redis at /run/redis.sock"),
        ("postgresql://me:canary@db/app", PostgresGateStore, "PostgreSQL at db/app"),
        ("postgres://db/app", PostgresGateStore, "PostgreSQL at db/app"),
    ],
)
def test_a_url_names_a_store_which_does_not_show_its_secrets(url: str, kind: type, shown: str) -> None:
    store = open_gate_store(url, {"HOME": "/home/me"})
    assert isinstance(store, kind)
    assert repr(store) == f"{kind.__name__}({shown!r})"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hosts",
        "sqlite://gate.db",
        "sqlite:///",
        "mysql://me:canary@db",
        "/var/gate.db",
        "host://me:canary@x",
        "redis:/:canary@cache",
        "redis//me:can/ary@canary",
        None,
        5,
    ],
)
def test_what_names_no_store_is_refused_with_what_would(url: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^AISTEMSPLITTER_SHARED: ") as caught:
        open_gate_store(url, {"HOME": "/home/me"}, name="AISTEMSPLITTER_SHARED")
    assert "canary" not in str(caught.value)
