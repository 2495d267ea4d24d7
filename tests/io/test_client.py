"""The client as a caller sees it: what it refuses, what it sends, and what its errors carry."""

from __future__ import annotations

import asyncio
import pickle
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aistemsplitter_async import AsyncAIStemSplitter
from aistemsplitter_async._gate.gate import Gate
from aistemsplitter_async.config import PollPolicy, RateLimit
from aistemsplitter_async.errors import (
    AIStemSplitterError,
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ConfigurationError,
    DownloadError,
    InsufficientCreditsError,
    SourceUnreadableError,
    SplitFailedError,
    SubmissionUncertainError,
    WaitTimeoutError,
)
from aistemsplitter_async.events import SplitCreated
from aistemsplitter_async.models import Credits, DirectURL, Submission
from aistemsplitter_async.testing import Exchange, FakeClock, FakeTransport, error_reply, json_reply
from tests.io.fakes import World

URL = "https://example.com/song.wav"
SONG = b"RIFF" * 100


def status(code: int, **headers: str) -> Any:
    return error_reply(code, "CODE", headers={name.replace("_", "-"): text for name, text in headers.items()})


def broken() -> APIConnectionError:
    return APIConnectionError("reset")


def refused() -> APIConnectionError:
    return APIConnectionError("refused", may_have_arrived=False)


async def hang(_: object) -> None:
    await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AISTEMSPLITTER_API_KEY", raising=False)
    monkeypatch.delenv("AISTEMSPLITTER_BASE_URL", raising=False)


# --- construction


@pytest.mark.parametrize("key", [None, "", "   ", "two words", "sch\u00f6n", "line\nbreak", "nul\0"])
def test_a_key_that_is_missing_or_cannot_be_one_is_refused_without_showing_it(key: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AsyncAIStemSplitter(key)
    assert caught.value.code == "NO_API_KEY"
    assert not key or not key.strip() or key not in str(caught.value)


def test_key_and_base_url_come_from_the_environment_if_they_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISTEMSPLITTER_API_KEY", " ast_env ")
    monkeypatch.setenv("AISTEMSPLITTER_BASE_URL", "https://env.test/v2/")
    assert AsyncAIStemSplitter().base_url == "https://env.test/v2"
    assert AsyncAIStemSplitter(base_url="https://given.test").base_url == "https://given.test/v1"
    with pytest.raises(ConfigurationError):
        AsyncAIStemSplitter("")  # given, and wrong: the environment does not hide that


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (None, "https://api.aistemsplitter.org/v1"),
        ("https://a.test", "https://a.test/v1"),
        ("https://a.test/", "https://a.test/v1"),
        ("https://a.test/v1", "https://a.test/v1"),
        ("https://a.test/v1/", "https://a.test/v1"),
        (" https://a.test:8443/api/v3// ", "https://a.test:8443/api/v3"),
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_a_base_url_is_trimmed_and_versioned(given: str | None, used: str) -> None:
    assert AsyncAIStemSplitter("k", base_url=given).base_url == used


@pytest.mark.parametrize(
    "url",
    [
        "api.test",
        "ftp://api.test",
        "https://",
        "https:///v1",
        "https://user@api.test",
        "https://user:word@api.test",
        "https://:word@api.test",
        "https://api.test?x=1",
        "https://api.test/v1?",
        "https://api.test/v1#",
        "https://api.test/#part",
        "https://api.test:port",
        "https://[::1",
        "http://api.test",
        "http://localhost.evil.test",
        "http://10.0.0.1",
    ],
)
def test_a_base_url_that_cannot_be_right_or_would_show_the_key_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AsyncAIStemSplitter("k", base_url=url)
    assert "word" not in str(caught.value)


def test_plain_http_to_another_machine_needs_its_name_in_allow_hosts() -> None:
    client = AsyncAIStemSplitter("k", base_url="http://api.lan:80", allow_hosts=["API.lan"])
    assert client.base_url == "http://api.lan/v1"


@pytest.mark.parametrize(
    ("spelt", "url"),
    [
        ("https://API.Test/v1", "https://api.test/v1"),
        (" HTTPS://api.test.:0443//v1// ", "https://api.test/v1"),
        ("https://münchen.test", "https://xn--mnchen-3ya.test/v1"),
        ("https://api.test:08443/a//b/", "https://api.test:8443/a/b"),
        ("http://[0:0:0:0:0:0:0:1]:8080", "http://[::1]:8080/v1"),
        ("http://127.1:08080/v1", "http://127.0.0.1:8080/v1"),
        ("http://0x7f000001", "http://127.0.0.1/v1"),
    ],
)
def test_a_base_url_has_one_spelling(spelt: str, url: str) -> None:
    assert AsyncAIStemSplitter("k", base_url=spelt).base_url == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://[fe80::1%25eth0]/v1", "zone"),
        ("https://me:word@api.test/v1", "credentials"),
        ("https://api.test/v1?a=b", "query"),
        ("https://api.test:0/v1", "port"),
        ("api.test/v1", "does not begin with https://"),
        ("http://100.64.0.7/v1", "allow_hosts"),
    ],
)
def test_a_base_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        AsyncAIStemSplitter("k", base_url=url)


