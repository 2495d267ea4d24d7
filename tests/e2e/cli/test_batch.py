"""The commands `batch` and `estimate` on a library as people have it: odd names, duplicates, broken files, loops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from aistemsplitter_async.sandbox import Manual, Sandbox, faults
from tests.core.audio.made import vbr
from tests.e2e.harness import CLI, MakeWav

STEMS = {"vocals", "drums", "bass", "other"}


@pytest.fixture
def library(tmp_path: Path, make_wav: MakeWav) -> Path:
    """Five songs, two of them the same, and everything that is none."""
    root = tmp_path / "music"
    names = ("plain.wav", "Ünïcödé 音楽.wav", "a/song.wav", "b/song.wav", "50% [live] #1?.wav")
    for seconds, name in enumerate(names, 1):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_wav(float(seconds)))
    (root / "copy of plain.wav").write_bytes((root / "plain.wav").read_bytes())
    (root / "broken.mp3").write_bytes(b"")
    (root / "cover.jpg").write_bytes(b"\xff\xd8\xff")
    (root / "loop").symlink_to(root)
    return root


def stem_files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".mp3", ".wav", ".part")
    )


async def charged(sandbox: Sandbox, splits: int) -> None:
    """Wait until another process has created that many."""
    async with asyncio.timeout(30):
        while len(sandbox.ledger.charges) < splits:  # noqa: ASYNC110  # it is the other process that we wait for
            await asyncio.sleep(0.05)


async def test_a_library_with_everything_in_it_runs_to_the_end_and_again_for_nothing(
    cli: CLI, library: Path, sandbox: Sandbox
) -> None:
    cli = cli.using(sandbox)
    ended = await cli.run("batch", library, "--into", "out", "--json", "--report", "report.html")
    assert ended.code == 1  # for the broken file, which is named
    assert "broken.mp3: it is empty" in ended.problem
    outcomes = [(each["outcome"], each["status"]) for each in ended.json]
    assert outcomes.count(("done", "succeeded")) == 5
    (same,) = [each for each in ended.json if each["status"] == "duplicate"]
    assert Path(same["same_as"]).name == "copy of plain.wav"
    folders = {name.partition("/")[0] for name in stem_files(cli.folder / "out")}
    assert {"Ünïcödé 音楽", "song", "song (2)", "50% [live] #1_"} < folders
    assert len(stem_files(cli.folder / "out")) == 5 * len(STEMS)
    assert "5 split, 1 failed, 1 duplicate, 1 other file ignored" in ended.err
    page = (cli.folder / "report.html").read_text()
    assert "the same audio as <a href=" in page
    assert page.count('class="split"') == 7
    assert len(sandbox.ledger.charges) == 5

    requests = len(sandbox.ledger.requests)
    again = await cli.run("batch", library, "--into", "out", "--json")
    assert [each["outcome"] for each in again.json].count("done") == 0
    assert "5 finished earlier" in again.err
    assert len(sandbox.ledger.charges) == 5
    assert len(sandbox.ledger.requests) == requests


async def test_stems_inside_the_library_are_not_taken_for_music(cli: CLI, library: Path, sandbox: Sandbox) -> None:
    cli = cli.using(sandbox)
    first = await cli.run("batch", library, "--into", library / "stems")
    second = await cli.run("batch", library, "--into", library / "stems")
    third = await cli.run("batch", library, "--into", "elsewhere", "--dry-run", "--json")
    assert "5 split" in first.err
    assert "0 split" in second.err
    assert len(third.json) - 1 == 6  # songs and the copy, then the estimate
    assert "broken.mp3" in third.problem
    assert len(sandbox.ledger.charges) == 5


async def test_the_second_batch_on_a_journal_is_refused_and_status_shows_the_first(cli: CLI, library: Path) -> None:
    async with Sandbox(separation="silent", requests_per_minute=None, progression=Manual()) as slow:
        cli = cli.using(slow)
        first = await cli.start("batch", library, "--into", "out")
        await charged(slow, 5)
        second = await cli.run("batch", library, "--into", "out")
        assert second.code == 75
        assert "another batch is running" in second.problem
        assert f"process {first.pid} has it" in second.err
        status = await cli.run("batch", "--status", "--into", "out", "--json")
        (printed,) = status.json
        assert (printed["running"], printed["pid"]) == (True, first.pid)
        first.kill()
        await first.communicate()
        dead = await cli.run("batch", "--status", "--into", "out")
        assert "run the same command again to continue" in dead.out
        restarted = await cli.start("batch", library, "--into", "out")
        for split in [charge.split_id for charge in slow.ledger.charges]:
            while await slow.step(split) not in ("succeeded", "failed"):
                pass
        ended = await cli.end(restarted)
    assert "5 split" in ended.err
    assert len(slow.ledger.charges) == 5
    assert len(stem_files(cli.folder / "out")) == 5 * len(STEMS)


async def test_one_signal_finishes_what_is_paid_for_and_two_stop(cli: CLI, library: Path) -> None:
    async with Sandbox(separation="silent", requests_per_minute=None, progression=Manual()) as slow:
        cli = cli.using(slow)
        process = await cli.start("batch", library, "--into", "out", "--in-flight", 2)
        await charged(slow, 2)
        process.send_signal(signal.SIGTERM)
        seen = await cli.read_until(process, "finishing what is paid for (2 splits)")
        for split in [charge.split_id for charge in slow.ledger.charges]:
            while await slow.step(split) not in ("succeeded", "failed"):
                pass
        drained = await cli.end(process, seen=seen)
        assert drained.code == 130
        assert "2 split" in drained.err
        assert len(stem_files(cli.folder / "out")) == 2 * len(STEMS)

        process = await cli.start("batch", library, "--into", "out", "--in-flight", 2)
        await charged(slow, 4)
        process.send_signal(signal.SIGINT)
        seen = await cli.read_until(process, "finishing what is paid for")
        process.send_signal(signal.SIGINT)
        stopped = await cli.end(process, seen=seen)
    assert stopped.code == 130
    assert "nothing is lost" in stopped.err
    assert len(slow.ledger.charges) == 4


async def test_credits_that_run_out_stop_new_splits_and_what_is_missing_is_shown(
    cli: CLI, library: Path, sandbox: Sandbox
) -> None:
    sandbox.set_credits(6)
    ended = await cli.using(sandbox).run("batch", library, "--into", "out", "--uploads", 1, "--in-flight", 1)
    assert ended.code == 4
    assert "everything that is paid for is finished" in ended.err
    assert "are missing" in ended.err
    assert len(stem_files(cli.folder / "out")) == len(sandbox.ledger.charges) * len(STEMS) > 0
    sandbox.set_credits(100)
    again = await cli.using(sandbox).run("batch", library, "--into", "out")
    assert len(sandbox.ledger.charges) == 5
    assert again.code == 1  # the broken file


async def test_what_is_finished_is_not_missed_in_the_balance(
    cli: CLI, library: Path, sandbox: Sandbox, make_wav: MakeWav
) -> None:
    cli = cli.using(sandbox)
    await cli.run("batch", library, "--into", "out")
    (library / "new.wav").write_bytes(make_wav(7.0))
    sandbox.set_credits(7)
    sandbox.faults.add("create", faults.Latency(2.5))  # longer than it takes to count the library
    enough = await cli.run("batch", library, "--into", "out")
    assert "1 split" in enough.err
    assert "missing" not in enough.err
    (library / "newer.wav").write_bytes(make_wav(9.0))
    sandbox.set_credits(4)
    lacking = await cli.run("batch", library, "--into", "out")
    assert "needs about 9 credits, and the balance is 4: 5 are missing" in lacking.err


async def test_credits_of_splits_that_failed_are_named(cli: CLI, library: Path, sandbox: Sandbox) -> None:
    sandbox.faults.add("create", faults.FailedSplit(), calls=1)
    ended = await cli.using(sandbox).run("batch", library, "--into", "out")
    failed = sum(charge.credits for charge in sandbox.ledger.charges if charge.refunded)
    assert failed
    assert f"15 credits charged, {failed} of them for splits that failed" in ended.err


async def test_a_refused_key_is_reported_once_and_no_query_of_a_url_is_shown(cli: CLI, sandbox: Sandbox) -> None:
    lines = "".join(f"https://example.com/{song}.mp3?token=secret&seconds=1\n" for song in range(20)).encode()
    refused = await cli.using(sandbox, key="ast_wrong_1234567").run("batch", "-", "--into", "out", stdin=lines)
    assert refused.code == 3
    assert refused.err.count("error: ") == 1
    done = await cli.using(sandbox).run("batch", "-", "--into", "out", stdin=lines)
    assert "https://example.com/3.mp3  0:01" in done.out
    assert [stream for stream in (refused.err, done.out, done.err) if "secret" in stream] == []


async def test_a_pattern_means_the_album_that_is_called_so_and_one_without_a_match_is_an_error(
    cli: CLI, sandbox: Sandbox, make_wav: MakeWav
) -> None:
    for seconds, album in ((2.0, "Album [2001]"), (3.0, "Album 2")):
        (cli.folder / "m" / album).mkdir(parents=True)
        (cli.folder / "m" / album / "song.wav").write_bytes(make_wav(seconds))
    cli = cli.using(sandbox)
    ended = await cli.run("batch", "m/Album [2001]/*.wav", "--into", "out")
    assert (ended.code, [charge.credits for charge in sandbox.ledger.charges]) == (0, [2])
    for command in ("batch m m/[xyz]/*.wav", "batch m m/*.wav --dry-run", "estimate *.flac"):
        nothing = await cli.run(*command.split(), "--into", "other")
        assert (nothing.code, nothing.problem.partition(" matches")[0]) == (1, "no audio")
    assert len(sandbox.ledger.charges) == 1


async def test_a_folder_without_music_is_reported(cli: CLI, sandbox: Sandbox) -> None:
    (cli.folder / "empty").mkdir()
    ended = await cli.using(sandbox).run("batch", "empty", "--into", "out")
    assert ended.code == 0
    assert "no audio was found" in ended.err


async def test_the_spend_cap_is_kept(cli: CLI, library: Path, sandbox: Sandbox) -> None:
    ended = await cli.using(sandbox).run("batch", library, "--into", "out", "--max-credits", 8)
    assert ended.code == 4
    assert "may spend" in ended.err
    assert 0 < sum(charge.credits for charge in sandbox.ledger.charges) <= 8


@pytest.fixture
def liars(tmp_path: Path, make_wav: MakeWav) -> Path:
    """Three honest songs of 5 seconds, and what looks shorter than it is."""
    root = tmp_path / "liars"
    root.mkdir()
    for number in range(3):
        (root / f"honest {number}.mp3").write_bytes(make_wav(5.0, rate=8000 + 1000 * number))
    whole = make_wav(240.0, channels=1)
    (root / "joined.wav").write_bytes(make_wav(4.0, channels=1) + whole)
    half = whole.index(b"data") + 4
    (root / "half.wav").write_bytes(whole[:half] + (8000).to_bytes(4, "little") + whole[half + 4 :])
    (root / "unknown.mp3").write_bytes(b"no format that anybody knows" * 1000)
    (root / "list.m3u").write_text("#EXTINF:3,A song\nhttps://example.com/1.mp3\n#EXTINF:3,Half\nhalf.wav\n")
    return root


async def test_nothing_that_looks_short_is_bought_under_a_spend_cap(cli: CLI, liars: Path, sandbox: Sandbox) -> None:
    cli = cli.using(sandbox)
    ended = await cli.run("batch", liars / "list.m3u", liars, "--into", "out", "--max-credits", 30, "--json")
    assert ended.code == 4
    assert [charge.credits for charge in sandbox.ledger.charges] == [5, 5, 5]
    failed = {str(each["source"]).rpartition("/")[2]: each["error"] for each in ended.json if each["error"]}
    assert sorted(failed) == ["1.mp3", "half.wav", "joined.wav", "unknown.mp3"]
    assert {error["code"] for error in failed.values()} == {"LENGTH_UNKNOWN"}
    assert "run without --max-credits" in failed["1.mp3"]["message"]
    assert "raise" not in failed["1.mp3"]["message"], "a URL can have any length"
    assert "BatchItem" not in ended.out + ended.err
    assert "could cost up to 240 credits" in failed["half.wav"]["message"]
    again = await cli.run("batch", liars, "--into", "out", "--max-credits", 30)
    assert (again.code, len(sandbox.ledger.charges)) == (4, 3)
    assert "run the same command again" not in again.err
    assert "3 not split because of a length that is not certain" in again.err


async def test_an_estimate_and_a_dry_run_agree_on_what_looks_short(cli: CLI, liars: Path, sandbox: Sandbox) -> None:
    cli = cli.using(sandbox)
    printed = await cli.run("estimate", liars / "half.wav", liars / "joined.wav", liars / "honest 1.mp3")
    assert "at least 5 credits, at most 490 credits" in printed.out
    assert "and 2 of uncertain length" in printed.out
    (figures,) = (await cli.run("estimate", liars / "half.wav", "--json")).json
    assert (figures["credits"], figures["credits_at_most"], figures["unknown_tracks"]) == (0, 240, 1)
    *plans, total = (await cli.run("batch", liars, liars / "list.m3u", "--dry-run", "--json")).json
    lengths = {str(plan["source"]).rpartition("/")[2]: (plan["seconds"], plan["seconds_at_most"]) for plan in plans}
    assert lengths["half.wav"] == (None, 240.0)
    assert lengths["unknown.mp3"] == (None, None)
    assert lengths["1.mp3"] == (3.0, None), "what its playlist says"
    assert (total["credits"], total["credits_at_most"], total["unknown_tracks"]) == (18, None, 3)
    capped = await cli.run("batch", liars, liars / "list.m3u", "--dry-run", "--max-credits", 30)
    left_out = [line for line in capped.out.splitlines() if "(not split with this --max-credits, " in line]
    assert len(left_out) == 4, "all but the honest ones"
    assert (capped.code, "4 not split because of a length that is not certain" in capped.err) == (4, True)
    assert "cost nothing" not in capped.out
    too_little = await cli.run("batch", liars / "honest 1.mp3", "--dry-run", "--max-credits", 3)
    assert (too_little.code, "more than the 3 credits of --max-credits" in too_little.err) == (4, True)
    assert next(line for line in capped.out.splitlines() if line.startswith("price")).startswith("price    15 credits")
    assert "at most 4:00" in capped.out
    assert sandbox.ledger.charges == []


async def test_an_estimate_reads_little_and_a_limit_does_not_rest_on_it(cli: CLI, sandbox: Sandbox) -> None:
    cli = cli.using(sandbox)
    (cli.folder / "song.mp3").write_bytes(vbr(2000, factor=0.8))  # 53 s, and what says 42 is only found by counting
    estimate = (await cli.run("estimate", "song.mp3", "--json")).json[-1]
    plan, _ = (await cli.run("batch", "song.mp3", "--dry-run", "--json")).json
    assert (estimate["credits"], estimate["unknown_tracks"]) == (42, 0)
    assert plan["seconds_at_most"] == pytest.approx(41.8, abs=0.1)
    plan, _ = (await cli.run("batch", "song.mp3", "--dry-run", "--max-credits", 45, "--json")).json
    ended = await cli.run("batch", "song.mp3", "--into", "out", "--max-credits", 45, "--json")
    assert plan["seconds"] is None
    assert plan["seconds_at_most"] == pytest.approx(52.3, abs=0.1)
    assert "--max-credits" in plan["plan"]
    assert ended.json[0]["error"]["code"] == "LENGTH_UNKNOWN"
    assert sandbox.ledger.charges == []


async def test_an_estimate_costs_nothing_and_says_what_would(cli: CLI, library: Path, sandbox: Sandbox) -> None:
    sandbox.set_credits(10)
    keyless, cli = cli, cli.using(sandbox)
    printed = await cli.run("estimate", library, "--rate-limit", "60/min", "--json")
    plain = await cli.run("estimate", library, "--rate-limit", "60/min")
    unknown = await keyless.run("estimate", library)
    (figures,) = printed.json
    assert (figures["tracks"], figures["credits"], figures["balance"], figures["missing"]) == (6, 16, 10, 6)
    assert plain.code == 1
    assert "it is empty" in plain.err
    assert "6 credits" in next(line for line in plain.out.splitlines() if line.startswith("missing"))
    assert "not known without an API key" in unknown.out
    assert sandbox.ledger.charges == []
    assert not (cli.folder / "stems").exists()


async def test_an_estimate_of_what_does_not_say_how_long_it_is_does_not_say_it_is_free(cli: CLI) -> None:
    typed = await cli.run("estimate", "-", stdin=b"https://example.com/two.mp3\n")
    (cli.folder / "list.m3u").write_text("#EXTINF:9,One\nhttps://example.com/1.mp3\nhttps://example.com/2.mp3\n")
    listed = await cli.run("estimate", "list.m3u")
    prices = [line for ended in (typed, listed) for line in ended.out.splitlines() if line.startswith("price")]
    assert [(ended.code, ended.err) for ended in (typed, listed)] == [(0, "")] * 2
    assert "not known" in prices[0]
    assert "at least 9 credits" in prices[1]


async def test_a_dry_run_says_what_the_run_does_and_touches_nothing(
    cli: CLI, library: Path, sandbox: Sandbox, make_wav: MakeWav
) -> None:
    cli = cli.using(sandbox)
    wanted = ("batch", library, "--into", "out", "--template", "{title}-{id} {stem}.{ext}")
    before = await cli.run(*wanted, "--dry-run", "--json")
    assert not (cli.folder / "out").exists()
    await cli.run(*wanted)
    planned = {one["pattern"].replace("{stem}", "vocals") + ".mp3" for one in before.json[:-1]}
    assert planned == {name for name in stem_files(cli.folder / "out") if "vocals" in name}
    assert [one["plan"] for one in before.json[:-1]].count("duplicate") == 1
    assert before.json[-1]["credits"] == 15

    (library / "new.wav").write_bytes(make_wav(7.0))
    kept = {path: path.read_bytes() for path in (cli.folder / "out").iterdir()}
    after = await cli.run(*wanted, "--dry-run", "--json")
    assert [one["plan"] for one in after.json[:-1]].count("finished") == 5
    assert (after.json[-1]["credits"], after.json[-1]["left_out"]) == (7, 6)
    assert {path: path.read_bytes() for path in (cli.folder / "out").iterdir()} == kept


async def test_a_dry_run_numbers_what_has_the_same_name(cli: CLI, library: Path) -> None:
    shown = await cli.run("batch", library, "--into", "out", "--dry-run")
    assert "song.wav  0:04  -> out/song (2)" in shown.out
    assert f"(same audio as {library}/copy of plain.wav)" in shown.out


async def test_urls_come_from_lists_and_stdin_and_names_from_a_template(cli: CLI, sandbox: Sandbox) -> None:
    (cli.folder / "urls.txt").write_text("# mine\nhttps://example.com/one.mp3?seconds=9\n")
    cli = cli.using(sandbox)
    template = "{title}/x {stem}.{ext}"
    listed = await cli.run("batch", "urls.txt", "--into", "out", "--template", template)
    typed = await cli.run(
        "batch", "-", "--into", "out", "--template", template, stdin=b"https://example.com/two.mp3?seconds=9\n"
    )
    assert (listed.code, typed.code) == (0, 0)
    assert {"one/x bass.mp3", "two/x vocals.mp3"} < set(stem_files(cli.folder / "out"))


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe with a name")
async def test_a_pipe_that_is_named_is_read_once_and_to_its_end(cli: CLI, sandbox: Sandbox) -> None:
    songs = 40
    os.mkfifo(cli.folder / "pipe")
    lines = "".join(f"https://example.com/{song}.mp3?seconds=1\n" for song in range(songs))
    process = await cli.using(sandbox).start("batch", "pipe", "--into", "out")
    await asyncio.to_thread((cli.folder / "pipe").write_text, lines)
    ended = await cli.end(process)
    assert (ended.code, len(sandbox.ledger.charges)) == (0, songs)


async def test_a_list_on_standard_input_by_its_path_is_not_a_song(cli: CLI, sandbox: Sandbox) -> None:
    (cli.folder / "list").write_text("https://example.com/one.mp3?seconds=2\n")
    with (cli.folder / "list").open("rb") as file:
        ended = await cli.end(await cli.using(sandbox).start("batch", "/dev/stdin", "--into", "out", stdin=file))
    assert (ended.code, [charge.credits for charge in sandbox.ledger.charges]) == (0, [2])


async def test_songs_share_a_flat_folder_and_nothing_is_split_again(cli: CLI, library: Path, sandbox: Sandbox) -> None:
    cli = cli.using(sandbox)
    flat = ("batch", library, "--into", "out", "--template", "{title}-{stem}.{ext}")
    first = await cli.run(*flat)
    files = stem_files(cli.folder / "out")
    again = await cli.run(*flat)
    assert "5 split" in first.err
    assert {"copy of plain-vocals.mp3", "song-drums.mp3", "song-drums (2).mp3"} < set(files)
    assert (len(files), stem_files(cli.folder / "out")) == (5 * len(STEMS), files)
    assert len(list((cli.folder / "out").glob(".*{stem}*.json"))) == 5
    assert "5 finished earlier" in again.err
    assert len(sandbox.ledger.charges) == 5


async def test_wrong_wishes_are_refused_before_anything_is_made(cli: CLI, library: Path, sandbox: Sandbox) -> None:
    wrong = {
        ("batch",): "PATH",
        ("batch", library, "--template", "{artist}/{nonsense}.{ext}"): "{nonsense}",
        ("batch", library, "--in-flight", "0"): "in_flight",
        ("batch", library, "--priority", "soon"): "--priority",
        ("batch", library, "--nonsense"): "no option --nonsense",
        ("batch", library, "--webhook-url", "htps://example.com/hook"): "is not a URL for webhooks",
        ("split", library / "plain.wav", "--webhook-url", "example.com"): "is not a URL for webhooks",
    }
    cli = cli.using(sandbox)
    ended = await asyncio.gather(*(cli.run(*arguments) for arguments in wrong))
    assert [each.code for each in ended] == [2] * len(wrong)
    assert [said for each, said in zip(ended, wrong.values(), strict=True) if said not in each.problem] == []
    assert len(sandbox.ledger.requests) == 0
    nowhere = await cli.run("batch", "nowhere", "--into", "out")
    assert nowhere.code == 1
    assert "nowhere" in nowhere.problem
    assert not (cli.folder / "out").exists()


async def test_a_journal_that_is_none_is_refused_and_left_alone(cli: CLI, library: Path, sandbox: Sandbox) -> None:
    journal = cli.folder / "my.journal"
    journal.write_text(json.dumps({"not": "a journal"}) * 100)
    before = journal.read_bytes()
    ended = await cli.using(sandbox).run("batch", library, "--into", "out", "--journal", journal)
    assert ended.code == 1
    assert "journal" in ended.problem
    assert journal.read_bytes() == before
    assert sandbox.ledger.charges == []


async def test_a_journal_can_be_read_by_its_owner_only(cli: CLI, library: Path, sandbox: Sandbox) -> None:
    await cli.using(sandbox).run("batch", library, "--into", "out")
    hidden = [path for path in (cli.folder / "out").iterdir() if path.name.startswith(".aistemsplitter")]
    assert hidden
    assert [oct(path.stat().st_mode & 0o077) for path in hidden] == ["0o0"] * len(hidden)
    assert sandbox.api_key.encode() not in b"".join(path.read_bytes() for path in hidden if os.access(path, os.R_OK))
