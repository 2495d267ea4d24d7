"""Where a journal is, as a command line and the environment say it: no password is on the former, and none is shown."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async import ConfigurationError, JournalError
from aistemsplitter_async._databases.postgres import parse_dsn
from aistemsplitter_async.cli.app import run_app
from aistemsplitter_async.cli.places import find_journal, find_password, name_of, parse_place, spell
from aistemsplitter_async.cli.screen.render import hide_passwords
from aistemsplitter_async.journal.place import JournalURL

SECRET = "geheim"
URL = f"postgresql://me:{SECRET}@db.example/songs?schema=key1"
STEMS = Path("stems")


@pytest.mark.parametrize(
    "words",
    [
        ("batch", "music", "--journal", URL),
        ("batch", "music", f"--journal={URL}"),
        ("batch", "music", "--journal", f"postgresql://db.example/songs?password={SECRET}"),
        ("batch", "music", "--journal", f"postgresql://me:p@{SECRET}/@db.example/songs"),
        ("batch", "music", "--jounal", URL),
        ("batch", URL),
        ("split", URL),
        ("journal", "move", "a.journal", URL),
        ("journal", "move", URL, "a.journal"),
        ("journal", "export", URL),
        ("journal", "export", "a.journal", URL),
        ("journal", URL),
        ("credits", URL),
        (URL,),
    ],
)
def test_a_password_on_a_command_line_is_refused_and_not_repeated(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(words) == 2
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    assert shown.err.count("\n") == 1
    if "--journal" in words[2:3] and "@" not in words[3].partition("@")[2]:
        assert "set PGPASSWORD, write it to ~/.pgpass, or put the whole URL into AISTEMSPLITTER_JOURNAL" in shown.err


def test_a_subcommand_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["journal", "mvoe", "a", "b"]) == 2
    assert "no command mvoe; did you mean move?" in capsys.readouterr().err


def test_a_journal_is_the_given_one_or_the_environments_or_that_of_the_folder() -> None:
    environment = {"AISTEMSPLITTER_JOURNAL": URL}
    assert find_journal(Path("a.journal"), STEMS, environment) == Path("a.journal")
    assert find_journal(None, STEMS, {"AISTEMSPLITTER_JOURNAL": "b.journal"}) == Path("b.journal")
    assert find_journal(None, STEMS, {"AISTEMSPLITTER_JOURNAL": ""}) == STEMS / ".aistemsplitter.journal"
    assert spell(find_journal(None, STEMS, environment)) == URL
    with pytest.raises(ConfigurationError, match="AISTEMSPLITTER_JOURNAL: its host") as refused:
        find_journal(None, STEMS, {"AISTEMSPLITTER_JOURNAL": f"postgresql://me:{SECRET}@db:99999/x"})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("url", ["postgresql//me:geheim@db/x", "postgres:/me:geheim@db/x", "PostgreSQL:me:geheim@db"])
def test_a_url_with_a_typing_mistake_is_not_taken_for_a_file(url: str) -> None:
    with pytest.raises(ConfigurationError, match="AISTEMSPLITTER_JOURNAL: write the URL") as refused:
        find_journal(None, STEMS, {"AISTEMSPLITTER_JOURNAL": url})
    assert SECRET not in str(refused.value)


def test_a_url_has_the_password_of_the_same_place_in_the_environment() -> None:
    environment = {"AISTEMSPLITTER_JOURNAL": URL}
    same, other = map(parse_place, ("postgresql://me@db.example/songs?schema=key1", "postgresql://me@db.example/songs"))
    assert spell(find_password(same, environment)) == URL
    assert find_password(other, environment) is other
    assert spell(find_journal(same, STEMS, environment)) == URL


names = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=8)


@given(
    user=names,
    password=st.text(min_size=12).filter(lambda text: not set(text) <= set("*.")),
    schema=names.map("a{}".format),
)
def test_what_is_shown_of_a_url_names_the_place_and_no_part_of_the_password(
    user: str, password: str, schema: str
) -> None:
    secret = quote(password, safe="", errors="replace")
    url = f"postgresql://{user}:{secret}@h1:1,h2/db?schema={schema}&password=pw{schema}"
    place = JournalURL(parse_dsn(url))
    shown = f"postgresql://{user}@h1:1,h2/db?schema={schema}"
    assert name_of(place) == shown
    assert name_of(parse_place(shown)) == shown
    assert str(JournalError(f"{url}: no; {shown}")) == f"{shown}: no; {shown}"
    assert hide_passwords(f"no {url}").startswith(f"no postgresql://{user}:***@h1:1,h2/db?")


@pytest.mark.parametrize("password", ["pa#SECRET", "pa?SECRET", "pa/SECRET", "p@a#SECRET", "pa:SECRET", "SECRET"])
def test_a_password_that_was_not_escaped_is_not_shown_either(password: str) -> None:
    url = f"postgresql://me:{password}@host/db?options=SECRET"
    assert str(JournalError(url)) == "postgresql://me@host/db"
    assert hide_passwords(url) == "postgresql://me:***@host/db?options=SECRET"
