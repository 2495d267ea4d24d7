"""The command line as people and scripts meet it: real processes, a real sandbox, every byte of both streams."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aistemsplitter_async import AsyncAIStemSplitter
from aistemsplitter_async.cli.screen.render import PROGRAM
from aistemsplitter_async.sandbox import Manual, Sandbox, faults
from tests.e2e.harness import CLI, MakeWav

KEY = "ast_test_0123456789abcdef"


async def split_in_process(sandbox: Sandbox, song: Path) -> str:
    """Split a song as an earlier command may have done, without the second that starting a process costs."""
    async with AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url) as client:
        return (await client.split(song, into=song.parent / "stems")).split.id


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def fake_api(handler: Handler) -> AsyncIterator[str]:
    """Serve something else than the API, to see what is made of it."""
    server = web.Server(handler)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        await runner.cleanup()


def stuck_at(stage: str, reached: asyncio.Semaphore | None = None) -> Handler:
    """An API that works up to `stage`, releases `reached`, and does not answer any more."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        name = request.path.rsplit("/", 1)[-1]
        origin = f"http://{request.host}"
        now = "2030-01-01T00:00:00Z"
        split = {"id": "split_77", "status": "queued", "creditsUsed": 3, "createdAt": now}
        if name == stage:
            if stage == "stem":
                response = web.StreamResponse(headers={"Content-Length": "1000000", "ETag": '"a"'})
                await response.prepare(request)
                await response.write(b"x" * 1000)
            if reached is not None:
                await request.read()
                reached.release()
            await asyncio.sleep(60)
        if name == "uploads":
            data: dict[str, Any] = {"uploadId": "u", "uploadUrl": f"{origin}/worker", "uploadHeaders": {}}
            data["expiresAt"] = now
        elif name == "worker":
            await request.read()
            data = {"url": f"{origin}/file", "key": "k"}
        elif name == "splits":
            data = split
        else:
            data = split | {"status": "succeeded", "stemModel": "4s", "filename": "song.wav", "updatedAt": now}
            data |= {"durationSeconds": 3, "error": None, "stems": {"vocals": f"{origin}/stem"}}
        return web.json_response({"success": True, "data": data})

    return handle


def page(status: int) -> Handler:
    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        text = "<html><head><title>Bad \x1b[2J gateway</title></head></html>"
        return web.Response(status=status, text=text, content_type="text/html")

    return handle


async def test_split_writes_stems_and_lists_them_on_stdout(cli: CLI, sandbox: Sandbox, song: Path) -> None:
    ended = await cli.using(sandbox).run("split", song.name)
    assert ended.code == 0
    first, *files = ended.out.splitlines()
    assert first.startswith("song.wav  0:03  3 credits  split_")
    assert [file.strip() for file in files] == [f"stems/song/{n}.mp3" for n in ("vocals", "drums", "bass", "other")]
    assert all((cli.folder / file.strip()).stat().st_size for file in files)
    assert "song.wav: uploading" in ended.err


async def test_several_sources_give_an_object_each_and_one_that_fails_stops_no_other(
    cli: CLI, sandbox: Sandbox, song: Path, make_wav: MakeWav
) -> None:
    other = cli.folder / "b[bold]" / "song.wav"
    other.parent.mkdir()
    other.write_bytes(make_wav(2.0))
    twin = cli.folder / "twin.wav"
    twin.write_bytes(await asyncio.to_thread(song.read_bytes))
    ended = await cli.using(sandbox).run(
        "split",
        song,
        other,
        twin,
        "gone\x1b[1m.mp3",
        "--into",
        "out",
        "--stem-model",
        "6s",
        "--output-format",
        "wav",
        "--json",
    )
    assert ended.code == 1
    results = {result["source"]: result for result in ended.json}
    assert len(ended.json) == 4
    assert len(sandbox.ledger.charges) == 2, "the same audio under another name is paid once"
    assert f"twin.wav: the same audio as {song}" in ended.err.replace("\n", "")
    keys = ["id", "status", "source", "stems", "credits_used", "error"]
    assert all(list(result) == keys for result in ended.json)
    assert results[str(song)]["status"] == "succeeded"
    assert results[str(song)]["error"] is None
    assert len(results[str(song)]["stems"]) == 6
    assert results[str(song)]["stems"]["piano"] == "out/song/piano.wav"
    assert results[str(other)]["stems"]["piano"] == "out/song-2/piano.wav"
    gone = results["gone\x1b[1m.mp3"]
    assert (gone["id"], gone["stems"], gone["error"]["code"]) == (None, {}, "SOURCE_UNREADABLE")
    assert "\x1b" not in ended.err
    assert r"gone\x1b[1m.mp3: no such file" in ended.problem


