"""The sandbox's page in headless Chromium."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from aiohttp import web

from aistemsplitter_async.sandbox import Manual
from aistemsplitter_async.sandbox.separation.audio_files import open_audio_writer
from aistemsplitter_async.sandbox.separation.demo_song import SAMPLE_RATE, render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.e2e.harness import BareAPI, Browser, Connect

SONG = "https://example.com/song.mp3?seconds=10"
ENTER, TAB, ARROW_RIGHT = "\ue007", "\ue004", "\ue014"

pytestmark = pytest.mark.chromium


@pytest.fixture
def begin(browser: Browser, connect: Connect) -> Connect:
    """Start a sandbox whose page must leave nothing in the console and is left before the sandbox ends."""

    @asynccontextmanager
    async def start(**options: Any) -> AsyncIterator[BareAPI]:
        async with connect(**options) as api:
            yield api
            complaints = await browser.complaints()
            await browser.open("about:blank")
            assert complaints == []

    return start


def page_of(api: BareAPI) -> str:
    return api.sandbox.base_url.removesuffix("/v1") + "/"


async def test_an_empty_sandbox_says_how_to_begin_and_then_shows_splits_as_they_come(
    browser: Browser, begin: Connect
) -> None:
    async with begin(progression=Manual(), requests_per_minute=10, credits=100) as api:
        await browser.open(page_of(api))
        await browser.wait("document.getElementById('empty').checkVisibility()")
        (code,) = await browser.texts("#empty pre")
        assert f"AISTEMSPLITTER_BASE_URL={api.sandbox.base_url}\n" in code
        created = (await api.create(SONG)).json["data"]["id"]
        await browser.wait("document.querySelector('.split .status')?.innerText === 'Queued'")
        assert await browser.texts("#empty") == []
        await api.sandbox.step(created)
        await browser.wait("document.querySelector('.split .status').innerText === 'Processing'")
        await api.sandbox.step(created)
        await browser.wait("document.querySelector('.split .status').innerText === 'Succeeded'")
        assert await browser.texts("#keys .figure") == ["90 credits, 1 min 30 s of audio"]
        assert await browser.texts("#keys .meter-text > span:first-child") == ["1 of 10 requests of the window used"]
        await asyncio.gather(*(api.call("GET", "/credits") for _ in range(12)))
        await browser.wait("document.getElementById('throttled-total').innerText === '3'")
        assert await browser.texts("#request-total") == ["13"]
        (used,) = await browser.texts("#keys .meter-text > span:first-child")
        assert used.startswith("10 of 10 used, next slot in ")
        assert await browser.run("return document.querySelector('[role=meter]').ariaValueText") == "10 of 10 used"


async def test_a_split_is_opened_and_listened_to_with_the_keyboard_alone(
    browser: Browser, begin: Connect, tmp_path: Path
) -> None:
    def write_song() -> bytes:
        with open_audio_writer(tmp_path / "song.wav", "wav", SAMPLE_RATE) as write_frames:
            write_frames(render().mix)
        return (tmp_path / "song.wav").read_bytes()

    song = await asyncio.to_thread(write_song)
    async with begin(separation="real") as api:
        await api.create(await api.upload(song, filename="demo.wav"), outputFormat="wav")
        await browser.open(page_of(api))
        await browser.wait("document.querySelector('.split .status')?.innerText === 'Succeeded'", timeout=60)
        for _ in range(20):
            await browser.press(TAB)
            if await browser.run("return document.activeElement.classList.contains('disclosure')"):
                break
        await browser.press(ENTER)
        assert await browser.run("return document.activeElement.ariaExpanded") == "true"
        await browser.wait("document.querySelectorAll('.stem').length === 4")
        await browser.wait("[...document.querySelectorAll('.wave p')].every(note => note.hidden)")
        assert await browser.texts(".stem-name") == ["Vocals", "Drums", "Bass", "Other"]
        inked = await browser.run(
            "return [...document.querySelectorAll('.wave canvas')].map(canvas => {"
            "  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
            "  let inked = 0; for (let i = 3; i < pixels.length; i += 4) inked += pixels[i] > 0;"
            "  return inked / (canvas.width * canvas.height); })"
        )
        assert all(0.03 < share < 0.6 for share in inked), inked
        assert len({round(share, 4) for share in inked}) == 4  # each has a shape of its own
        await browser.press(TAB)
        assert await browser.run("return document.activeElement.ariaLabel") == "Play all stems"
        await browser.press(ENTER)
        sounds = "[...document.querySelectorAll('audio')]"
        await browser.wait(f"{sounds}.every(audio => !audio.paused && audio.currentTime > 0.1)")
        assert await browser.run("return document.activeElement.ariaLabel") == "Pause all stems"
        await browser.wait(
            f"Math.max(...{sounds}.map(a => a.currentTime)) - Math.min(...{sounds}.map(a => a.currentTime)) < 0.08"
        )
        await browser.press(TAB, ARROW_RIGHT)  # on the position
        await browser.wait(f"{sounds}.every(audio => audio.currentTime > 5)")
        await browser.press(TAB, TAB)
        assert await browser.run("return document.activeElement.ariaLabel") == "Mute vocals"
        await browser.press(ENTER)
        assert await browser.run(f"return {sounds}.map(audio => audio.muted)") == [True, False, False, False]
        await browser.press(TAB, TAB, ENTER)
        assert await browser.run("return document.activeElement.ariaLabel") == "Pause drums alone"
        assert await browser.run(f"return {sounds}.map(audio => audio.muted)") == [True, False, True, True]
        await browser.press(ENTER)
        assert await browser.run(f"return {sounds}.every(audio => audio.paused)")
        assert api.sandbox.ledger.count("download") == 0


async def test_three_hundred_splits_are_listed_newest_first_and_updates_disturb_nothing(
    browser: Browser, begin: Connect
) -> None:
    async with begin(credits=100_000, progression=Manual()) as api:
        created = [await api.create(f"https://example.com/track%20{n:03}.mp3?seconds=10") for n in range(300)]
        newest = created[-1].json["data"]["id"]
        await browser.open(page_of(api))
        await browser.wait("document.querySelectorAll('.split').length === 300")
        names = await browser.texts(".disclosure")
        assert names == [f"track {n:03}.mp3" for n in reversed(range(300))]
        await browser.run(
            "const button = document.querySelectorAll('.disclosure')[5];"
            "button.click(); button.focus(); window.kept = button; window.changes = 0;"
            "const seen = new MutationObserver(found => { window.changes += found.length; });"
            "seen.observe(button.closest('tbody'), { childList: true });"
        )
        await api.create(SONG)
        await browser.wait("document.querySelectorAll('.split').length === 301")
        await api.sandbox.step(newest)
        await browser.wait("document.getElementById('count-processing').innerText === '1'")
        assert await browser.run("return document.activeElement === window.kept && window.kept.isConnected")
        assert await browser.run("return window.kept.ariaExpanded") == "true"
        assert await browser.run("return window.changes") == 1  # the new row came; no other was touched
        assert await browser.run("return document.documentElement.scrollWidth <= innerWidth")
        await browser.run("document.querySelector('input[value=processing]').click()")
        assert await browser.texts(".disclosure") == ["track 299.mp3"]
        await browser.run("document.getElementById('statuses').querySelector('input').click()")
        await browser.type("#search", "track 01")
        assert await browser.texts(".disclosure") == [f"track {n:03}.mp3" for n in reversed(range(10, 20))]


async def test_the_page_is_light_or_dark_as_the_reader_likes_it_and_fits_a_phone(
    browser: Browser, begin: Connect
) -> None:
    async with begin() as api:
        await api.finish("https://example.com/" + "long-name-" * 20 + ".mp3?seconds=10")
        await browser.open(page_of(api))
        await browser.wait("document.querySelector('.split')")
        await browser.run("document.querySelector('.disclosure').click()")
        await browser.wait("document.querySelectorAll('.stem').length === 4")
        await browser.wait("[...document.querySelectorAll('.wave p')].every(note => note.hidden)")  # silence, in mp3
        colours = "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
        brightness = {}
        for scheme in ("light", "dark"):
            await browser.emulate(scheme=scheme, width=400)
            page, ink = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in await browser.run(colours)]
            brightness[scheme] = (page, ink)
            assert await browser.run("return document.documentElement.scrollWidth <= innerWidth")
        assert brightness["light"][0] > 650
        assert brightness["light"][1] < 150
        assert brightness["dark"][1] > 650
        assert brightness["dark"][0] < 150


async def test_nothing_is_requested_while_the_page_is_hidden(browser: Browser, begin: Connect) -> None:
    async with begin() as api:
        await browser.open(page_of(api))
        await browser.wait("!document.getElementById('board').hidden")
        hide = "Object.defineProperty(document, 'hidden', {get: () => %s, configurable: true});"
        notify = "document.dispatchEvent(new Event('visibilitychange'));"
        await browser.run(hide % "true" + notify)
        await asyncio.sleep(0.2)  # an answer may be under way
        await api.create(SONG)
        await asyncio.sleep(1.5)
        assert await browser.texts(".split") == []
        await browser.run(hide % "false" + notify)
        await browser.wait("document.querySelectorAll('.split').length === 1", timeout=2)
        await browser.run("document.getElementById('live').click()")
        assert await browser.texts("#live") == ["Paused"]


async def test_names_are_shown_as_text_whatever_they_are(browser: Browser, begin: Connect) -> None:
    name = '<img src=x onerror="document.title=1"><b>&amp;.mp3'
    async with begin() as api:
        await api.create("https://example.com/" + quote(name) + "?seconds=10")
        await browser.open(page_of(api))
        await browser.wait("document.querySelector('.split')")
        assert await browser.texts(".disclosure") == [name]
        assert await browser.run("return document.querySelectorAll('img, b b').length") == 0


async def test_deliveries_of_webhooks_are_shown_with_their_answers(browser: Browser, begin: Connect) -> None:
    answers = [503, 204]

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=answers.pop(0))

    receiver = web.ServerRunner(web.Server(answer))
    await receiver.setup()
    await web.TCPSite(receiver, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{receiver.addresses[0][1]}/<b>hooks"
    async with begin() as api:
        await api.create(SONG, webhookUrl=url)
        await browser.open(page_of(api))
        await browser.wait("document.querySelector('.split')")
        await browser.run("document.querySelector('.disclosure').click()")
        await browser.wait("document.querySelectorAll('.attempts li').length === 1")
        assert await browser.texts(".webhook") == [f"Webhook not delivered yet, will be retried: {url}"]
        api.sandbox.advance(1)
        await browser.wait("document.querySelectorAll('.attempts li').length === 2")
        assert await browser.texts(".webhook") == [f"Webhook delivered: {url}"]
        assert await browser.texts(".attempts .answer") == ["answered 503", "answered 204"]
        assert (await browser.texts("#operations tbody tr"))[-1].split("\t") == ["Webhook sent", "1", "0", "1"]
    await receiver.cleanup()


async def test_without_the_control_endpoint_the_page_says_so(browser: Browser, begin: Connect) -> None:
    async with begin(control=False) as api:
        await browser.open(page_of(api))
        (notice,) = await browser.texts("#notice")
        assert "control=False" in notice
        assert await browser.texts("#board, #live") == []


async def test_a_stopped_sandbox_is_reported_and_what_was_shown_stays(browser: Browser, connect: Connect) -> None:
    async with connect() as api:
        await api.create(SONG)
        await browser.open(page_of(api))
        await browser.wait("document.querySelector('.split')")
    await browser.wait("document.getElementById('notice').innerText.includes('may have been stopped')")
    assert await browser.texts("#live") == ["Not connected"]
    assert len(await browser.texts(".split")) == 1
    assert all("net::ERR_" in complaint for complaint in await browser.complaints())
