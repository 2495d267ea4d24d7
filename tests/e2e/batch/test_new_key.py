"""A journal and the keys of its account: a new one goes on with it, a stranger's does not, nothing is paid twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aistemsplitter_async import (
    AsyncAIStemSplitter,
    AuthenticationError,
    Failed,
    JournalError,
    Outcome,
    PollPolicy,
    RetryPolicy,
    ServerError,
    Skipped,
    SubmissionUncertainError,
)
from aistemsplitter_async.cli.batch_options import Batching
from aistemsplitter_async.cli.commands.dry_run import plan_library
from aistemsplitter_async.cli.options import Common
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.sandbox import Sandbox, SandboxKey
from tests.e2e.harness import CLI

STRANGER = SandboxKey("ast_stranger_0f1e2d", credits=1000)
URL = "https://example.com/{}.mp3?seconds=10"


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Sandbox]:
    async with Sandbox(separation="silent", requests_per_minute=None, keys=[STRANGER], **options) as sandbox:
        yield sandbox


async def split(sandbox: Sandbox, key: str, journal: Path, *songs: Any, **options: Any) -> list[Outcome]:
    """The outcomes, in the order of the songs."""
    policy = RetryPolicy(create_attempts=1, attempts=1).scaled(0.001)
    async with (
        AsyncAIStemSplitter(key, base_url=sandbox.base_url, retry=policy, poll=PollPolicy().scaled(0.01)) as client,
        client.split_many(songs, journal=journal, patience=0, **options) as batch,
    ):
        return sorted([outcome async for outcome in batch], key=lambda outcome: outcome.position)


def kinds(outcomes: list[Outcome]) -> list[str]:
    return [one.reason if isinstance(one, Skipped) else type(one).__name__ for one in outcomes]


async def test_a_new_key_of_the_account_goes_on_and_the_old_one_still_may(tmp_path: Path) -> None:
    journal, first, second = tmp_path / "journal", URL.format(1), URL.format(2)
    async with serving() as sandbox:
        old = sandbox.api_key
        assert kinds(await split(sandbox, old, journal, first)) == ["Done"]
        new = sandbox.rotate_key()
        with pytest.raises(JournalError, match="--new-key") as caught:
            await split(sandbox, new, journal, first)
        assert caught.value.code == "OTHER_KEY"
        assert old not in str(caught.value)
        assert new not in str(caught.value)
        asked = sandbox.ledger.count("get")
        assert kinds(await split(sandbox, new, journal, first, new_key=True)) == ["finished"]
        assert sandbox.ledger.count("get") == asked + 1
        assert kinds(await split(sandbox, old, journal, first)) == ["finished"], "known by now, without the option"
        assert sandbox.ledger.count("get") == asked + 1
        assert kinds(await split(sandbox, new, journal, first, second)) == ["finished", "Done"]
        assert [charge.credits for charge in sandbox.ledger.charges] == [10, 10]


async def test_the_key_of_another_account_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    journal, songs = tmp_path / "journal", [URL.format(number) for number in range(7)]
    async with serving() as sandbox:
        await split(sandbox, sandbox.api_key, journal, *songs)
        asked = sandbox.ledger.count("get")
        with pytest.raises(JournalError, match="this API key does not see what ") as caught:
            await split(sandbox, STRANGER.api_key, journal, *songs, new_key=True)
        assert caught.value.code == "NOT_PROVEN"
        assert STRANGER.api_key not in str(caught.value)
        assert sandbox.ledger.count("get") == asked + 5
        assert len(sandbox.ledger.charges) == 7
        assert kinds(await split(sandbox, sandbox.api_key, journal, *songs)) == ["finished"] * 7


async def test_a_revoked_key_is_said_to_be_refused(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with serving() as sandbox:
        old = sandbox.api_key
        await split(sandbox, old, journal, URL.format(1))
        middle = sandbox.rotate_key(revoke=True)
        new = sandbox.rotate_key(middle, revoke=True)
        for gone in (middle, "ast_mistyped"):
            with pytest.raises(AuthenticationError):
                await split(sandbox, gone, journal, URL.format(1), new_key=True)
        assert kinds(await split(sandbox, new, journal, URL.format(1), new_key=True)) == ["finished"]


async def test_splits_that_are_gone_are_no_proof_against_it_and_an_outage_is_none_at_all(tmp_path: Path) -> None:
    journal, songs = tmp_path / "journal", [URL.format(number) for number in range(3)]
    async with serving() as sandbox:
        await split(sandbox, sandbox.api_key, journal, *songs)
        new = sandbox.rotate_key()
        sandbox.faults.add_text("get:status:status=503")
        with pytest.raises(ServerError):
            await split(sandbox, new, journal, *songs, new_key=True)
        with pytest.raises(JournalError, match="--new-key"):
            await split(sandbox, new, journal, *songs)
        sandbox.faults.add_text("get:status:status=404,code=NOT_FOUND,times=2")
        assert kinds(await split(sandbox, new, journal, *songs, new_key=True)) == ["finished"] * 3


@pytest.mark.parametrize("scope", ["account", "key"])
async def test_a_create_of_the_old_key_is_left_for_review_and_not_paid_twice(tmp_path: Path, scope: Any) -> None:
    journal, first, second = tmp_path / "journal", URL.format(1), URL.format(2)
    async with serving(idempotency_scope=scope) as sandbox:
        old = sandbox.api_key
        await split(sandbox, old, journal, first)
        sandbox.faults.add_text("create:reset:effect=true")
        assert kinds(await split(sandbox, old, journal, second)) == ["Failed"]
        new = sandbox.rotate_key()
        (left,) = await split(sandbox, new, journal, second, new_key=True)
        assert isinstance(left, Failed)
        assert isinstance(left.error, SubmissionUncertainError)
        assert left.error.code == "SENT_BY_OTHER_KEY"
        assert len(sandbox.ledger.charges) == 2
        if scope == "account":
            assert kinds(await split(sandbox, old, journal, second)) == ["Done"]
            assert len(sandbox.ledger.charges) == 2
            return
        # The negative control: what a resend would have cost, which only a person may risk. It is then the new key's.
        sandbox.faults.add_text("create:reset:effect=true")
        assert kinds(await split(sandbox, new, journal, second, resend=True)) == ["Failed"]
        assert kinds(await split(sandbox, new, journal, second)) == ["Done"]
        assert len(sandbox.ledger.charges) == 3


async def test_without_a_split_nothing_can_be_shown(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    async with serving() as sandbox:
        sandbox.faults.add_text("create:reset:effect=true")
        await split(sandbox, sandbox.api_key, journal, URL.format(1))
        with pytest.raises(JournalError, match="only 1 create without an answer") as caught:
            await split(sandbox, sandbox.rotate_key(), journal, URL.format(1), new_key=True)
        assert caught.value.code == "NOT_PROVEN"


async def test_where_nothing_was_paid_any_key_goes_on_and_uploads_for_itself(tmp_path: Path, song: Path) -> None:
    journal = tmp_path / "journal"
    async with serving() as sandbox:
        sandbox.set_credits(0)
        assert kinds(await split(sandbox, sandbox.api_key, journal, song)) == ["Failed"]
        with pytest.raises(JournalError, match="--new-key"):
            await split(sandbox, STRANGER.api_key, journal, song)
        assert kinds(await split(sandbox, STRANGER.api_key, journal, song, new_key=True)) == ["Done"]
        assert [upload.account for upload in sandbox.ledger.uploads][1:] == [sandbox.ledger.charges[0].account]


async def test_the_command_has_the_option(tmp_path: Path, cli: CLI) -> None:
    async with serving() as sandbox:
        await split(sandbox, sandbox.api_key, tmp_path / "journal", URL.format(1))
        new = sandbox.rotate_key()
        ended = await cli.using(sandbox, key=new).run("batch", "--journal", "journal", "--new-key", URL.format(1))
        assert ended.code == 0, ended
        assert kinds(await split(sandbox, new, tmp_path / "journal", URL.format(1))) == ["finished"]
        assert len(sandbox.ledger.charges) == 1


async def test_a_dry_run_says_that_what_is_confirmed_may_be_paid_for_once_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with serving() as sandbox:
        await split(sandbox, sandbox.api_key, Path("journal"), URL.format(1))
        sandbox.faults.add_text("create:reset:effect=true")
        await split(sandbox, sandbox.api_key, Path("journal"), URL.format(2))
        monkeypatch.setenv("AISTEMSPLITTER_BASE_URL", sandbox.base_url)
        monkeypatch.setenv("AISTEMSPLITTER_API_KEY", sandbox.api_key)
        plans = []
        for resend in (False, True):
            arguments = Batching(journal=Path("journal"), new_key=True, resend=resend, common=Common(json=True))
            await plan_library([URL.format(2)], arguments, Terminal())
            plans.append(json.loads(capsys.readouterr().out.splitlines()[0])["plan"])
    assert plans == ["to be looked at", "created again, and paid for once more unless the service knows of it"]
