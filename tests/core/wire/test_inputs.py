"""A dict of the official clients is the value it stands for, or an error that names the field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from aistemsplitter_async import ConfigurationError, DirectURL, Upload, UploadedFile
from aistemsplitter_async._wire.inputs import CreateBody, parse_create

UPLOADED = UploadedFile("u", "https://w.example/f?sig=1", "k")
WIRE = {"type": "uploaded_file", "uploadId": "u", "fileUrl": "https://w.example/f?sig=1", "storageKey": "k"}
DIRECT = {"type": "direct_url", "url": "https://a.example/s.mp3"}


@pytest.mark.parametrize(
    ("given", "body"),
    [
        (UPLOADED, CreateBody(UPLOADED)),
        (WIRE, CreateBody(UPLOADED)),
        (UPLOADED.to_dict(), CreateBody(UPLOADED)),
        (Upload(UPLOADED, "s.wav", "audio/wav", 1, datetime.now(UTC)).to_dict()["input"], CreateBody(UPLOADED)),
        (DIRECT, CreateBody(DirectURL(DIRECT["url"]))),
        ({"input": DIRECT, "stemModel": "6s", "webhookUrl": None}, CreateBody(DirectURL(DIRECT["url"]), "6s")),
        ({"input": UPLOADED, "outputFormat": "wav"}, CreateBody(UPLOADED, None, "wav")),
    ],
)
def test_the_same_body_in_every_form(given: Any, body: CreateBody) -> None:
    assert parse_create(given, stem_model=None, output_format=None, webhook_url=None) == body


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("https://a.example/s.mp3", "input must be upload.input, DirectURL(url) or a dict with a type, not str"),
        ({}, "input.type is missing; it is one of direct_url, uploaded_file"),
        ({"type": "file"}, "input.type is 'file'; it must be one of"),
        ({"type": "direct_url"}, "input.url is missing; it must be text"),
        ({"type": "direct_url", "url": 3}, "input.url is int; it must be text"),
        ({"type": "direct_url", "url": ""}, "input.url is empty; it must be text"),
        (DIRECT | {"uri": ""}, "input has no field 'uri'; it has type, url"),
        ({name: WIRE[name] for name in WIRE if name != "storageKey"}, "input.storageKey is missing"),
        ({"input": DIRECT, "stem_model": "6s"}, "the create has no field 'stem_model'; it has input, stemModel"),
        ({"input": DIRECT, "stemModel": 6}, "stemModel is int; it must be text"),
        ({"input": None}, "input must be upload.input"),
        ({"type": {"url": 1}}, "input.type is dict; it must be one of"),
        ({"type": "s" * 1000}, f"input.type is '{'s' * 80}'; it must be one of"),
        (WIRE | {"file_url": "other"}, "input.fileUrl is given twice: give fileUrl or file_url"),
    ],
)
def test_what_is_wrong_is_named(given: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_create(given, stem_model=None)
    assert says in str(caught.value)
    assert "sig" not in str(caught.value)


def test_an_option_is_not_given_twice() -> None:
    with pytest.raises(ConfigurationError, match="give stem_model= or the dict's stemModel, not both"):
        parse_create({"input": DIRECT, "stemModel": "6s"}, stem_model="4s")
