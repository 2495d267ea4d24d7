"""What a task carries: everything a worker needs, and nothing secret."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async import AIStemSplitterError, BatchItem, ConfigurationError, DirectURL, PollPolicy, RateLimit
from aistemsplitter_async.distributed.library import DaskLibrary
from aistemsplitter_async.distributed.tasks import Identity, Task, Terms, pack, read_driver

DRIVER = Identity("1.2.3", "https://api.example.com/v1", "fingerprint")
ITEMS = st.builds(
    BatchItem,
    source=st.one_of(
        st.text(st.characters(exclude_characters="\0"), min_size=1), st.just("https://example.com/a.mp3?x=%20")
    ),
    folder=st.one_of(st.none(), st.just(""), st.just("a/b")),
    seconds=st.one_of(st.none(), st.floats(0.1, 1e6)),
    idempotency_key=st.one_of(st.none(), st.just("key 1")),
    timeout=st.one_of(st.none(), st.floats(0, allow_infinity=True)),
)
TERMS = st.builds(
    Terms,
    run=st.just("run"),
    driver=st.just(DRIVER),
    journal=st.just("postgresql://db/library"),
    into=st.one_of(st.none(), st.just("/mnt/stems")),
    options=st.fixed_dictionaries(
        {},
        optional={
            "stems": st.one_of(st.none(), st.sets(st.sampled_from(["vocals", "drums"]), min_size=1)),
            "mixes": st.just({"instrumental": "-vocals"}),
            "max_credits": st.floats(0, allow_infinity=True),
            "retry_failed": st.sampled_from([True, False, "unpaid"]),
        },
    ),
    rate_limit=st.one_of(st.none(), st.just(RateLimit(60, further=(RateLimit(1000, per=86_400.0),)))),
    poll=st.one_of(st.none(), st.just(PollPolicy().scaled(0.1))),
    allow_hosts=st.just(("nas.local",)),
)


@given(TERMS, ITEMS)
def test_a_task_arrives_as_it_was_sent(terms: Terms, item: BatchItem) -> None:
    source, song = pack(item)
    task = Task(terms=terms, number=3, source=source, song=song)
    text = task.dump()
    arrived = Task.load(text)
    json.loads(text)
    assert read_driver(text) == DRIVER
    options: Any = dict(terms.options)
    if options.get("stems") is not None:
        options["stems"] = arrived.terms.options["stems"]
        assert sorted(options["stems"]) == sorted(terms.options["stems"] or ())
    assert arrived.key == task.key
    assert arrived.terms.options == options
    assert (arrived.terms.rate_limit, arrived.terms.poll) == (terms.rate_limit, terms.poll)
    again = arrived.item
    assert (again.folder, again.seconds, again.idempotency_key, again.timeout) == (
        *(item.folder, item.seconds, item.idempotency_key, item.timeout),
    )


def test_paths_are_absolute_and_may_be_no_text() -> None:
    assert pack(BatchItem(source="a/b.wav"))[0] == str(Path.cwd() / "a/b.wav")
    assert pack(BatchItem(source=Path("/music/\udcff.wav")))[0] == "/music/\udcff.wav"
    assert pack(BatchItem(source="https://example.com/a b"))[0] == "https://example.com/a b"
    assert pack(BatchItem(source=DirectURL("https://example.com/a")))[0] == "https://example.com/a"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (BatchItem(source=b"sound"), "takes paths and URLs, not bytes"),
        (BatchItem(source=io.BytesIO(b"sound")), "takes paths and URLs, not BytesIO"),
        (BatchItem(source="a.wav", on_progress=print), "on_progress is a function of this process"),
        (BatchItem(source="a.wav", anew=True), "anew is for split_many"),
    ],
)
def test_what_does_not_leave_this_process_is_refused(item: BatchItem, message: str) -> None:
    with pytest.raises(AIStemSplitterError, match=message):
        pack(item)


@pytest.mark.parametrize(
    ("journal", "sent"),
    [
        ("postgresql://me:s3cret@db:5432/library?schema=key1", "postgresql://me@db:5432/library?schema=key1"),
        ("postgresql://me@a:1,b:2/library?password=s3cret&schema=x", "postgresql://me@a:1,b:2/library?schema=x"),
        ("postgresql:///library?host=/run/pg&sslpassword=s3cret", "postgresql:///library?host=/run/pg"),
        ("postgresql://db/library", "postgresql://db/library"),
    ],
)
def test_a_password_stays_with_the_driver(journal: str, sent: str) -> None:
    library = DaskLibrary("tcp://scheduler:8786", journal=journal, api_key="ast_secret_key")
    terms = library.run(["a.wav"], into="stems")._terms
    text = Task(terms=terms, number=0, source="a.wav", song={}).dump()
    assert terms.journal == sent
    assert "s3cret" not in text
    assert "ast_secret_key" not in text
    assert terms.into == str(Path.cwd() / "stems")


@pytest.mark.parametrize("journal", [None, "library.journal", "sqlite:///library"])
def test_a_journal_of_one_process_is_refused(journal: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AISTEMSPLITTER_JOURNAL", raising=False)
    with pytest.raises(ConfigurationError, match=r"postgresql://|journal can be kept"):
        DaskLibrary("tcp://scheduler:8786", journal=journal, api_key="ast_key")


def test_options_are_checked_before_anything_is_sent() -> None:
    library = DaskLibrary("tcp://scheduler:8786", journal="postgresql://db/x", api_key="ast_key")
    with pytest.raises(ConfigurationError, match="uploads must be at least 1"):
        library.run([], uploads=0)


@pytest.mark.parametrize("field", ["version", "base_url", "key"])
def test_a_worker_says_in_what_it_differs(field: str) -> None:
    other = Identity(**{"version": "1.2.3", "base_url": DRIVER.base_url, "key": "fingerprint", field: "other"})
    assert DRIVER.explain_difference(DRIVER) is None
    problem = other.explain_difference(DRIVER)
    assert problem is not None
    assert "fingerprint" not in problem
