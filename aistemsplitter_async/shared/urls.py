"""Which store a URL names."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from aistemsplitter_async._databases.postgres import POSTGRES_SCHEMES
from aistemsplitter_async._databases.redis import REDIS_SCHEMES
from aistemsplitter_async._gate.store import GateStore
from aistemsplitter_async._plain import redact_url
from aistemsplitter_async.config import SHARED_FOLDER_VARIABLE
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.shared.postgres import PostgresGateStore
from aistemsplitter_async.shared.redis import RedisGateStore
from aistemsplitter_async.shared.sqlite import SQLiteGateStore

HOST: Final = "host"
_FOLDER: Final = "aistemsplitter-async"
_FILE: Final = "gates.db"  # one for all keys; it has their hashes
_SQLITE: Final = "sqlite"
_WAY_OUT: Final = f"set {SHARED_FOLDER_VARIABLE} to a folder that all processes of this machine can write to"


def open_gate_store(url: object, environment: Mapping[str, str], *, name: str = "shared") -> GateStore:
    """Return the store that a URL names. It opens nothing before it is used.

    Args:
        url: `host` (this machine, in a file of this user), `sqlite:///absolute/path`, `redis://`, `rediss://`, `unix://`,
            `postgresql://` or `postgres://`.
        environment: variables, which say where the file of `host` is.
        name: who gave it, for the error.

    Raises:
        ConfigurationError: it names no store, or this user has no folder for the file.
    """
    text = url.strip() if isinstance(url, str) else ""
    if text == HOST:
        return SQLiteGateStore(
            host_folder(environment, sys.platform, _find_home(environment)) / _FILE, way_out=_WAY_OUT
        )
    scheme, separator, rest = text.partition("://")
    kind = scheme.lower() if separator else ""
    if kind in POSTGRES_SCHEMES:
        return PostgresGateStore(text)
    if kind in REDIS_SCHEMES:
        return RedisGateStore(text)
    if kind == _SQLITE:
        path = Path(unquote(rest if os.name != "nt" else rest.lstrip("/")))
        if not path.is_absolute() or not path.name:
            raise ConfigurationError(
                f"{name}: a SQLite file is named by its absolute path, as in sqlite:///var/lib/app/gate.db"
            )
        return SQLiteGateStore(path)
    is_almost = ":" in text and not separator  # of a URL that is written wrongly, what a password is cannot be told
    shown = f"{text.partition(':')[0]}:.." if is_almost else redact_url(text) if text else repr(url)
    raise ConfigurationError(f'{name}: "host", sqlite:///path, redis://.. or postgresql://.. is expected, not {shown}')


def host_folder(environment: Mapping[str, str], platform: str, home: Path | None) -> Path:
    """Return the folder for what the processes of one user on one machine share. It outlives sessions.

    Args:
        environment: variables.
        platform: as `sys.platform`.
        home: the user's, if there is one.

    Raises:
        ConfigurationError: there is none; the message names the variable that sets one.
    """
    if named := environment.get(SHARED_FOLDER_VARIABLE):
        folder = Path(named)
        if not folder.is_absolute():
            raise ConfigurationError(f"{SHARED_FOLDER_VARIABLE} must be an absolute path, the same for all processes")
        return folder
    state = Path(environment.get("LOCALAPPDATA" if platform == "win32" else "XDG_STATE_HOME", ""))
    if state.is_absolute():  # by its specification, a relative one is ignored
        return state / _FOLDER
    if home is None or not home.is_absolute():
        raise ConfigurationError(f'shared="host" needs a folder, and this user has no home; {_WAY_OUT}')
    parts = {"win32": ("AppData", "Local"), "darwin": ("Library", "Application Support")}
    return home.joinpath(*parts.get(platform, (".local", "state")), _FOLDER)


def _find_home(environment: Mapping[str, str]) -> Path | None:
    try:
        return Path(environment.get("HOME") or Path.home())
    except RuntimeError:  # nor does the system know one
        return None