def test_arguments_that_exclude_each_other_are_refused() -> None:
    transport = FakeTransport(lambda _: json_reply({}))
    for options in (
        {"gate": Gate(), "rate_limit": RateLimit(60)},
        {"transport": transport, "proxy": "http://proxy.test"},
        {"allow_hosts": "api.test"},
    ):
        with pytest.raises(ConfigurationError):
            AsyncAIStemSplitter("k", **options)


async def test_an_injected_session_excludes_a_transport_and_is_never_closed() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConfigurationError):
            AsyncAIStemSplitter("k", session=session, transport=FakeTransport(lambda _: json_reply({})))
        async with AsyncAIStemSplitter("k", session=session):
            pass
        assert not session.closed


async def test_no_repr_shows_the_key() -> None:
    client = AsyncAIStemSplitter("ast_secret")
    async with client:
        for thing in (client, client._engine.pipeline.transport, client.gate, client.job("split_1"), vars(client)):
            assert "ast_secret" not in repr(thing)


# --- loops and closing


def client_of(answer: Any) -> AsyncAIStemSplitter:
    return AsyncAIStemSplitter("k", transport=FakeTransport(lambda _: answer), base_url="https://api.test")


def test_a_client_belongs_to_the_loop_of_its_first_call_and_says_so() -> None:
    client = client_of(json_reply({"balance": 1}))
    outcomes: list[Any] = []

    def run() -> None:
        for _ in range(2):
            try:
                outcomes.append(asyncio.run(client.get_credits()))
            except ConfigurationError as error:
                outcomes.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert outcomes[0] == Credits(1)
    assert "event loop" in outcomes[1]


async def test_a_closed_client_says_so_and_closing_twice_is_nothing(world: World, tmp_path: Path) -> None:
    client = world.client()
    async with client:
        split = await client.get_split("split_1")
    await client.aclose()
    world.api.asked.clear()
    assert world.api.closed
    calls: list[Any] = [
        client.get_credits(),
        client.get_split("split_1"),
        client.upload_audio(SONG),
        client.submit(SONG),
        client.submit(URL),
        client.create_split(DirectURL(URL)),
        client.resubmit(Submission("k", b"{}")),
        client.wait_for_split("split_1"),
        client.download_stems(split, tmp_path),
        client.split(URL, into=tmp_path),
        client.create_upload(filename="a", content_type="b", content_length=1),
        client.job("split_1").wait(),
        client.job("split_1").download(tmp_path),
        client.__aenter__(),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="closed"):
            await call
    with pytest.raises(ConfigurationError, match="closed"):
        client.updates("split_1")
    assert world.api.asked == []


# --- calls


async def test_credits_and_reservations_are_plain_calls(world: World) -> None:
    async with world.client() as client:
        assert await client.get_credits() == Credits(6200, "seconds")
        place = await client.create_upload(filename="a.wav", content_type="audio/wav", content_length=5)
    assert place.upload_id == "upl_1"
    assert "abc" not in repr(place)


async def test_a_client_that_is_closed_during_an_upload_creates_nothing(world: World) -> None:
    client = world.client()

    async def close(_: Exchange) -> None:
        await client.aclose()

    world.api.script("upload", close)
    with pytest.raises(ConfigurationError, match="closed"):
        await client.submit(SONG, filename="song.wav")
    assert world.api.count("create") == 0