async def test_splitting_into_a_used_folder_is_refused_before_it_costs_anything(
    cli: CLI, sandbox: Sandbox, song: Path
) -> None:
    await split_in_process(sandbox, song)
    balance = sandbox.credits
    cli = cli.using(sandbox)
    refused = await cli.run("split", song.name)
    assert refused.code == 1
    assert "nothing was bought" in refused.problem
    assert "move them away first" in refused.problem
    assert sandbox.credits == balance
    assert (await cli.run("split", song.name, "--overwrite")).code == 0


async def test_get_wait_and_download_go_on_with_a_split_by_its_id(cli: CLI, sandbox: Sandbox, song: Path) -> None:
    split_id = await split_in_process(sandbox, song)
    cli = cli.using(sandbox)
    shown, waited, fetched = await asyncio.gather(
        cli.run("get", split_id),
        cli.run("wait", split_id, "--json"),
        cli.run("download", split_id, "--into", "again", "--json"),
    )
    assert (shown.code, waited.code, fetched.code) == (0, 0, 0)
    assert f"id      {split_id}\nstatus  succeeded\nsource  song.wav\n" in shown.out
    assert waited.json[0]["status"] == "succeeded"
    assert fetched.json[0]["stems"]["vocals"] == "again/song/vocals.mp3"
    assert (cli.folder / "again/song/vocals.mp3").exists()


async def test_credits_are_shown_for_people_and_for_scripts(cli: CLI, sandbox: Sandbox) -> None:
    sandbox.set_credits(6200)
    cli = cli.using(sandbox)
    plain, as_json = await asyncio.gather(cli.run("credits"), cli.run("credits", "--json"))
    assert plain.out == "6,200 credits (1 h 43 min of audio)\n"
    assert as_json.json == [{"balance": 6200, "unit": "seconds", "error": None}]


async def test_the_key_may_come_from_a_file_or_from_stdin(cli: CLI, sandbox: Sandbox) -> None:
    key_file = cli.folder / "key"
    key_file.write_text(f"{sandbox.api_key}\n")
    cli = cli.with_(AISTEMSPLITTER_BASE_URL=sandbox.base_url)
    from_file, from_stdin, from_nowhere = await asyncio.gather(
        cli.run("credits", "--api-key-file", "key"),
        cli.run("credits", "--api-key-file", "-", stdin=sandbox.api_key.encode()),
        cli.run("credits", "--api-key-file", "nothing"),
    )
    assert (from_file.code, from_stdin.code, from_nowhere.code) == (0, 0, 3)
    assert "cannot read the API key from nothing" in from_nowhere.problem


async def test_wrong_usage_is_one_line_and_exit_code_2(cli: CLI) -> None:
    (cli.folder / "key").write_text("ast_another_key")
    wrong = {
        ("split",): "SOURCE",
        ("split", "a", "b", "--idempotency-key", "k"): "one source",
        ("split", "a", "--sandbox", "--base-url", "http://localhost:1"): "--sandbox",
        ("split", "a", "--timeout", "soon"): "not a duration",
        ("credits", f"--api-key={KEY}"): "AISTEMSPLITTER_API_KEY",
        ("credits", "--base-url", "ftp://x", "--api-key-file", "key"): "not a base URL",
        ("credits", KEY): "--help",
    }
    ended = await asyncio.gather(*(cli.run(*arguments) for arguments in wrong))
    assert [each.code for each in ended] == [2] * len(wrong)
    assert [said for each, said in zip(ended, wrong.values(), strict=True) if said not in each.problem] == []
    assert [each.out for each in ended if each.out] == []


