"""What `journal export` writes of a row: the names are a contract, and nothing in it grants access."""

from __future__ import annotations

import csv
import io
import json

from aistemsplitter_async import DirectURL, Split, Submission, UploadedFile
from aistemsplitter_async.cli.exported import FIELDS, build_row, format_csv, format_json
from aistemsplitter_async.journal.record import Record, State, StoredFailure, StoredFile, Variant

SECRET = "X-Sig=geheimgeheimgeheim"
BOUGHT = Record(
    id=7,
    source="/music/=ä\n.wav",
    asked=Variant("6s", None),
    state=State.DOWNLOADED,
    folder="song",
    input=UploadedFile(upload_id="u", file_url=f"https://a/b?{SECRET}", storage_key="k"),
    submission=Submission("key-1", f'{{"fileUrl": "https://a/b?{SECRET}"}}'.encode()),
    split_id="split_1",
    credits_used=214.0,
    created_at=1e9,
    split=Split(
        id="split_1",
        status="succeeded",
        stem_model="4s",
        duration_seconds=213.5,
        stems={"vocals": f"https://c/v.mp3?{SECRET}"},
    ),
    files={"vocals": StoredFile("song/vocals.mp3", 5, "ab")},
)
FAILED = Record(
    id=8,
    source=f"https://music.example/a.mp3?{SECRET}",
    input=DirectURL(f"https://music.example/a.mp3?{SECRET}"),
    failure=StoredFailure("upload", "UploadError", f"cannot fetch https://music.example/a.mp3?{SECRET}", "GONE"),
)


def test_a_row_says_what_a_song_cost_and_where_it_is() -> None:
    (row,) = [json.loads(line) for line in format_json([build_row(BOUGHT)]).splitlines()]
    assert tuple(row) == FIELDS
    assert row == {
        "track": 7,
        "source": "/music/=ä\n.wav",
        "state": "downloaded",
        "split_id": "split_1",
        "credits_used": 214.0,
        "seconds": 213.5,
        "stem_model": "4s",
        "output_format": "mp3",
        "created_at": "2001-09-09T01:46:40.000Z",
        "folder": "song",
        "files": [{"stem": "vocals", "path": "song/vocals.mp3", "bytes": 5, "sha256": "ab"}],
        "failure": None,
        "idempotency_key": "key-1",
    }


def test_nothing_in_an_export_grants_access() -> None:
    rows = [build_row(BOUGHT), build_row(FAILED)]
    text = format_json(rows) + format_csv(rows, header=True)
    assert "geheim" not in text
    assert json.loads(format_json(rows).splitlines()[1])["failure"] == {
        "stage": "upload",
        "code": "GONE",
        "message": "cannot fetch https://music.example/a.mp3",
    }


def test_a_table_has_a_line_a_row_and_nothing_that_a_spreadsheet_carries_out() -> None:
    odd = build_row(Record(id=9, source="=cmd|' /C calc'!A0\r\n"))
    rows = [build_row(BOUGHT), build_row(FAILED), odd]
    read = list(csv.reader(io.StringIO(text := format_csv(rows, header=True))))
    assert text.count("\n") == len(read) == 4
    assert tuple(read[0]) == FIELDS
    assert read[1][FIELDS.index("files")] == '["song/vocals.mp3"]'
    assert read[2][FIELDS.index("failure")].startswith("GONE: cannot fetch")
    assert read[3][1] == "'=cmd|' /C calc'!A0  "