async def test_a_create_sends_what_was_asked_for_and_nothing_else(world: World) -> None:
    async with world.client() as client:
        created = await client.create_split(
            DirectURL(URL), stem_model="6s", output_format="wav", webhook_url="https://me.test/x", idempotency_key="k-1"
        )
        await client.create_split(DirectURL(URL))
    full, bare = world.api.of("create")
    assert full.json == {
        "input": {"type": "direct_url", "url": URL},
        "stemModel": "6s",
        "outputFormat": "wav",
        "webhookUrl": "https://me.test/x",
    }
    assert full.headers["Idempotency-Key"] == "k-1"
    assert bare.json == {"input": {"type": "direct_url", "url": URL}}
    assert len(bare.headers["Idempotency-Key"]) == 36
    assert (created.id, created.credits_used) == ("split_1", 214)
    assert [event.split_id for event in world.of(SplitCreated)] == ["split_1", "split_2"]


@pytest.mark.parametrize("key", ["", "x" * 256, "line\nbreak", "sch\u00f6n", "\0"])
async def test_an_idempotency_key_that_cannot_be_one_is_refused_before_any_request(world: World, key: str) -> None:
    async with world.client() as client:
        for call in (
            client.create_split(DirectURL(URL), idempotency_key=key),
            client.submit(SONG, idempotency_key=key),
        ):
            with pytest.raises(ConfigurationError):
                await call
    assert world.api.asked == []


async def test_submit_uploads_creates_and_returns_the_job(world: World) -> None:
    async with world.client() as client:
        job = await client.submit(SONG, filename="song.wav", idempotency_key="mine")
    assert (job.id, job.idempotency_key) == ("split_1", "mine")
    assert job.created is not None
    assert [asked.what for asked in world.api.asked] == ["reserve", "upload", "create"]
    assert world.api.of("create")[0].json["input"] == {
        "type": "uploaded_file",
        "uploadId": "upl_1",
        "fileUrl": "https://cdn.test/sources/upl_1",
        "storageKey": "sources/upl_1",
    }


async def test_a_url_is_not_uploaded(world: World) -> None:
    async with world.client() as client:
        await client.submit(URL)
        with pytest.raises(SourceUnreadableError):
            await client.upload_audio(URL)
    assert [asked.what for asked in world.api.asked] == ["create"]


@pytest.mark.parametrize("url", ["http://example.com/a.wav", "https://10.0.0.1/a.wav", "https://me:pw@example.com/a"])
async def test_a_url_the_api_could_not_or_should_not_fetch_is_refused_before_any_request(
    world: World, url: str
) -> None:
    async with world.client() as client:
        with pytest.raises(SourceUnreadableError) as caught:
            await client.submit(url)
    assert world.api.asked == []
    assert "pw" not in str(caught.value)


async def test_a_hook_sees_the_submission_before_it_is_sent_and_can_stop_it(world: World) -> None:
    seen: list[Submission] = []

    async def store(submission: Submission) -> None:
        assert world.api.count("create") == len(seen)
        seen.append(submission)
        if len(seen) == 3:
            raise OSError("disk full")

    world.api.script("create", refused())
    async with world.client() as client:
        await client.create_split(DirectURL(URL), before_send=store, idempotency_key="k")
        with pytest.raises(OSError, match="disk full"):
            await client.create_split(DirectURL(URL), before_send=store)
    assert seen[0] == seen[1] == Submission("k", world.api.of("create")[0].body)
    assert world.api.count("create") == 2


async def test_a_hooks_own_timeout_is_not_mistaken_for_the_calls(world: World) -> None:
    async def slow(_: Submission) -> None:
        raise TimeoutError("database")

    async with world.client() as client:
        with pytest.raises(TimeoutError, match="database"):
            await client.create_split(DirectURL(URL), before_send=slow, timeout=50)


# --- one deadline over everything


async def test_a_timeout_covers_the_wait_at_the_gate(world: World) -> None:
    async with world.client(rate_limit=RateLimit(1)) as client:
        await client.get_credits()
        with pytest.raises(APITimeoutError):
            await client.get_credits(timeout=20)
        with pytest.raises(APITimeoutError) as caught:
            await client.create_split(DirectURL(URL), timeout=20, idempotency_key="k")
    assert world.elapsed() == 40
    assert caught.value.idempotency_key == "k"
    assert world.api.count("create") == 0


