"""The log record of each event: none is forgotten, none collides with logging, and none shows what grants access."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async import events
from aistemsplitter_async._logs.records import CHILDREN, KINDS, ROOT, describe, parse_levels
from aistemsplitter_async.models import Submission

DOCS = Path(__file__).parents[2] / "docs" / "logging.md"
SECRET = "s3cr3t"
SIGNED = f"https://user:{SECRET}@cdn.example/vocals.mp3?signature={SECRET}#{SECRET}"
EVENTS: tuple[type[events.Event], ...] = get_args(events.Event)


def build(kind: type[events.Event], text: str = SIGNED) -> events.Event:
    """Return an event with `text` wherever there may be some."""
    values: dict[str, Any] = {}
    for field in attrs.fields(kind):
        kinds = str(field.type)
        if "Submission" in kinds:
            values[field.name] = Submission("key-1", f'{{"input":{{"url":"{text}"}}}}'.encode())
        elif "Mapping" in kinds:
            values[field.name] = {"upload": 1.5}
        elif "int" in kinds or "float" in kinds:
            values[field.name] = 429 if field.name == "status" else 2
        else:
            values[field.name] = text
    return kind(**values)


def test_every_event_has_its_logger_and_level() -> None:
    assert set(KINDS) == set(EVENTS)
    assert {kind.child for kind in KINDS.values()} < set(CHILDREN)


@pytest.mark.parametrize("kind", EVENTS)
def test_a_record_has_the_events_fields_and_shows_nothing_that_grants_access(kind: type[events.Event]) -> None:
    event = build(kind)
    line = describe(event)
    record = logging.getLogger(ROOT).makeRecord(
        ROOT, line.level, "file", 1, line.message, line.args, None, extra=line.extra
    )  # raises if a field is called like one of logging's own
    assert SECRET not in f"{record.getMessage()} {vars(record)}"
    assert vars(record)["event_type"] == kind.__name__
    fields = {field.name for field in attrs.fields(kind)} - {"at", "submission"}
    assert fields <= vars(record).keys()
    assert line.level <= KINDS[kind].level


def test_the_search_above_finds_a_field_that_is_not_redacted() -> None:
    """The negative control."""
    event = build(events.RetryPlanned)
    assert isinstance(event, events.RetryPlanned)
    assert SECRET in event.reason
    assert SECRET not in describe(event).extra["reason"]


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_without_what_may_be_missing_can_be_logged(kind: type[events.Event]) -> None:
    values = {field.name: None for field in attrs.fields(kind) if "None" in str(field.type)}
    event: Any = build(kind, "text")
    line = describe(attrs.evolve(event, **values))
    assert "None" not in line.message % line.args


@pytest.mark.parametrize("kind", EVENTS)
def test_the_documentation_has_every_event_with_its_logger_level_and_fields(kind: type[events.Event]) -> None:
    row = next(line for line in DOCS.read_text("utf-8").splitlines() if line.startswith(f"| `{kind.__name__}`"))
    _, _, _, child, level, fields, _ = (cell.strip() for cell in row.split("|"))
    assert child == f"`.{KINDS[kind].child}`"
    assert level.split(",")[0] == logging.getLevelName(KINDS[kind].level)
    told = {name.strip("` ") for name in fields.split(",")} - {""}
    of_calls = {"operation", "stage", "attempt", "split_id", "stem"} if "operation" in names(kind) else set[str]()
    assert told | of_calls | {"at"} == {"idempotency_key" if name == "submission" else name for name in names(kind)}


def names(kind: type[events.Event]) -> list[str]:
    return [field.name for field in attrs.fields(kind)]


def test_the_documentation_has_every_logger() -> None:
    text = DOCS.read_text("utf-8")
    assert [child for child in CHILDREN if f"| `{ROOT}.{child}` |" not in text] == []


@given(st.dictionaries(st.sampled_from(["", *CHILDREN]), st.sampled_from(["debug", "INFO", "Warning", "error", "off"])))
def test_levels_are_read_as_they_are_written(levels: dict[str, str]) -> None:
    text = ", ".join(f"{child}={level}" if child else level for child, level in levels.items())
    read = parse_levels(text)
    assert read.keys() == levels.keys()
    assert {level < logging.CRITICAL for level in read.values()} <= {True, False}
    assert all(read[child] == getattr(logging, level.upper(), 51) for child, level in levels.items())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("verbose", "'verbose' is no level; use one of debug, info, warning, error, off"),
        ("info,http=", "'' is no level"),
        ("httpx=debug", "'httpx' is no logger; use one of http, gate, poll, "),
        ("1", "'1' is no level"),
    ],
)
def test_what_is_no_level_is_told(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="is no") as caught:
        parse_levels(text)
    assert says in str(caught.value)