async def test_a_source_that_is_not_a_file_is_named_and_costs_nothing(cli: CLI, sandbox: Sandbox) -> None:
    (cli.folder / "folder.mp3").mkdir()
    (cli.folder / "empty.mp3").touch()
    balance = sandbox.credits
    cli = cli.using(sandbox)
    names = ("none.mp3", "folder.mp3", "empty.mp3")
    ended = await asyncio.gather(*(cli.run("split", name) for name in names))
    assert [(each.code, each.problem) for each in ended] == [
        (1, "cannot read none.mp3: no such file"),
        (1, f"cannot read folder.mp3: it is a folder; all songs in a folder are split by: {PROGRAM} batch folder.mp3"),
        (1, "cannot read empty.mp3: it is empty"),
    ]
    assert sandbox.credits == balance
    assert not (cli.folder / "stems").exists()


async def test_what_cannot_be_decoded_fails_in_one_line_and_leaves_nothing(cli: CLI, make_wav: MakeWav) -> None:
    (cli.folder / "text.mp3").write_text("These are words and not music.\n" * 50)
    (cli.folder / "cut.aiff").write_bytes(b"FORM\0\0\0\x64AIFF" + make_wav(3.0)[44:20_000])
    async with Sandbox(requests_per_minute=None) as real:
        text, cut = await asyncio.gather(
            cli.using(real).run("split", "text.mp3"),
            cli.using(real).run("split", "cut.aiff", "--json", "--into", "others"),
        )
    assert text.code == cut.code == 1
    assert text.problem.startswith("text.mp3: ")
    assert "not audio" in text.problem
    assert cut.problem.startswith("cut.aiff: ")
    assert cut.json[0]["stems"] == {}
    assert not list(cli.folder.glob("*/*/*.mp3"))


async def test_authentication_fails_with_3_and_says_where_the_key_comes_from(
    cli: CLI, sandbox: Sandbox, song: Path
) -> None:
    none, wrong = await asyncio.gather(
        cli.run("split", song.name, "--json"), cli.using(sandbox, key=KEY).run("split", song.name, "--json")
    )
    assert none.code == wrong.code == 3
    assert none.problem.startswith("no API key; set AISTEMSPLITTER_API_KEY")
    assert none.json[0]["error"]["code"] == "NO_API_KEY"
    assert "the API key was refused" in wrong.problem
    assert wrong.json[0]["error"]["code"] == "UNAUTHORIZED"


async def test_no_credits_is_4_and_what_was_not_begun_is_shown(cli: CLI, sandbox: Sandbox, make_wav: MakeWav) -> None:
    sandbox.set_credits(1)
    names = [f"{number}.wav" for number in range(6)]
    for number, name in enumerate(names):
        (cli.folder / name).write_bytes(make_wav(3.0 + number))
    ended = await cli.using(sandbox).run("split", *names, "--json")
    assert ended.code == 4
    assert {result["error"]["code"] for result in ended.json} == {"INSUFFICIENT_CREDITS"}
    assert sorted(result["source"] for result in ended.json) == names
    assert "not begun" in ended.err
    assert sandbox.credits == 1


async def test_an_unknown_id_is_named(cli: CLI, sandbox: Sandbox) -> None:
    for ended in await asyncio.gather(
        *(cli.using(sandbox).run(command, "split_../x") for command in ("get", "wait", "download"))
    ):
        assert ended.code == 1
        assert ended.problem.startswith("there is no split split_../x for this key")


