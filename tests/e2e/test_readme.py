"""The code in the README, and that of docs/sharing.md, runs as written."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

from aistemsplitter_async import AsyncAIStemSplitter
from aistemsplitter_async.sandbox import Sandbox

MakeWav = Callable[..., bytes]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## (.+?)$|^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    """Every Python block with the heading it stands under."""
    found, heading = [], ""
    for title, code in BLOCKS:
        heading = title or heading
        if code:
            found.append((heading, code))
    return found


def block(heading: str) -> str:
    return next(code for title, code in blocks() if title == heading)


def run_block(heading: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block(heading), f"README.md: {heading}", "exec"), namespace)  # noqa: S102  # our own README
    return namespace


STEMS = "The stems you want, and the song without vocals"
SCRIPTS = [(title, code) for title, code in blocks() if "asyncio.run(" in code]
SHARING = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")  # whose script needs no more than those
SCRIPTS += [
    ("docs/sharing.md", code) for code in re.findall(r"^```python\n(.*?)^```", SHARING, re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("code", [code for _, code in SCRIPTS], ids=[title for title, _ in SCRIPTS])
async def test_a_script_runs(code: str, sandbox: Sandbox, make_wav: MakeWav, tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(make_wav(1.0))
    environment = os.environ | {
        "AISTEMSPLITTER_API_KEY": sandbox.api_key,
        "AISTEMSPLITTER_BASE_URL": sandbox.base_url,
        "AISTEMSPLITTER_SHARED_DIR": str(tmp_path),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", code, cwd=tmp_path, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert not err, err.decode()
    comments = [line.rpartition("# ")[2] for line in code.splitlines() if "print(" in line and "# [" in line]
    for comment in comments:  # where a comment shows what is printed, it is
        assert comment in out.decode()


@pytest.fixture
async def service(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestClient[Any, Any]]:
    monkeypatch.setenv("AISTEMSPLITTER_API_KEY", sandbox.api_key)
    monkeypatch.setenv("AISTEMSPLITTER_BASE_URL", sandbox.base_url)
    app = run_block("In a service")["build_app"]()
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_the_service_takes_a_song_and_shows_its_stems(service: TestClient[Any, Any], make_wav: MakeWav) -> None:
    async with service.post("/songs", data=make_wav(1.0)) as answer:
        assert answer.status == 202
        split_id = (await answer.json())["id"]
    while True:
        async with service.get(f"/songs/{split_id}") as answer:
            shown = await answer.json()
        if shown["status"] == "succeeded":
            break
    assert set(shown["stems"]) == {"vocals", "drums", "bass", "other"}


async def test_the_bot_streams_audio_and_follows_the_split(
    sandbox: Sandbox, make_wav: MakeWav, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    audio, said = make_wav(1.0), []

    async def open_file() -> AsyncIterator[bytes]:
        for start in range(0, len(audio), 1000):
            yield audio[start : start + 1000]

    async def say(text: str) -> None:
        said.append(text)

    on_audio = run_block("In a bot")["on_audio"]
    async with AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url) as client:
        files = await on_audio(client, "song.wav", len(audio), open_file, say)
    assert said[-1] == "song.wav: succeeded"
    assert sorted(Path(file).stem for file in files) == ["bass", "drums", "other", "vocals"]


def test_the_configuration_is_valid() -> None:
    assert isinstance(run_block("Configuration")["client"], AsyncAIStemSplitter)


async def test_a_stem_is_passed_on_with_its_length_and_type(sandbox: Sandbox, make_wav: MakeWav) -> None:
    stored = dict[str, object]()

    async def put(request: web.Request) -> web.Response:
        stored.update(length=request.content_length, type=request.content_type, received=len(await request.read()))
        return web.Response()

    storage = web.Application()
    storage.router.add_put("/vocals", put)
    async with (
        AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url) as client,
        TestServer(storage) as server,
        ClientSession() as session,
    ):
        job = await client.submit(make_wav(1.0), filename="song.wav", output_format="wav")
        await run_block(STEMS)["pass_on"](job, session, str(server.make_url("/vocals")))
    assert stored["type"] == "audio/wav"
    assert stored["length"] == stored["received"] != 0


def test_the_first_screen_has_exactly_the_two_commands() -> None:
    first = README.partition("\n## ")[0]
    assert re.findall(r"```sh\n(.*?)\n```", first, re.DOTALL) == [
        'pip install -e ".[cli,sandbox]" && aistemsplitter-async demo',
        'pip install -e ".[dev]" && pytest',
    ]


def test_no_block_is_left_out() -> None:
    tested = {title for title, _ in SCRIPTS} - {"docs/sharing.md"} | {
        "In a service",
        "In a bot",
        "Configuration",
        STEMS,
    }
    assert {title for title, _ in blocks()} == tested
