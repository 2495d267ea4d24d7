"""The commands meet songs again, and buy none twice; what a dry run says is what the run does."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aistemsplitter_async.sandbox import Manual, Sandbox, faults
from tests.e2e.harness import CLI, Ended, MakeWav

SAMPLES = Path(__file__).parents[2] / "samples"
STEMS = ("vocals", "drums", "bass", "other")


def tagged(data: bytes, title: str) -> bytes:
    """A WAV file with a title, as a tag editor writes it."""
    text = title.encode() + b"\0" * (1 + (len(title) + 1) % 2)
    tag = b"INFO" + b"INAM" + struct.pack("<I", len(text)) + text
    data += b"LIST" + struct.pack("<I", len(tag)) + tag
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


@pytest.fixture
def music(tmp_path: Path, make_wav: MakeWav) -> Path:
    folder = tmp_path / "music"
    folder.mkdir()
    for seconds, name in enumerate(("one", "two", "three"), 1):
        (folder / f"{name}.wav").write_bytes(make_wav(float(seconds)))
    return folder


def edit_tags(folder: Path) -> None:
    for song in folder.glob("*.wav"):
        song.write_bytes(tagged(song.read_bytes(), f"{song.stem}, edited"))


async def agree(cli: CLI, sandbox: Sandbox, *arguments: object) -> tuple[Ended, int]:
    """Run a dry run and the run; check that both say the same, and return the run and how many splits it bought."""
    before = len(sandbox.ledger.charges)
    dry = await cli.run("batch", *arguments, "--dry-run", "--json")
    assert len(sandbox.ledger.charges) == before
    ended = await cli.run("batch", *arguments, "--json")
    bought = len(sandbox.ledger.charges) - before
    planned = [one for one in dry.json[:-1] if one["plan"].startswith("split")]
    done = [one["source"] for one in ended.json if one["outcome"] == "done"]
    assert bought == len(planned)
    assert {one["source"] for one in planned} <= set(done)
    assert set(done) <= {one["source"] for one in dry.json[:-1] if one["plan"] not in ("finished", "duplicate")}
    assert refusals(dry) == refusals(ended)
    assert dry.code == ended.code
    if "credits" in dry.json[-1]:
        assert dry.json[-1]["credits"] == sum(charge.credits for charge in sandbox.ledger.charges[before:])
    return ended, bought


def refusals(ended: Ended) -> list[str]:
    return sorted(line for line in ended.err.splitlines() if line.startswith("error: "))


async def test_songs_whose_tags_were_edited_are_finished(cli: CLI, sandbox: Sandbox, music: Path) -> None:
    cli = cli.using(sandbox)
    _, bought = await agree(cli, sandbox, music, "--into", "out")
    assert bought == 3
    edit_tags(music)
    (music / "two.wav").rename(music / "02 two.wav")
    shutil.copyfile(music / "three.wav", music / "trois.wav")
    (music / "trois.wav").write_bytes(tagged((music / "trois.wav").read_bytes(), "and once more"))
    ended, bought = await agree(cli, sandbox, music, "--into", "out")
    assert bought == 0
    assert "3 finished earlier, 1 duplicate" in ended.err
    single = await cli.run("split", music / "one.wav", "--into", "out")
    assert single.code == 0
    assert "nothing was charged" in single.err
    assert len(sandbox.ledger.charges) == 3


async def test_options_in_other_words_buy_nothing_and_another_model_is_announced(
    cli: CLI, sandbox: Sandbox, music: Path
) -> None:
    cli = cli.using(sandbox)
    await cli.run("batch", music, "--into", "out")
    for options in (["--stem-model", "4s"], ["--output-format", "mp3"], []):
        _, bought = await agree(cli, sandbox, music, "--into", "out", *options)
        assert bought == 0
    dry = await cli.run("batch", music, "--into", "out", "--stem-model", "6s", "--dry-run")
    assert dry.out.count("(split again, with other options than before: it was delivered as 4s mp3)") == 3
    ended, bought = await agree(cli, sandbox, music, "--into", "out", "--stem-model", "6s")
    assert bought == 3
    (said,) = [line for line in ended.err.splitlines() if "was split before" in line]
    assert "delivered as 4s mp3; 6s is asked for now, so it is bought again" in said
    _, bought = await agree(cli, sandbox, music, "--into", "out")
    assert bought == 0


async def test_stems_that_were_moved_away_are_downloaded_again_and_not_bought(
    cli: CLI, sandbox: Sandbox, music: Path
) -> None:
    cli = cli.using(sandbox)
    await cli.run("batch", music, "--into", "out")
    shutil.move(cli.folder / "out" / "one", cli.folder / "elsewhere")
    dry = await cli.run("batch", music, "--into", "out", "--dry-run", "--json")
    assert [one["plan"] for one in dry.json[:-1]].count("paid for; to be fetched") == 1
    ended, bought = await agree(cli, sandbox, music, "--into", "out")
    assert bought == 0
    assert "1 split, 2 finished earlier" in ended.err


async def test_stems_without_their_journal_are_not_bought_again_and_no_advice_leads_there(
    cli: CLI, sandbox: Sandbox, music: Path
) -> None:
    """As after `mv out/* archive/`, which leaves the hidden journal behind."""
    cli = cli.using(sandbox)
    await cli.run("batch", music, "--into", "out")
    (cli.folder / "archive").mkdir()
    for name in ("one", "two", "three"):
        shutil.move(cli.folder / "out" / name, cli.folder / "archive" / name)
    ended, bought = await agree(cli, sandbox, music, "--into", "archive")
    assert bought == 0
    assert ended.code == 1
    for line in refusals(ended):
        assert "nothing was bought: if they are the stems of this song, leave it out" in line
        assert "run the same command again" not in line
    assert "run the same command again" not in ended.err
    for path in music.iterdir():
        refused = await cli.run("split", path, "--into", "archive")
        assert (refused.code, len(sandbox.ledger.charges)) == (1, 3)
        assert "--overwrite" not in refused.problem
        assert "nothing was bought" in refused.problem
    for stem in (cli.folder / "archive").glob("*/*.mp3"):
        stem.unlink()
    ended, bought = await agree(cli, sandbox, music, "--into", "archive")
    assert bought == 0
    for line in refusals(ended):
        assert "held the stems of split " in line
        assert "as .stems.json in it says" in line
        assert "move them away first, hidden files too" in line


async def test_stems_of_another_tool_are_left_alone_and_said_beforehand(
    cli: CLI, sandbox: Sandbox, music: Path
) -> None:
    other = cli.folder / "out" / "one"
    other.mkdir(parents=True)
    (other / "vocals.wav").write_bytes(b"not ours")
    cli = cli.using(sandbox)
    ended, bought = await agree(cli, sandbox, music, "--into", "out")
    assert bought == 2
    assert "vocals.wav exists already; nothing was bought" in ended.problem
    assert [path.name for path in other.iterdir()] == ["vocals.wav"]


async def test_a_dry_run_on_a_journal_in_use_is_refused_like_a_run(cli: CLI, music: Path) -> None:
    async with Sandbox(separation="silent", requests_per_minute=None, progression=Manual()) as slow:
        cli = cli.using(slow)
        process = await cli.start("batch", music, "--into", "out")
        while len(slow.ledger.charges) < 3:  # noqa: ASYNC110  # the ledger has no event
            await asyncio.sleep(0.01)
        dry = await cli.run("batch", music, "--into", "out", "--dry-run")
        process.kill()
        await process.communicate()
    assert dry.code == 75
    assert f"process {process.pid} has it" in dry.err


async def test_a_dry_run_says_what_may_be_bought_once_it_is_known_what_was_delivered(cli: CLI, music: Path) -> None:
    async with Sandbox(separation="silent", requests_per_minute=None, progression=Manual()) as slow:
        cli = cli.using(slow)
        process = await cli.start("batch", music, "--into", "out")
        while len(slow.ledger.charges) < 3:  # noqa: ASYNC110  # the ledger has no event
            await asyncio.sleep(0.01)
        process.kill()
        await process.communicate()
        dry = await cli.run("batch", music, "--into", "out", "--stem-model", "6s", "--dry-run")
        plain = await cli.run("batch", music, "--into", "out", "--dry-run")
    assert "3 of them may be bought again" in dry.err
    assert "bought again" not in plain.err


async def test_naming_a_source_again_whose_split_failed_does_not_buy_it_again(
    cli: CLI, sandbox: Sandbox, song: Path
) -> None:
    cli = cli.using(sandbox)
    sandbox.faults.add("create", faults.FailedSplit(), times=1)
    first = await cli.run("split", song)
    assert first.code == 1
    assert (
        "failed: PROCESSING_FAILED: The separation failed; it is bought again only with --retry-failed" in first.problem
    )
    for options in ([], ["--stem-model", "4s"]):
        again = await cli.run("split", song, *options)
        assert (again.code, len(sandbox.ledger.charges)) == (1, 1)
        assert "--retry-failed" in again.problem
    bought = await cli.run("split", song, "--retry-failed")
    assert (bought.code, len(sandbox.ledger.charges)) == (0, 2)


async def test_a_model_that_does_not_exist_leaves_the_folder_to_one_that_does(
    cli: CLI, sandbox: Sandbox, song: Path
) -> None:
    cli = cli.using(sandbox)
    refused = await cli.run("split", song, "--stem-model", "9s")
    assert (refused.code, sandbox.ledger.charges) == (1, [])
    done = await cli.run("split", song, "--stem-model", "6s")
    assert done.code == 0
    assert [path.name for path in (cli.folder / "stems").iterdir() if path.is_dir()] == ["song"]


async def test_a_dry_run_ends_like_the_run_where_a_split_failed(cli: CLI, sandbox: Sandbox, music: Path) -> None:
    cli = cli.using(sandbox)
    sandbox.faults.add("create", faults.FailedSplit(), times=1)
    await cli.run("batch", music, "--into", "out")
    dry = await cli.run("batch", music, "--into", "out", "--dry-run", "--json")
    ended = await cli.run("batch", music, "--into", "out")
    assert (dry.code, ended.code) == (1, 1)
    assert [one["plan"] for one in dry.json[:-1]].count("failed for good; tried again with --retry-failed") == 1
    assert len(sandbox.ledger.charges) == 3


# A journal of version 0.1, whose library was at /music: one.wav, "copy of two.wav" and its copy two.wav are bought.


@pytest.fixture
async def old(cli: CLI, make_wav: MakeWav) -> AsyncIterator[tuple[CLI, Sandbox, Path]]:
    music, out, journal = cli.folder / "music", cli.folder / "out", cli.folder / "old.journal"
    music.mkdir()
    for name, seconds in {"one": 1, "two": 2, "copy of two": 2, "three": 3}.items():
        (music / f"{name}.wav").write_bytes(make_wav(float(seconds)))
    shutil.copyfile(SAMPLES / "old.journal", journal)
    move_library(journal, music)
    for name in ("one", "copy of two"):
        (out / name).mkdir(parents=True)
        for stem in STEMS:
            (out / name / f"{stem}.mp3").write_bytes(b"a stem")
    async with Sandbox(separation="silent", requests_per_minute=None, api_key="ast_sandbox_old_journal") as sandbox:
        yield cli.using(sandbox), sandbox, music


def move_library(journal: Path, music: Path) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(journal)) as db:
        for table, column in (("tracks", "source"), ("sources", "path")):
            db.execute(f"UPDATE {table} SET {column} = replace({column}, '/music', ?)", (str(music),))  # noqa: S608
        db.execute("UPDATE tracks SET expires_at = 0")  # of what was uploaded then
        db.commit()


async def test_an_old_journal_goes_on_and_learns_to_know_its_songs(old: tuple[CLI, Sandbox, Path]) -> None:
    cli, sandbox, music = old
    ended, bought = await agree(cli, sandbox, music, "--into", "out", "--journal", "old.journal")
    assert bought == 1
    assert "1 split, 2 finished earlier, 1 duplicate" in ended.err
    edit_tags(music)
    (music / "one.wav").rename(music / "uno.wav")
    ended, bought = await agree(cli, sandbox, music, "--into", "out", "--journal", "old.journal")
    assert (ended.code, bought) == (0, 0)


async def test_songs_of_an_old_journal_whose_tags_were_edited_before_are_a_persons_decision(
    old: tuple[CLI, Sandbox, Path],
) -> None:
    cli, sandbox, music = old
    edit_tags(music)
    library = (music, "--into", "out", "--journal", "old.journal")
    ended, bought = await agree(cli, sandbox, *library)
    assert (ended.code, bought) == (1, 1)  # three.wav was not bought before
    assert len(refusals(ended)) == 3
    assert all("--changed same" in line and "--changed new" in line for line in refusals(ended))
    assert "run the same command again" not in ended.err
    ended, bought = await agree(cli, sandbox, *library, "--changed", "same")
    assert (ended.code, bought) == (0, 0)
    ended, bought = await agree(cli, sandbox, *library)
    assert (ended.code, bought) == (0, 0)


async def test_songs_of_an_old_journal_that_are_gone_from_their_place_are_named_before_anything_is_bought(
    old: tuple[CLI, Sandbox, Path],
) -> None:
    cli, sandbox, music = old
    edit_tags(music)
    (music / "one.wav").rename(music / "01 one.wav")
    library = (music / "01 one.wav", "--into", "out", "--journal", "old.journal")
    said = "under another name and with other tags, it would be paid for again"
    dry = await cli.run("batch", *library, "--dry-run")
    assert said in dry.err
    named = f"1 song that an older version bought is gone ({music / 'one.wav'}):"
    assert named in dry.err  # the other one is in its place, and not among the sources
    sandbox.faults.add("create", faults.Status(402))
    refused = await cli.run("batch", *library)
    assert sandbox.ledger.charges == []
    assert refused.err.index(said) < refused.err.index("error: ")
    assert named in refused.err


async def test_the_report_shows_a_changed_file_beside_what_was_bought(old: tuple[CLI, Sandbox, Path]) -> None:
    cli, _, music = old
    edit_tags(music)
    await cli.run("batch", music / "one.wav", "--into", "out", "--journal", "old.journal", "--report", "report.html")
    page = (cli.folder / "report.html").read_text()
    assert page.count('data-state="done"') == 2
    assert page.count('data-state="failed"') == 2  # and three.wav, since before
    assert page.count("with other bytes") == 1


async def test_an_estimate_says_that_a_journal_may_have_some_of_it(cli: CLI, sandbox: Sandbox, music: Path) -> None:
    cli = cli.using(sandbox)
    assert "dry-run" not in (await cli.run("estimate", music, "--into", "out")).err
    await cli.run("batch", music, "--into", "out")
    ended = await cli.run("estimate", music, "--into", "out", "--json")
    assert "batch --dry-run --into out" in ended.err
    assert json.loads(ended.out)["credits"] == 6
