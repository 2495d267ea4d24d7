"""A batch's report: written after a real batch, and opened in headless Chromium."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import attrs
import pytest

from aistemsplitter_async import AsyncAIStemSplitter, RateLimit
from aistemsplitter_async.cli.report.report import write_report
from aistemsplitter_async.cli.report.request_log import RequestLog
from aistemsplitter_async.cli.report.waveforms import Waveforms
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.journal.record import StoredFailure
from aistemsplitter_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aistemsplitter_async import Batch
    from aistemsplitter_async.journal.record import Record
    from tests.e2e.harness import Browser, MakeWav

NAME = "<img src=x onerror=document.title=1> 100% #1 'ö' 音"
ENTER = "\ue007"
ROWS = "[...document.querySelectorAll('.split')]"


@attrs.frozen
class Repeated:
    """A batch whose every track the journal knows many times."""

    batch: Batch
    times: int = 1

    async def records(self) -> AsyncIterator[Record]:
        """Iterate over the records, numbered."""
        found = [record async for record in self.batch.records()]
        for at in range(self.times):
            record = found[at % len(found)]
            yield attrs.evolve(record, folder=f"{record.folder} {at}") if self.times > len(found) else record

    def __getattr__(self, name: str) -> object:
        return getattr(self.batch, name)


async def run(
    folder: Path, make_wav: MakeWav, *, tracks: int = 3, page: str = "report.html", twins: tuple[str, ...] = ()
) -> Path:
    """Split two songs and something that is none, and write the report of `tracks` tracks."""
    into, requests = folder / "stems #1 50%?", RequestLog()
    songs = folder / "songs"
    songs.mkdir(exist_ok=True)
    for name, seconds in ((f"{NAME}.wav", 12), ("second.wav", 10)):
        await asyncio.to_thread((songs / name).write_bytes, make_wav(seconds))
    (songs / "broken.wav").write_bytes(b"no audio at all" * 9)
    async with Sandbox(separation="real", requests_per_minute=60) as sandbox:
        client = AsyncAIStemSplitter(
            sandbox.api_key, base_url=sandbox.base_url, rate_limit=RateLimit(60), on_event=requests.note
        )
        async with client, client.split_many(sorted(songs.iterdir()), into=into, output_format="wav") as batch:
            with Waveforms() as waveforms:
                report = await batch.report()
                seen = Repeated(batch, tracks)
                denied = StoredFailure("prepare", "SourceUnreadableError", "permission denied")
                await write_report(
                    folder / page,
                    seen,  # type: ignore[arg-type]  # it does what a batch does
                    into,
                    requests,
                    report,
                    others={"/music/locked.mp3": denied},
                    twins={name: str(songs / "second.wav") for name in twins},
                    waveforms=waveforms,
                )
    return folder / page


async def open_row(browser: Browser, name: str) -> str:
    """Open a track, and return the expression for what belongs to it."""
    row = f"{ROWS}.find(row => row.innerText.includes('{name}'))"
    await browser.run(f"{row}.querySelector('button').click()")
    return f"{row}.nextElementSibling"


async def press_play(browser: Browser, detail: str) -> None:
    """Play all stems of an open track, with the keyboard: a browser wants a person to begin a sound."""
    await browser.run(f"{detail}.querySelector('.transport .round').focus()")
    await browser.press(ENTER)


def playing(detail: str, *, when: str = "true") -> str:
    return f"[...{detail}.querySelectorAll('audio')].every(audio => !audio.paused && {when})"


@pytest.mark.chromium
async def test_a_report_lists_every_track_and_plays_its_stems(
    browser: Browser, make_wav: MakeWav, tmp_path: Path
) -> None:
    page = await run(tmp_path, make_wav)
    await browser.open(page.as_uri())
    names = await browser.texts(".disclosure")
    assert sorted(names)[1:] == ["broken", "locked.mp3", "second"]
    assert await browser.run("return document.querySelectorAll('img').length") == 0
    assert sorted(await browser.texts(".status")) == ["Done", "Done", "Failed", "Failed"]
    assert "permission denied" in "".join(await browser.texts(".reason"))
    assert "limit 60" in await browser.run("return document.querySelector('.chart').textContent")
    first = await open_row(browser, "100%")
    await browser.wait("document.querySelectorAll('.stem').length === 4")
    await browser.wait(  # they are drawn with the next frame
        "[...document.querySelectorAll('.wave canvas')].filter(canvas => {"
        " const { width, height } = canvas;"
        " const blank = Object.assign(document.createElement('canvas'), { width, height });"
        " return canvas.toDataURL() !== blank.toDataURL(); }).length === 4"
    )
    await press_play(browser, first)
    await browser.wait(playing(first, when="audio.currentTime > 0.1"))
    second = await open_row(browser, "second")
    await press_play(browser, second)
    await browser.wait(playing(second))
    assert await browser.run(f"return [...{first}.querySelectorAll('audio')].map(audio => audio.paused)") == [True] * 4
    await browser.run(
        f"const wave = {first}.querySelector('.wave'), box = wave.getBoundingClientRect();"
        "wave.dispatchEvent(new MouseEvent('click', { clientX: box.left + box.width / 2, bubbles: true }))"
    )
    assert await browser.run(f"return {first}.querySelector('audio').currentTime") == pytest.approx(6.0, abs=0.1)
    sizes = await browser.texts(".files li")
    assert len(sizes) == 8
    assert all(re.fullmatch(r"\w+\.wav [\d.]+ [kM]B", size) for size in sizes), sizes
    assert await browser.complaints() == []


@pytest.mark.chromium
async def test_two_thousand_tracks_are_found_and_filtered_at_once_on_a_phone_too(
    browser: Browser, make_wav: MakeWav, tmp_path: Path
) -> None:
    page = await run(tmp_path, make_wav, tracks=2000)
    await browser.open(page.as_uri())
    assert await browser.run(f"return {ROWS}.length") == 2001
    shown = f"{ROWS}.filter(row => !row.hidden && !row.parentNode.hidden).length"
    failed = int(await browser.run(f"return {ROWS}.filter(row => row.dataset.state === 'failed').length"))
    await browser.run("document.querySelector('input[value=failed]').click()")
    assert await browser.run(f"return {shown}") == failed
    await browser.type("#search", "locked")
    assert await browser.run(f"return {shown}") == 1
    await browser.type("#search", " nowhere")
    assert await browser.texts("#none-match") != []
    await browser.run("document.getElementById('clear').click()")
    assert await browser.run(f"return {shown}") == 2001
    for scheme in ("light", "dark"):
        await browser.emulate(scheme=scheme, width=400)
        assert await browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert await browser.complaints() == []


@pytest.mark.chromium
async def test_a_duplicate_leads_to_its_song_even_if_that_is_filtered_away(
    browser: Browser, make_wav: MakeWav, tmp_path: Path
) -> None:
    page = await run(tmp_path, make_wav, twins=("/music/copy.wav",))
    await browser.open(page.as_uri())
    await browser.run("document.querySelector('[value=duplicate]').click()")
    assert await browser.texts(".split .disclosure") == ["copy.wav"]
    await browser.run("document.querySelector('.reason a').click()")
    assert "second" in await browser.texts(".split .disclosure")
    assert await browser.run("return document.querySelector(':target').innerText.includes('second')")


@pytest.mark.chromium
async def test_a_report_can_be_read_without_scripts(browser: Browser, make_wav: MakeWav, tmp_path: Path) -> None:
    page = await run(tmp_path, make_wav)
    page.write_text(
        re.sub(r'<script type="module">.*?</script>', "", page.read_text("utf-8"), flags=re.DOTALL), "utf-8"
    )
    await browser.open(page.as_uri())
    assert len(await browser.texts(".split")) == 4
    assert await browser.texts("#search, .statuses") == []


async def test_a_report_is_replaced_and_takes_the_waveforms_from_the_one_before(
    make_wav: MakeWav, tmp_path: Path
) -> None:
    page = await run(tmp_path, make_wav)
    before = re.findall(r'"peaks":"([^"]+)"', page.read_text("utf-8"))
    assert len(before) == 8
    marked = page.read_text("utf-8").replace(before[0], "AP8=")  # bytes that no waveform has
    (tmp_path / "kept.html").write_text(marked, "utf-8")
    (tmp_path / "stems #1 50%?").rename(tmp_path / "elsewhere")
    page = await run(tmp_path, make_wav, page="kept.html")
    after = re.findall(r'"peaks":"([^"]+)"', page.read_text("utf-8"))
    assert sorted(after) == sorted(["AP8=" if peaks == before[0] else peaks for peaks in before])
    assert sorted(path.name for path in tmp_path.glob("*html*")) == ["kept.html", "report.html"]


async def test_a_report_does_not_replace_a_song(make_wav: MakeWav, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    song.write_bytes(make_wav())
    with pytest.raises(ConfigurationError, match="not a report"):
        await run(tmp_path, make_wav, page="song.wav")
    assert song.read_bytes() == make_wav()
