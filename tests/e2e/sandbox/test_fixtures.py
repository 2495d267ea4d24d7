"""The pytest fixtures that come with the package, in test runs of their own, under every plugin for async tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
ASYNCIO_INI = "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"

TESTS = """
import pytest
from aistemsplitter_async import SplitFailedError
from aistemsplitter_async.sandbox import Manual, faults

SONG = bytes(32_000)  # two seconds, if not decoded
pytestmark = {mark}


{fixture}
async def uploaded(stem_client):
    yield (await stem_client.upload_audio(SONG, filename="song.mp3")).input
    await stem_client.get_credits()  # still works when the test is over


@pytest.mark.parametrize("turn", range(3))
async def test_a_fresh_sandbox_each_time(stem_client, stem_sandbox, tmp_path, turn):
    assert stem_sandbox.credits == 36_000
    done = await stem_client.split(SONG, filename="song.mp3", into=tmp_path, timeout=5)
    assert sorted(done.files) == ["bass", "drums", "other", "vocals"]
    assert (stem_sandbox.credits, stem_sandbox.ledger.count("create")) == (35_998, 1)
    assert not stem_sandbox.ledger.leaked_keys


async def test_an_async_fixture_uses_the_client_before_and_after(uploaded, stem_client, stem_sandbox):
    stem_sandbox.faults.add("create", faults.FailedSplit("BAD_AUDIO", "noise"))
    created = await stem_client.create_split(uploaded)
    with pytest.raises(SplitFailedError):
        await stem_client.wait_for_split(created.id)
    assert not stem_sandbox.faults.unconsumed


@pytest.mark.stem_sandbox(progression=Manual(), credits=10)
async def test_a_marker_says_what_the_sandbox_is_and_time_is_in_the_tests_hands(stem_client, stem_sandbox):
    job = await stem_client.submit(SONG, filename="song.mp3")
    assert stem_sandbox.credits == 8
    seen = [split.status async for split in follow(job, stem_sandbox)]
    assert seen == ["queued", "processing", "succeeded"]


async def follow(job, sandbox):
    async for split in job.updates():
        yield split
        if not split.is_terminal:
            sandbox.step(job.id)


async def test_a_stream_that_is_broken_off_leaves_nothing(stem_client, stem_sandbox):
    stem_sandbox.faults.add("create", faults.NeverFinishing())
    job = await stem_client.submit(SONG, filename="song.mp3")
    async for split in job.updates():
        break


async def test_failures_are_tried_again_within_milliseconds(stem_client, stem_sandbox):
    rule = stem_sandbox.faults.add("create", faults.Status(503), times=3)
    await stem_client.submit("https://example.com/a.mp3?seconds=7")
    assert (stem_sandbox.credits, rule.consumed) == (36_000 - 7, 3)
"""

LEFT = """
import gc, os, threading
from pathlib import Path

FILES = Path("/proc/self/fd")


def test_nothing_is_left_of_all_that():
    gc.collect()
    assert [thread.name for thread in threading.enumerate() if "portal" in thread.name] == []
    if FILES.exists():
        assert [link for link in map(readlink, FILES.iterdir()) if link.startswith("socket:")] == []


def readlink(path):
    try:
        return os.readlink(path)
    except OSError:  # the listing's own
        return ""
"""

WAYS = {
    "strict": ("pytest.mark.asyncio", "import pytest_asyncio\n@pytest_asyncio.fixture", "asyncio_mode = strict", ""),
    "auto": ("[]", "@pytest.fixture", "asyncio_mode = auto", ""),
    "anyio": (
        "pytest.mark.anyio",
        "@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n\n\n@pytest.fixture",
        "",
        "no:asyncio",
    ),
}


def run_pytest(folder: Path, *options: str, ini: str = "[pytest]\nfilterwarnings = error\n") -> str:
    """Run pytest in a folder and return what it says; it must succeed."""
    (folder / "pytest.ini").write_text(ini)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("way", WAYS)
def test_the_fixtures_work_with_every_plugin_and_leave_nothing(tmp_path: Path, way: str) -> None:
    mark, fixture, setting, without = WAYS[way]
    (tmp_path / "test_it.py").write_text(TESTS.format(mark=mark, fixture=fixture))
    (tmp_path / "test_left.py").write_text(LEFT)
    ini = "[pytest]\nfilterwarnings = error\n" if without else f"{ASYNCIO_INI}{setting}\n"
    output = run_pytest(tmp_path, *(("-p", without) if without else ()), ini=ini)
    assert "8 passed" in output


PLAIN = """
import asyncio
import pytest
from aistemsplitter import AIStemSplitter
from aistemsplitter_async.sandbox import BlockingSandbox, Sandbox