async def test_a_failing_network_or_proxy_ends_in_one_line(cli: CLI, song: Path) -> None:
    cli = cli.with_(AISTEMSPLITTER_API_KEY=KEY)

    async def limited(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(status=429, headers={"Retry-After": "3600"}, data={})

    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        error = {"code": "UNAUTHORIZED", "message": f"not {request.headers['Authorization']}"}
        return web.json_response({"success": False, "error": error}, status=401)

    async def reset_creates(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.endswith("/splits"):
            await request.read()
            assert request.transport is not None
            request.transport.abort()
        return await stuck_at("")(request)

    async with (
        fake_api(page(200)) as html,
        fake_api(page(502)) as gateway,
        fake_api(limited) as busy,
        fake_api(echo) as rude,
        fake_api(reset_creates) as broken,
    ):
        refused, taken, failed, parked, echoed, unsure = await asyncio.gather(
            cli.run("credits", "--base-url", "http://127.0.0.1:9/v1"),
            cli.run("credits", "--base-url", html),
            cli.run("get", "split_1", "--base-url", gateway),
            cli.run("credits", "--base-url", busy),
            cli.run("credits", "--base-url", rude),
            cli.run("split", song.name, "--base-url", broken, "--json"),
        )
    assert [ended.code for ended in (refused, taken, failed, parked, echoed, unsure)] == [1, 1, 1, 75, 3, 5]
    assert "--base-url" in refused.problem
    assert "trying again in" in refused.err
    assert taken.problem
    assert "Bad gateway" in failed.problem
    assert "try again in 3600 s" in parked.problem
    assert "the API key was refused" in echoed.problem
    assert unsure.json[0]["error"]["idempotency_key"]
    assert unsure.problem.endswith("run the same command again: it finds out, and nothing is charged twice")


async def test_interrupting_an_upload_leaves_nothing_behind(cli: CLI) -> None:
    (cli.folder / "big.wav").write_bytes(os.urandom(32 * 1024 * 1024))
    cli = cli.with_(AISTEMSPLITTER_API_KEY=KEY)
    async with fake_api(stuck_at("worker")) as url:
        ended = await cli.interrupt("split", "big.wav", "--base-url", url, at="uploading")
    assert ended.code == 130
    assert ended.err.splitlines()[-1] == "interrupted; nothing is pending"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupting_a_wait_shows_every_id_and_how_to_go_on(cli: CLI, make_wav: MakeWav, number: int) -> None:
    for seconds, name in enumerate(("one.wav", "two.wav"), 2):
        (cli.folder / name).write_bytes(make_wav(float(seconds)))
    async with Sandbox(separation="silent", requests_per_minute=None, progression=Manual()) as slow:
        cli = cli.using(slow)
        process = await cli.start("split", "one.wav", "two.wav", "--base-url", slow.base_url, "--json")
        seen = await cli.read_until(process, "queued as")
        seen += await cli.read_until(process, "queued as")
        process.send_signal(number)
        ended = await cli.end(process, seen=seen)
        assert ended.code == 130
        for result in ended.json:
            options = f"{result['id']} --into stems --base-url {slow.base_url}"
            assert f"aistemsplitter-async download {options}" in ended.err
            assert f"aistemsplitter-async wait {result['id']} --base-url" in ended.err
            assert result["error"]["code"] == "INTERRUPTED"
        waiting = await cli.interrupt("wait", ended.json[0]["id"], at="queued", by=number)
    assert waiting.code == 130
    assert f"aistemsplitter-async wait {ended.json[0]['id']}" in waiting.err


async def test_interrupting_a_download_leaves_no_file_under_a_final_name(cli: CLI, song: Path) -> None:
    cli = cli.with_(AISTEMSPLITTER_API_KEY=KEY)
    async with fake_api(stuck_at("stem")) as url:
        whole, fetch = await asyncio.gather(
            cli.interrupt("split", song.name, "--base-url", url, at="downloading"),
            cli.interrupt("download", "split_77", "--into", "x", "--base-url", url, at="downloading"),
        )
    assert whole.code == fetch.code == 130
    assert "aistemsplitter-async download split_77 --into stems --base-url" in whole.err
    assert "aistemsplitter-async download split_77 --into x --base-url" in fetch.err
    visible = [path for path in cli.folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert visible == [song]


async def test_a_second_signal_ends_a_create_under_way_at_once_and_the_first_after_a_grace(
    cli: CLI, song: Path
) -> None:
    cli = cli.with_(AISTEMSPLITTER_API_KEY=KEY)
    reached = asyncio.Semaphore(0)
    async with fake_api(stuck_at("splits", reached)) as url:
        first, second = [await cli.start("split", song.name, "--base-url", url, "--into", into) for into in "ab"]
        for _ in range(2):
            await asyncio.wait_for(reached.acquire(), 30)
        for process in (first, second):
            process.send_signal(signal.SIGINT)
        seen = await cli.read_until(second, "Ctrl-C again quits at once")
        second.send_signal(signal.SIGINT)
        once, at_once = await asyncio.gather(cli.end(first), cli.end(second, seen=seen))
    assert once.code == at_once.code == 130
    assert "may or may not have been created" in once.err
    assert f"aistemsplitter-async split {song.name} --into a" in once.err
    assert "may or may not have been created" in at_once.err  # a forced exit still says so


async def test_a_reader_that_goes_away_is_not_a_reason_to_complain_or_to_stop(
    cli: CLI, sandbox: Sandbox, song: Path
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = await cli.using(sandbox).start("split", song.name, stdout=write_end)
    os.close(write_end)
    ended = await cli.end(process)
    assert ended.code == 0
    assert "rror" not in ended.err
    assert (cli.folder / "stems/song/vocals.mp3").exists()


async def test_help_is_quick_because_it_imports_neither_aiohttp_nor_numpy(cli: CLI) -> None:
    script = (
        "import sys; from aistemsplitter_async.cli import main; sys.argv = ['x', *sys.argv[1:]]; code = main();"
        "print(code, sorted({'aiohttp', 'numpy', 'asyncio', 'cattrs'} & set(sys.modules)), file=sys.stderr)"
    )
    for arguments in (["--help"], ["split", "--help"], ["--version"]):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            script,
            *arguments,
            env=cli.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert out
        assert err.decode().splitlines()[-1] == "0 []"


async def test_the_sandbox_command_serves_until_it_is_stopped(cli: CLI) -> None:
    process = await cli.start("sandbox", "--json", "--credits", "100", "--requests-per-minute", "0", "--api-key", KEY)
    assert process.stdout is not None
    printed = json.loads(await process.stdout.readline())
    assert printed["api_key"] == KEY
    client = cli.with_(AISTEMSPLITTER_BASE_URL=printed["base_url"], AISTEMSPLITTER_API_KEY=printed["api_key"])
    balance, taken = await asyncio.gather(
        client.run("credits", "--json"), client.run("sandbox", "--port", printed["base_url"].split(":")[2][:-3])
    )
    assert balance.json[0]["balance"] == 100
    assert taken.code == 1
    assert "cannot listen on port" in taken.problem
    process.send_signal(signal.SIGINT)
    ended = await cli.end(process)
    assert (ended.code, ended.err) == (0, "")


async def serve(cli: CLI, *arguments: object) -> tuple[asyncio.subprocess.Process, CLI]:
    """A silent sandbox in a process of its own, and the command line for it."""
    process = await cli.start("sandbox", "--json", "--separation", "silent", *arguments)
    assert process.stdout is not None
    printed = json.loads(await process.stdout.readline())
    return process, cli.with_(AISTEMSPLITTER_BASE_URL=printed["base_url"], AISTEMSPLITTER_API_KEY=printed["api_key"])


async def test_faults_of_the_sandbox_command_happen(cli: CLI) -> None:
    process, client = await serve(
        cli,
        "--fault",
        "credits:status:status=418,code=TEAPOT",
        "--fault",
        "credits:changed_field:path=data.balance,value=7",
    )
    first, second, third = [await client.run("credits", "--json") for _ in range(3)]
    assert first.code == 1
    assert "418" in first.err
    assert [each.json[0]["balance"] for each in (second, third)] == [7, 36_000]
    process.send_signal(signal.SIGINT)
    assert (await cli.end(process)).code == 0


async def test_a_sandbox_with_data_goes_on_after_kill_9_with_everything_it_had_acknowledged(
    cli: CLI, song: Path
) -> None:
    process, client = await serve(cli, "--data", "kept", "--requests-per-minute", "0")
    done = await client.run("split", song.name, "--json")
    assert done.code == 0
    in_use = await cli.run("sandbox", "--separation", "silent", "--data", "kept")
    assert in_use.code == 1
    assert "another sandbox is using" in in_use.problem
    process.kill()
    await process.wait()
    process, again = await serve(cli, "--data", "kept", "--requests-per-minute", "0")
    assert again == client, "the same address, the same key"
    shown, balance = await asyncio.gather(
        again.run("get", done.json[0]["id"], "--json"), again.run("credits", "--json")
    )
    assert shown.json[0]["status"] == "succeeded"
    assert balance.json[0]["balance"] == 36_000 - 3
    process.send_signal(signal.SIGINT)
    assert (await cli.end(process)).code == 0


async def test_what_the_sandbox_command_cannot_do_is_one_line(cli: CLI) -> None:
    (cli.folder / "file").touch()
    wrong, file = await asyncio.gather(
        cli.run("sandbox", "--fault", "create:explode"), cli.run("sandbox", "--data", "file")
    )
    assert (wrong.code, file.code) == (2, 1)
    assert wrong.problem.startswith("--fault create:explode: there is no fault 'explode'")
    assert file.problem.startswith("cannot use file")


async def test_the_sandbox_command_says_what_it_is_and_what_it_keeps(cli: CLI) -> None:
    process = await cli.start(
        "sandbox", "--data", "kept", "--separation", "silent", "--minute", "2", "--fault", "get:reset:times=3"
    )
    assert process.stdout is not None
    printed = ""
    async with asyncio.timeout(30):
        while "Ctrl-C" not in printed:
            printed += (await process.stdout.readline()).decode()
    process.send_signal(signal.SIGINT)
    assert (await cli.end(process)).code == 0
    assert "with stems of silence" in printed
    assert "60 requests every 2 s" in printed
    assert "get reset" in printed
    assert "what it holds is kept in kept" in printed


async def test_the_demo_splits_its_song_measures_it_and_says_what_is_next(cli: CLI) -> None:
    stems = cli.folder / "aistemsplitter-demo" / "stems"
    stems.mkdir(parents=True)
    (stems / "vocals.wav").write_text("of an earlier demo")
    ended = await cli.run("demo")
    assert ended.code == 0
    for name in ("vocals", "drums", "bass", "other"):
        assert (stems / f"{name}.wav").stat().st_size > 100_000
        (row,) = [line.split() for line in ended.out.splitlines() if line.startswith(f"  {name}.wav")]
        assert row[1] == "0:16"
        assert float(row[2]) > 3, "the separation gains at least this much over doing nothing"
    assert "local preview separation, not the hosted model" in " ".join(ended.out.split())
    assert "aistemsplitter-async split song.mp3 --sandbox" in ended.out


async def test_the_hint_after_an_unclear_create_finds_the_split_and_nothing_is_charged_twice(
    cli: CLI, song: Path, sandbox: Sandbox
) -> None:
    cli = cli.with_(AISTEMSPLITTER_API_KEY=sandbox.api_key, AISTEMSPLITTER_BASE_URL=sandbox.base_url)
    lost = sandbox.faults.add("create", faults.Reset(effect=True), times=5)
    unclear = await cli.run("split", song.name, "--json")
    assert (unclear.code, lost.consumed) == (5, 5)
    assert "run the same command again" in unclear.problem
    found = await cli.run("split", song.name, "--json")
    assert found.code == 0
    (charge,) = sandbox.ledger.charges
    assert found.json[0]["id"] == charge.split_id
    assert len(charge.bodies) == 1
    again = await cli.run("split", song.name, "--json")
    assert (again.code, again.json[0]["stems"]) == (0, found.json[0]["stems"])
    assert "nothing was charged" in again.err
    assert len(sandbox.ledger.charges) == 1


async def test_a_split_that_goes_on_shows_what_it_really_does(cli: CLI, song: Path) -> None:
    async with Sandbox(separation="silent", progression=Manual()) as slow:
        cli = cli.using(slow)
        first = await cli.start("split", song.name)
        await cli.read_until(first, "queued as")
        first.kill()
        await first.communicate()
        second = await cli.start("split", song.name)
        seen = await cli.read_until(second, "queued")
        while await slow.step(slow.ledger.charges[0].split_id) not in ("succeeded", "failed"):
            pass
        ended = await cli.end(second, seen=seen)
    assert ended.code == 0
    assert "downloading" in ended.err
    assert "uploading" not in ended.err
    assert "creating" not in ended.err


async def test_a_target_that_cannot_be_written_is_refused_before_anything_is_spent(
    cli: CLI, song: Path, sandbox: Sandbox
) -> None:
    cli = cli.with_(AISTEMSPLITTER_API_KEY=sandbox.api_key, AISTEMSPLITTER_BASE_URL=sandbox.base_url)
    (cli.folder / "taken").write_text("a file")
    refused = await cli.run("split", song.name, "--into", "taken")
    assert refused.code == 1
    assert "not a folder" in refused.problem
    assert sandbox.ledger.charges == []
    assert sandbox.ledger.uploads == []
