"""What must hold of the server of a shared journal, and what each transaction asks of it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from aistemsplitter_async import JournalError
from aistemsplitter_async.journal.tables import Server, build_begin, check_server, number_of

FIT = Server(180004, "18.4", False, "on", "on", "off", "UTF8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 120009, "version_text": "12.9"}, "needs PostgreSQL 13 or newer, and this is 12.9"),
        ({"is_standby": True}, "target_session_attrs=read-write"),
        ({"fsync": "off"}, "Set fsync = on there"),
        ({"full_page_writes": "off"}, "Set full_page_writes = on there"),
        ({"encoding": "SQL_ASCII"}, "ENCODING 'UTF8'"),
    ],
)
def test_a_server_that_may_forget_what_was_paid_for_is_refused_with_the_way_out(
    change: dict[str, Any], words: str
) -> None:
    check_server(FIT, "the journal")
    with pytest.raises(JournalError, match="the journal") as caught:
        check_server(attrs.evolve(FIT, **change), "the journal")
    assert words in str(caught.value)
    assert (caught.value.code == "JOURNAL_DOWN") is ("is_standby" in change), "a standby may become the primary"


@pytest.mark.parametrize(
    ("default", "durable"),
    [("on", "on"), ("remote_apply", "remote_apply"), ("off", "on"), ("local", "on"), ("remote_write", "on")],
)
def test_every_transaction_is_durable_whatever_the_default_is(default: str, durable: str) -> None:
    begin = build_begin("library", default, lock_timeout=2.0, idle=5.0, statement=60.0)
    assert f"SET LOCAL synchronous_commit = {durable};" in begin
    assert "SET LOCAL lock_timeout = 2000;" in begin
    assert all(part.startswith(("BEGIN ", "SET LOCAL ")) for part in begin.split("; "))


def test_the_lock_of_a_name_is_the_same_on_every_machine() -> None:
    assert number_of("aistemsplitter sha256:a") == number_of("aistemsplitter sha256:a") == -3635744767632458225
    assert number_of("\udcff") != number_of("\udcfe")