def test_the_official_client(stem_sandbox):
    client = AIStemSplitter(stem_sandbox.api_key, base_url=stem_sandbox.base_url)
    uploaded = client.upload_audio(bytes(32_000), filename="song.mp3", content_type="audio/mpeg")
    created = client.create_split({"input": uploaded["input"]})
    stem_sandbox.advance(60)
    assert client.wait_for_split(created["id"], interval=0.001)["status"] == "succeeded"
    assert [record.operation for record in stem_sandbox.ledger.requests] == ["reserve", "upload", "create", "get"]

def test_a_loop_of_ones_own(stem_client):
    assert asyncio.run(stem_client.get_credits()).balance == 36_000

def test_a_taken_port(stem_sandbox):
    port = int(stem_sandbox.base_url.split(":")[2].removesuffix("/v1"))
    taken = BlockingSandbox(Sandbox(port=port, separation="silent"))
    for _ in range(2):
        with pytest.raises(OSError, match="in use"):
            taken.start()
    taken.close()

def test_it_starts_again_and_minds_its_state(stem_sandbox):
    with pytest.raises(RuntimeError, match="already"):
        stem_sandbox.start()
    stem_sandbox.close()
    with pytest.raises(RuntimeError, match="not running"):
        stem_sandbox.advance(1)
    stem_sandbox.start()
    with pytest.raises(ValueError, match="forward"):
        stem_sandbox.advance(-1)
    with pytest.raises(KeyError):
        stem_sandbox.step("split_none")
    stem_sandbox.set_credits(5)
    assert stem_sandbox.credits == 5
"""


def test_blocking_clients_and_plain_tests_are_served_too(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PLAIN)
    assert "4 passed" in run_pytest(tmp_path, "-p", "no:asyncio", "-p", "no:anyio")


REPORT = """
import sys

def pytest_collection_finish(session):
    heavy = {"aiohttp", "numpy", "scipy", "attrs", "cattrs"}
    heavy |= {"aistemsplitter_async.client", "aistemsplitter_async.sandbox"}
    sys.stdout.write(f"loaded: {sorted(heavy & set(sys.modules))}\\n")
"""


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("def test_it(): pass", []),
        ("def test_it(stem_client): pass", []),
        # The control, and what a test file pays that imports the fakes: no aiohttp.
        ("import aiohttp\ndef test_it(): pass", ["aiohttp"]),
        (
            "from aistemsplitter_async.testing import FakeClock, FakeTransport, json_reply\ndef test_it(): pass",
            ["attrs"],
        ),
    ],
)
def test_collecting_costs_nothing(tmp_path: Path, code: str, loaded: list[str]) -> None:
    (tmp_path / "conftest.py").write_text(REPORT)
    (tmp_path / "test_it.py").write_text(code)
    # Plugins of others are left out: hypothesis, say, imports what it likes.
    output = run_pytest(tmp_path, "-p", "no:asyncio", "-p", "no:hypothesispytest", "-s")
    assert f"loaded: {loaded}" in output


def test_the_marker_is_known(tmp_path: Path) -> None:
    assert "@pytest.mark.stem_sandbox(**options)" in run_pytest(tmp_path, "--markers", "-p", "no:asyncio")


def readme_block(marker: str) -> str:
    (found,) = [
        code for code in re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL) if marker in code
    ]
    return str(found)


def test_the_readmes_test_file_passes_as_it_stands(tmp_path: Path) -> None:
    code = readme_block("stem_client")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    (tmp_path / "service.py").write_text(readme_block("def build_app"))
    (tmp_path / "bot.py").write_text(readme_block("async def on_audio"))
    (tmp_path / "test_stems.py").write_text(code)
    assert "2 passed" in run_pytest(tmp_path, ini=ASYNCIO_INI)
