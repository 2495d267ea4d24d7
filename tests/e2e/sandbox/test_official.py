"""The official client, unchanged, runs its whole flow against the sandbox."""

from __future__ import annotations

import asyncio
import io
import wave
from typing import TYPE_CHECKING, Any

import pytest
from aistemsplitter import AIStemSplitter, AIStemSplitterError

from aistemsplitter_async.sandbox import Manual, Sandbox

if TYPE_CHECKING:
    import aiohttp

    from tests.e2e.harness import BareAPI, MakeWav


def official(sandbox: Sandbox) -> Any:
    return AIStemSplitter(sandbox.api_key, base_url=sandbox.base_url)


def whole_flow(client: Any, data: bytes) -> Any:
    before = client.get_credits()
    assert before["unit"] == "seconds"
    uploaded = client.upload_audio(data, filename="song.wav", content_type="audio/wav")
    request = {"input": uploaded["input"], "stemModel": "4s", "outputFormat": "wav"}
    created = client.create_split(request, idempotency_key="song-1")
    again = client.create_split(request, idempotency_key="song-1")
    assert created == again
    assert created["status"] == "queued"
    split = client.wait_for_split(created["id"], timeout=60, interval=0.05)
    assert client.get_credits()["balance"] == before["balance"] - created["creditsUsed"]
    return split


async def fetch_stems(http: aiohttp.ClientSession, split: Any) -> dict[str, bytes]:
    files = {}
    for name, url in split["stems"].items():
        async with http.get(url) as response:
            assert response.status == 200
            files[name] = await response.read()
    return files


async def test_the_official_client_gets_silent_stems(
    sandbox: Sandbox, http: aiohttp.ClientSession, make_wav: MakeWav
) -> None:
    split = await asyncio.to_thread(whole_flow, official(sandbox), make_wav(1.5))
    assert split["status"] == "succeeded"
    assert (split["creditsUsed"], split["durationSeconds"], split["filename"]) == (2, 1.5, "song.wav")
    files = await fetch_stems(http, split)
    assert set(files) == {"vocals", "drums", "bass", "other"}
    assert sandbox.ledger.throttled == 0
    assert not sandbox.ledger.leaked_keys


async def test_the_official_client_gets_real_stems_as_long_as_the_song(
    http: aiohttp.ClientSession, make_wav: MakeWav
) -> None:
    pytest.importorskip("soundfile")
    async with Sandbox(requests_per_minute=None) as sandbox:
        split = await asyncio.to_thread(whole_flow, official(sandbox), make_wav(1.5, rate=22_050))
        assert split["status"] == "succeeded", split
        for data in (await fetch_stems(http, split)).values():
            with wave.open(io.BytesIO(data)) as stem:
                assert stem.getnframes() / stem.getframerate() == pytest.approx(1.5, abs=0.01)


async def test_the_official_client_gets_real_stems_of_a_url(
    http: aiohttp.ClientSession, make_wav: MakeWav, api: BareAPI
) -> None:
    """The source is a stem that another sandbox serves; it has no extension of its own to go by."""
    pytest.importorskip("soundfile")
    source = await api.finish(await api.upload(make_wav(1.0)), outputFormat="mp3")
    async with Sandbox(requests_per_minute=None) as sandbox:
        request = {"input": {"type": "direct_url", "url": source["stems"]["vocals"]}, "stemModel": "6s"}
        created = await asyncio.to_thread(official(sandbox).create_split, request)
        split = await asyncio.to_thread(official(sandbox).wait_for_split, created["id"], interval=0.05)
        assert split["status"] == "succeeded", split
        assert len(await fetch_stems(http, split)) == 6


async def test_the_official_client_reads_every_refusal(sandbox: Sandbox) -> None:
    def attempt(client: Any, method: str, *arguments: Any) -> tuple[int, str]:
        with pytest.raises(AIStemSplitterError) as caught:
            getattr(client, method)(*arguments)
        return caught.value.status_code, caught.value.code

    async def refusal(client: Any, method: str, *arguments: Any) -> tuple[int, str]:
        return await asyncio.to_thread(attempt, client, method, *arguments)

    client = official(sandbox)
    stranger = AIStemSplitter("ast_wrong", base_url=sandbox.base_url)
    assert await refusal(stranger, "get_credits") == (401, "UNAUTHORIZED")
    assert await refusal(client, "get_split", "split_none") == (404, "NOT_FOUND")
    assert await refusal(client, "create_split", {"input": {}}) == (422, "VALIDATION_ERROR")
    dear = {"input": {"type": "direct_url", "url": "https://example.com/a.mp3?seconds=99999"}}
    assert await refusal(client, "create_split", dear) == (402, "INSUFFICIENT_CREDITS")


async def test_the_official_client_is_throttled_like_any_other() -> None:
    async with Sandbox(separation="silent", requests_per_minute=2, progression=Manual()) as sandbox:

        def three() -> int:
            client = official(sandbox)
            client.get_credits()
            client.get_credits()
            with pytest.raises(AIStemSplitterError) as caught:
                client.get_credits()
            return int(caught.value.status_code)

        assert await asyncio.to_thread(three) == 429
