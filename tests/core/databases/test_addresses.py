from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable
from urllib.parse import unquote_to_bytes, urlsplit

import pytest

from aistemsplitter_async._databases import postgres, redis
from aistemsplitter_async._databases.address import parse_address
from aistemsplitter_async.errors import ConfigurationError


def test_a_url_of_postgresql_goes_to_libpq_without_what_is_ours() -> None:
    url = postgres.parse_dsn("postgres://me:p%40ss@a.example:5432,b.example/library?schema=key1&sslmode=require")
    assert url.conninfo.reveal() == "postgresql://me:p%40ss@a.example:5432,b.example/library?sslmode=require"
    assert (url.schema, str(url), url.has_password) == ("key1", "PostgreSQL at a.example:5432,b.example/library", True)
    assert "p%40ss" not in repr(url)


@pytest.mark.parametrize(
    ("text", "place", "schema"),
    [
        ("postgresql://", "PostgreSQL at this machine", "aistemsplitter"),
        ("postgresql:///db?host=/run/postgresql", "PostgreSQL at /run/postgresql/db", "aistemsplitter"),
        ("POSTGRESQL://me@[::1]:5433/db?schema=a_1", "PostgreSQL at [::1]:5433/db", "a_1"),
    ],
)
def test_a_database_without_a_password_is_one_that_may_be_seen(text: str, place: str, schema: str) -> None:
    url = postgres.parse_dsn(text)
    assert (str(url), url.schema, url.has_password) == (place, schema, False)


def test_a_url_of_redis_goes_to_redis_py_without_what_is_ours() -> None:
    url = redis.parse_redis_url("rediss://:p%2Fss@cache.example:6380/2?prefix=bot:&ssl_cert_reqs=required")
    assert url.url.reveal() == "rediss://:p%2Fss@cache.example:6380/2?ssl_cert_reqs=required"
    assert (url.prefix, str(url)) == ("bot:", "Redis at cache.example:6380 (database 2)")
    assert redis.parse_redis_url("unix:///run/redis.sock?db=1").place == "Redis at /run/redis.sock (database 1)"


@pytest.mark.parametrize("password", ["pa#ss", "pa[ss", "pa%23ss", "p%E4%00", "%C3%A4%40"])
def test_a_password_is_written_so_that_all_drivers_read_the_same(password: str) -> None:
    url = redis.parse_redis_url(f"redis://me:{password}@cache.example:6380/1").url.reveal()
    parts = urlsplit(url)  # which redis-py trusts, and would take a part of a password for the port
    assert (parts.hostname, parts.port, parts.path) == ("cache.example", 6380, "/1")
    assert unquote_to_bytes(parts.password or "") == unquote_to_bytes(password)
    conninfo = postgres.parse_dsn(f"postgresql://me:{password}@db.example/x").conninfo.reveal()
    assert conninfo == url.replace("redis", "postgresql").replace("cache.example:6380/1", "db.example/x")
    assert redis.parse_redis_url("unix:///run/a%23b#c.sock").url.reveal() == "unix:///run/a%23b%23c.sock"


def test_no_option_of_libpq_is_taken_for_a_mistyped_one() -> None:
    known = [option.keyword.decode() for option in pytest.importorskip("psycopg").pq.Conninfo.get_defaults()]
    assert len(known) > 30
    for option in known:
        postgres.parse_dsn(f"postgresql://db.example/x?{option}=1")
    with pytest.raises(ConfigurationError, match="no option scema; do you mean schema"):
        postgres.parse_dsn("postgresql://db.example/x?scema=key1")


@pytest.mark.parametrize("option", ["sslpassword", "oauth_client_secret", "scram_client_key"])
def test_an_option_that_is_a_secret_is_not_shown(option: str) -> None:
    url = postgres.parse_dsn(f"postgresql://db.example/x?sslmode=require&{option}=s3cret")
    assert (url.has_password, url.shown) == (True, "postgresql://db.example/x?sslmode=require")
    assert postgres.redact("s3cret", url) == "***"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:sec@ret@db.example/x",  # libpq would ask the name server for ret@db.example
        "postgresql://me:sec/ret@db.example/x",
        "postgresql://me:sec?ret@db.example/x",  # and here it would show a part as a port
        "postgresql://me:sec%ret@db.example/x",
        "postgresql://me:secret@db.example:secret/x",
        "postgresql://me:secret@db.example:70000/x",
        "postgresql://me:secret@db.example/x?schema=pg_x",
        "postgresql://me:secret@db.example/x?schema=Upper",
        "postgresql://me:secret@db.example/x?schema",
        "postgresql://me:secret@db.example/x?scema=x",
        "mysql://me:secret@db.example/x",
        "redis://me:secret@db.example/name",
        "redis://me:secret@db.example/0?socket_timeout=60",
        "redis://me:secret@a.example,b.example/0",
        "redis://me:secret@db.example/0?ssl_cert_reqs=none",
        "redis://me@db.example/0?protocol=secret",
        "unix://me:secret@host/run/redis.sock",
        "unix://",
        "redis://me:secret@db.exa mple/0",
        "postgresql://me:secret@db.example/x\n",
    ],
)
def test_what_is_no_url_is_refused_and_not_repeated(text: str) -> None:
    parse = redis.parse_redis_url if text.startswith(("redis", "unix")) else postgres.parse_dsn
    with pytest.raises(ConfigurationError, match=r"^AISTEMSPLITTER_SHARED: ") as caught:
        parse(text, name="AISTEMSPLITTER_SHARED")
    assert "sec" not in str(caught.value).replace("secret as", "")
    assert "ret" not in str(caught.value)


@pytest.mark.parametrize("wrong", [None, 5, b"redis://localhost"])
def test_a_url_is_text(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="as text"):
        parse_address(wrong, name="url", schemes=("redis",), example="redis://localhost")


def test_no_text_that_is_shown_has_the_password_however_it_is_spelt() -> None:
    url = postgres.parse_dsn("postgresql://me:p%40ss@db.example/x?sslpassword=other")
    foreign = "connection to postgresql://me:p%40ss@db.example failed:\n  password p@ss or p%40ss,\n\n key other"
    assert postgres.redact(foreign, url) == (
        "connection to postgresql://me@db.example failed:; password *** or ***,; key ***"
    )
    with pytest.raises(TypeError):
        pickle.dumps(url)


@pytest.mark.parametrize(
    ("load", "module", "extra"),
    [(postgres.load_psycopg, "psycopg", "[postgres]"), (redis.load_redis, "redis.asyncio", "[redis]")],
)
def test_a_missing_client_is_named_with_the_extra_that_has_it(
    load: Callable[[], object], module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=re.escape(f"pip install 'aistemsplitter-async{extra}'")):
        load()