async def test_a_timeout_covers_backoffs_and_attempts(world: World) -> None:
    world.api.always("credits", lambda _: status(429, Retry_After="50"))
    world.api.always("get", hang)
    async with world.client() as client:
        with pytest.raises(APITimeoutError):
            await client.get_credits(timeout=30)
        assert world.elapsed() == 30
        with pytest.raises(APITimeoutError) as caught:
            await client.get_split("split_1", timeout=100)
    assert world.elapsed() == 130
    assert caught.value.__context__ is None


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
async def test_no_time_at_all_is_a_timeout_and_not_a_hang(world: World, timeout: float) -> None:
    world.api.always("credits", hang)
    async with world.client() as client:
        with pytest.raises(APITimeoutError):
            await client.get_credits(timeout=timeout)


async def test_time_that_runs_out_during_a_create_leaves_it_uncertain(world: World) -> None:
    world.api.script("create", hang)
    async with world.client() as client:
        with pytest.raises(SubmissionUncertainError) as caught:
            await client.create_split(DirectURL(URL), timeout=10, idempotency_key="k")
        assert world.elapsed() == 15  # and the grace
        assert caught.value.submission == Submission("k", world.api.of("create")[0].body)
        job = await client.resubmit(caught.value.submission)
    assert (job.id, job.idempotency_key) == ("split_1", "k")
    first, second = world.api.of("create")
    assert (first.body, first.headers) == (second.body, second.headers)


async def test_an_answer_that_comes_within_the_grace_is_not_thrown_away(world: World) -> None:
    async def late(_: Exchange) -> None:
        await world.clock.sleep(12)

    world.api.script("create", late)
    async with world.client() as client:
        created = await client.create_split(DirectURL(URL), timeout=10)
    assert created.id == "split_1"


@pytest.mark.parametrize("fault", [refused, lambda: status(429, Retry_After="60")])
async def test_time_that_runs_out_when_no_attempt_can_have_counted_is_a_plain_timeout(world: World, fault: Any) -> None:
    world.api.always("create", lambda _: fault())
    async with world.client(poll=PollPolicy()) as client:
        with pytest.raises(APITimeoutError):
            await client.create_split(DirectURL(URL), timeout=0.2)


async def test_time_that_runs_out_in_the_backoff_after_an_ambiguous_attempt_leaves_it_uncertain(world: World) -> None:
    world.api.script("create", broken())
    world.api.always("create", lambda _: status(429, Retry_After="60"))
    async with world.client() as client:
        with pytest.raises(SubmissionUncertainError):
            await client.create_split(DirectURL(URL), timeout=30)


async def test_time_that_runs_out_before_a_resubmission_is_sent_leaves_it_uncertain(world: World) -> None:
    async with world.client(rate_limit=RateLimit(1)) as client:
        await client.get_credits()
        with pytest.raises(SubmissionUncertainError):
            await client.resubmit(Submission("k", b"{}"), timeout=5)
    assert world.api.count("create") == 0


async def test_a_source_that_times_out_is_not_mistaken_for_the_call(world: World) -> None:
    class Stuck:
        filename = content_type = "x"
        content_length = 1

        def opened(self) -> Any:
            raise TimeoutError("mine")

    async with world.client() as client:
        with pytest.raises(SourceUnreadableError, match="TimeoutError") as caught:
            await client.upload_audio(Stuck(), timeout=50)
    assert str(caught.value.__cause__) == "mine"


# --- errors carry what they are about


async def test_errors_of_a_create_carry_its_key(world: World) -> None:
    world.api.script("create", status(402), status(401), status(409))
    async with world.client() as client:
        with pytest.raises(InsufficientCreditsError) as poor:
            await client.create_split(DirectURL(URL), idempotency_key="k")
        with pytest.raises(AuthenticationError) as stranger:
            await client.submit(URL, idempotency_key="k")
    assert poor.value.idempotency_key == stranger.value.idempotency_key == "k"
    world.api._scripts.clear()


async def test_errors_after_the_create_carry_split_and_key(world: World, tmp_path: Path) -> None:
    world.api.statuses["split_1"] = ["failed"]
    async with world.client() as client:
        job = await client.submit(URL, idempotency_key="k")
        with pytest.raises(SplitFailedError) as failed:
            await job.wait()
        with pytest.raises(SplitFailedError) as whole:
            await client.split(URL, into=tmp_path, idempotency_key="k")
        with pytest.raises(SplitFailedError) as downloading:
            await job.download(tmp_path)
        world.api.always("get", hang)
        with pytest.raises(WaitTimeoutError) as late:
            await client.split(URL, into=tmp_path, idempotency_key="k", timeout=60)
        world.api.always("get", lambda _: status(404))
        with pytest.raises(AIStemSplitterError) as gone:
            await client.get_split("split_1")
    for error in (failed.value, whole.value, downloading.value, late.value):
        assert (error.split_id, error.idempotency_key) == ("split_1", "k")
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
        assert (type(copy), copy.split_id, str(copy)) == (type(error), "split_1", str(error))
    assert gone.value.split_id == "split_1"


