"""Where a journal is: a file or a database, told apart by how it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from aistemsplitter_async import ConfigurationError
from aistemsplitter_async.journal.place import JournalURL, parse_journal


def test_a_path_is_a_file_and_a_url_of_postgresql_a_database() -> None:
    assert parse_journal("library.journal") == Path("library.journal")
    assert parse_journal(Path("a/b")) == Path("a/b")
    assert parse_journal("C:/music/a.journal") == Path("C:/music/a.journal")
    for scheme in ("postgresql", "postgres", "PostgreSQL"):
        place = parse_journal(f"{scheme}://me:hunter2@db.test/music?schema=rock")
        assert isinstance(place, JournalURL)
        assert str(place) == "the journal in PostgreSQL at db.test/music (schema rock)"
        assert "hunter2" not in f"{place!r} {place}"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("redis://cache.test/0", "no journal can be kept in redis://; name a file, or postgresql://"),
        ("mysql://db.test/music", "no journal can be kept in mysql://"),
        ("sqlite:///home/me/a.journal", "name the file itself"),
        (Path("postgresql://db.test/music"), "write the URL of a database like"),
        ("postgresql://me:hunter2@db.test/music?schema=Rock 'n' roll", "white space"),
    ],
)
def test_what_is_neither_is_refused_without_its_password(place: str | Path, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_journal(place, name="--journal")
    assert str(caught.value).startswith("--journal: ")
    assert words in str(caught.value)
    assert "hunter2" not in repr(caught.value)
