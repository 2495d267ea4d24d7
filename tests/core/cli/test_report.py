from __future__ import annotations

import html
import json
import re
import struct
import wave
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async import BatchReport
from aistemsplitter_async.cli.report import waveforms
from aistemsplitter_async.cli.report.chart import Chart, build_chart, draw_chart
from aistemsplitter_async.cli.report.page import GENERATOR, Summary, Tally, build_frame
from aistemsplitter_async.cli.report.report import check_report_path
from aistemsplitter_async.cli.report.row import Stem, build_row, build_twin, classify, parse_peaks
from aistemsplitter_async.cli.report.waveforms import LOUDEST, PEAKS, read_peaks, shrink
from aistemsplitter_async.errors import ConfigurationError, InsufficientCreditsError
from aistemsplitter_async.journal.record import Record, State, StoredFailure, StoredFile
from aistemsplitter_async.models import Split

CREATED = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;\u202e\n\x00{{rows}}"


SPLIT = Split(
    id="split_1",
    status="succeeded",
    stem_model="4s",
    credits_used=202.0,
    created_at=CREATED,
    updated_at=CREATED + timedelta(seconds=41),
    duration_seconds=202.4,
)
RECORD = Record(id=1, source="/music/song.mp3", folder="song")


def make_record(**fields: Any) -> Record:
    return attrs.evolve(RECORD, **fields)


def make_done(name: str = "song", stem: str = "vocals") -> Record:
    files = {stem: StoredFile(f"{name}/{stem}.mp3", 1000, "ab" * 32)}
    return make_record(source=name, folder=name, state=State.DOWNLOADED, split=SPLIT, credits_used=202.0, files=files)