# --- all of it


@pytest.mark.usefixtures("inline_threads", "no_open_files")
async def test_split_does_all_of_it(world: World, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    song.write_bytes(SONG)
    async with world.client() as client:
        done = await client.split(song, into=tmp_path / "stems")
    assert (done.source, done.split.id) == (song, "split_1")
    assert done.files["vocals"] == tmp_path / "stems" / "song" / "vocals.mp3"
    assert world.api.uploads == {"upl_1": SONG}
    kinds = [asked.what for asked in world.api.asked]
    assert kinds == ["reserve", "upload", "create", "get", *["download"] * 4]


@pytest.mark.usefixtures("inline_threads")
async def test_split_refuses_an_occupied_folder_before_any_request(world: World, tmp_path: Path) -> None:
    async with world.client() as client:
        await client.split(URL, into=tmp_path)
        world.api.asked.clear()
        for source in (URL, SONG):
            with pytest.raises(DownloadError, match="another folder"):
                await client.split(source, into=tmp_path, name="song")
        assert world.api.asked == []
        done = await client.split(URL, into=tmp_path, overwrite=True)
    assert done.split.id == "split_2"


@pytest.mark.usefixtures("inline_threads")
async def test_split_refuses_a_folder_with_stems_of_your_own_before_any_request(world: World, tmp_path: Path) -> None:
    (tmp_path / "song").mkdir()
    (tmp_path / "song" / "vocals.mp3").write_bytes(b"mine")
    (tmp_path / "song" / "notes.txt").write_bytes(b"mine too")
    async with world.client() as client:
        with pytest.raises(DownloadError) as caught:
            await client.split(URL, into=tmp_path)
        assert caught.value.code == "EXISTS"
        assert world.api.asked == []
        (tmp_path / "song" / "vocals.mp3").unlink()
        await client.split(URL, into=tmp_path)


async def test_split_returns_a_failed_split_without_files_if_asked_to(world: World, tmp_path: Path) -> None:
    world.api.statuses["split_1"] = ["failed"]
    async with world.client() as client:
        done = await client.split(URL, into=tmp_path, raise_on_failed=False)
    assert (done.split.status, done.files) == ("failed", {})


@pytest.mark.usefixtures("inline_threads")
async def test_split_keeps_to_one_deadline(world: World, tmp_path: Path) -> None:
    world.api.statuses["split_1"] = ["processing"] * 3 + ["succeeded"]
    world.api.always("download", hang)

    async def slow(_: Exchange) -> None:
        await world.clock.sleep(10)

    world.api.script("create", slow)
    async with world.client() as client:
        with pytest.raises(APITimeoutError):
            await client.split(URL, into=tmp_path, timeout=45)
    assert world.elapsed() == 45


async def test_clients_that_share_a_gate_share_its_budget(world: World) -> None:
    gate = Gate(RateLimit(3, per=60.0), clock=world.clock)
    async with world.client(gate=gate) as one, world.client(gate=gate) as other:
        await asyncio.gather(*(client.get_credits() for client in (one, other) for _ in range(3)))
    assert world.api.times("credits") == [0, 0, 0, 60, 60, 60]


async def test_an_interactive_call_overtakes_bulk_ones(world: World) -> None:
    order: list[str] = []
    async with world.client(rate_limit=RateLimit(1, per=10.0)) as client:
        await client.get_credits()

        async def call(name: str, priority: Any) -> None:
            await client.get_credits(priority=priority)
            order.append(name)

        await asyncio.gather(*(call(f"bulk {n}", "bulk") for n in range(3)), call("urgent", "interactive"))
    assert order[0] == "urgent"


def test_the_clock_of_a_fake_client_is_its_own() -> None:
    clock = FakeClock()
    client = AsyncAIStemSplitter("k", clock=clock, transport=FakeTransport(lambda _: json_reply({})))
    assert client.gate.snapshot().used == 0


@pytest.mark.parametrize("given", [{"retry": 3}, {"poll": 2.0}, {"timeouts": 30}])
def test_a_policy_of_the_wrong_kind_is_refused_when_the_client_is_made(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(given))} is a "):
        AsyncAIStemSplitter("ast_test", **given)