class Elements(HTMLParser):
    """The start tags of some HTML, and the text of its scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def data_of(row: str) -> Any:
    (data,) = re.findall(r'^<script type="application/json">(.*)</script>$', row, re.MULTILINE)
    return json.loads(data)


@given(st.text(max_size=60) | st.just(HOSTILE))
def test_no_name_or_message_becomes_markup(name: str) -> None:
    plain, hostile = (
        build_row(
            make_record(
                source=f"/music/{text}",
                folder=text,
                state=State.CREATED,
                split=attrs.evolve(SPLIT, id=text, stem_model=text),
                failure=StoredFailure("wait", "Error", text, code=text),
            ),
            [Stem(text, text, "song/vocals.mp3", 7, "ab" * 32, b"\x01")],
        )
        for text in ("name", name)
    )
    assert Elements(hostile).tags == Elements(plain).tags
    assert Elements(hostile).attributes == Elements(plain).attributes
    assert hostile.count("\n") == plain.count("\n")
    hostile.encode()  # lone surrogates, as in file names of another encoding, are written out


def test_a_hostile_name_can_be_read_as_it_is() -> None:
    row = build_row(make_record(folder="<img onerror=x>"), [])
    assert "<img onerror=x>" in Elements(row).text
    assert html.escape("<img onerror=x>") in row


def test_a_row_says_what_people_want_to_know() -> None:
    stem = Stem("vocals", "vocals.mp3", "stems/song/vocals.mp3", 1000, "ab" * 32, b"\x00\xff")
    row = build_row(make_done("Artist/Album/Title"), [stem])
    text = Elements(row.partition("<script")[0]).text
    assert all(word in text for word in ("Title", "Artist/Album", "Done", "3:22", "202", "41 s"))
    assert data_of(row)["stems"] == [
        {
            "name": "vocals",
            "file": "vocals.mp3",
            "href": "stems/song/vocals.mp3",
            "size": 1000,
            "sha256": "ab" * 32,
            "peaks": "AP8=",
        }
    ]


def test_a_track_that_shares_the_split_of_another_says_so() -> None:
    facts = dict(data_of(build_row(attrs.evolve(make_done(), credits_used=0.0), []))["facts"])
    assert facts["Credits"] == "0, counted with the other track of this split"
    assert dict(data_of(build_row(make_done(), []))["facts"])["Credits"] == "202"


def test_stems_that_share_a_folder_are_distinguished_by_what_their_names_share() -> None:
    assert "<span>Title</span>" in build_row(make_record(folder="Artist", pattern="Title - {stem}"), [])


def test_an_address_keeps_its_secrets() -> None:
    row = build_row(make_record(source="https://user:pass@cdn.example/song.mp3?signature=secret", folder="x"), [])
    assert "secret" not in row
    assert "pass" not in row
    assert "https://cdn.example/song.mp3" in row


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (make_done(), "done"),
        (make_record(state=State.SUCCEEDED), "done"),
        (make_record(state=State.CREATED), "unfinished"),
        (make_record(state=State.UNCERTAIN), "unfinished"),
        (make_record(state=State.CREATED, failure=StoredFailure("wait", "E", "m")), "failed"),
        (make_record(state=State.SUCCEEDED, failure=StoredFailure("download", "E", "m")), "failed"),
        (make_record(state=State.NEEDS_REVIEW), "review"),
    ],
)
def test_every_state_is_something_to_people(record: Record, kind: str) -> None:
    assert classify(record) == kind


def test_a_split_of_which_little_is_known_shows_just_that() -> None:
    row = build_row(make_record(state=State.DOWNLOADED, split_id="split_1", split=Split("split_1", "succeeded")), [])
    assert "None" not in row
    assert data_of(row)["facts"] == [["Source", "/music/song.mp3"], ["Folder", "song"], ["Split", "split_1"]]


def test_a_duplicate_is_a_row_that_leads_to_the_audio_it_shares() -> None:
    row = build_twin("/music/copy.mp3", "/music/<song>.mp3", 7)
    assert '<a href="#track7">/music/&lt;song&gt;.mp3</a>' in row
    assert 'data-state="duplicate"' in row
    assert 'id="track7"' in build_row(make_record(id=7), [])
    assert "secret" not in build_twin("https://a.example/1?secret", "https://a.example/2?secret", None)


def test_the_page_says_which_credits_went_to_splits_that_failed() -> None:
    tally = Tally()
    tally.add(make_done())
    tally.add(make_record(credits_used=45.0, failure=StoredFailure("wait", "SplitFailedError", "m")))
    assert "247 credits charged, 45 of them for splits that failed" in Elements(make_page(tally=tally)).text


@given(st.binary(max_size=PEAKS))
def test_outlines_are_found_again_in_a_page(peaks: bytes) -> None:
    lines = build_row(make_done(), [Stem("vocals", "v", "v", 1, "ab" * 32, peaks)]).splitlines(keepends=True)
    found = {sha: outline for line in lines for sha, outline in parse_peaks(line).items()}
    assert found == ({"ab" * 32: peaks} if peaks else {})


def make_page(**fields: Any) -> str:
    tally = Tally()
    tally.add(make_done())
    tally.add(make_record(failure=StoredFailure("wait", "E", "m")))
    report = BatchReport(
        done=1, failed=1, skipped=0, credits_used=202.0, seconds=61.0, stopped_by=fields.pop("stopped_by", None)
    )
    chart = build_chart([(float(at), 200) for at in range(9)], 60, 60.0)
    summary = Summary("stems", 0.0, tally, report, 9, chart)
    return "{{rows}}".join(build_frame(attrs.evolve(summary, **fields)))


def test_the_page_makes_no_request() -> None:
    page = make_page()
    assert re.findall(r'\b(?:src|href)="(?!#|data:)[^"]*"', page) == []
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page
    assert GENERATOR in page[:1024]
    assert re.findall(r"\{\{[a-z-]+\}\}", page) == ["{{rows}}"]


def test_a_hostile_title_or_reason_stays_text() -> None:
    plain, hostile = (
        make_page(title=text, stopped_by=InsufficientCreditsError(text), workers=[text]) for text in ("name", HOSTILE)
    )
    assert Elements(hostile).tags == Elements(plain).tags
    # in the title, the heading, the reason, the name of a worker, and where this test put the rows
    assert hostile.count("{{rows}}") == 5


def test_the_page_counts_all_tracks() -> None:
    text = Elements(make_page()).text
    assert "1 done" in text
    assert "1 failed" in text
    assert "9 at most; the limit is 60. None was answered 429." in text


moments = st.lists(st.floats(0, 1000, allow_nan=False), min_size=1, max_size=60)


@given(moments, st.floats(0.5, 200))
def test_the_chart_shows_the_fullest_window(times: list[float], per: float) -> None:
    fullest = max(sum(end - per < at <= end for at in times) for end in times)
    assert build_chart([(at, 200) for at in times], None, per, columns=50).peak == fullest


@given(moments)
def test_every_429_is_marked_once(times: list[float]) -> None:
    assert sum(build_chart([(at, 429) for at in times], 5, 60.0).refused) == len(times)


def test_a_window_empties_between_requests() -> None:
    chart = build_chart([(0.0, 200), (0.0, 200), (100.0, None)], None, 10.0, columns=10)
    assert list(chart.levels) == [2, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_the_limit_is_a_line_where_it_belongs() -> None:
    drawn = draw_chart(Chart(1, 1.0, [59], [0], 59, 60.0))
    top, line = re.search(r"V([\d.]+)H1V", drawn), re.search(r'y1="([\d.]+)%"', drawn)
    assert top is not None
    assert line is not None
    assert float(line[1]) == pytest.approx(float(top[1]) / (59 * 1.18) * 100, abs=0.1)


@given(st.binary(max_size=2000))
def test_shrinking_keeps_the_loudest_and_the_order(levels: bytes) -> None:
    small = shrink(levels)
    assert len(small) == min(PEAKS, len(levels))
    assert max(small, default=0) == max(levels, default=0)
    assert shrink(small) == small


def write_wav(path: Path, width: int, *, seconds: float = 8.0) -> None:
    """Two channels: silence, then full scale on the right."""
    top = 2 ** (8 * width - 1) - 1
    with wave.open(str(path), "wb") as audio:
        audio.setnchannels(2)
        audio.setsampwidth(width)
        audio.setframerate(8000)
        half = int(8000 * seconds / 2)

        def frame(value: int) -> bytes:
            return struct.pack("<q", value + 128 if width == 1 else value)[:width]

        audio.writeframes((frame(0) * 2) * half + (frame(0) + frame(top)) * half)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("installed", [True, False])
def test_a_wav_file_has_an_outline_with_soundfile_and_without(
    tmp_path: Path, width: int, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    write_wav(tmp_path / "a.wav", width)
    peaks = read_peaks(tmp_path / "a.wav")
    assert peaks is not None
    assert max(peaks[: len(peaks) // 2 - 3]) <= 12  # 8 bits know no exact silence
    assert min(peaks[len(peaks) // 2 + 3 :]) >= LOUDEST - 1


def test_what_is_not_audio_has_no_waveform(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(b"no audio" * 100)
    assert read_peaks(tmp_path / "a.mp3") is None
    assert read_peaks(tmp_path / "gone.wav") is None
    assert read_peaks(tmp_path) is None


def test_reading_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", 2)
    assert read_peaks(tmp_path / "a.wav", lambda: True) is None


def test_other_files_are_not_replaced_by_a_report(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    check_report_path(page)
    page.write_text("")
    check_report_path(page)
    page.write_text(make_page())
    check_report_path(page)
    page.write_bytes(b"RIFF my song")
    with pytest.raises(ConfigurationError, match="not a report"):
        check_report_path(page)
    with pytest.raises(ConfigurationError, match="not a report"):
        check_report_path(tmp_path)


def test_outlines_take_a_wav_apart_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wav(tmp_path / "a.wav", 2)
    whole = read_peaks(tmp_path / "a.wav")
    monkeypatch.setattr(waveforms, "_BLOCK", waveforms._HOP)
    assert read_peaks(tmp_path / "a.wav") == whole


def test_the_parser_of_these_tests_sees_markup() -> None:
    assert Elements("<p>" + HOSTILE).tags != Elements("<p>name").tags
