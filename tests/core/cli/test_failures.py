from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async import errors
from aistemsplitter_async.cli.failures import Context, Exit, exit_code, explain, most_severe
from aistemsplitter_async.cli.options import Selecting
from aistemsplitter_async.cli.screen.render import hide_keys, show
from aistemsplitter_async.journal.tables import UNFIT
from aistemsplitter_async.models import Split, Submission

NOW = datetime(2027, 1, 1, tzinfo=UTC)
HERE = Context(into="stems")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigurationError("no API key: set it", code="NO_API_KEY"), 3),
        (errors.AuthenticationError("no", status_code=401), 3),
        (errors.ConfigurationError("bad base URL"), 2),
        (errors.InsufficientCreditsError("no", status_code=402), 4),
        (errors.SubmissionUncertainError("who knows", submission=Submission("key-1", b"{}")), 5),
        (errors.RateLimitedError("slow down", status_code=429), 75),
        (errors.JournalLockedError("locked"), 75),
        (errors.ServerError("oh", status_code=503), 1),
        (errors.SourceUnreadableError("cannot read a.mp3: no such file"), 1),
        (errors.WaitTimeoutError("split_1", None), 1),
        (errors.APIConnectionError("no store", code=errors.GATE_UNREACHABLE), 75),
        (errors.APIConnectionError("wrong password", code=errors.GATE_UNREACHABLE, permanent=True), 2),
    ],
)
def test_an_error_has_its_exit_code(error: errors.AIStemSplitterError, code: int) -> None:
    assert exit_code(error) == code
    assert explain(error, HERE).exit_code == code


def test_a_password_that_is_refused_comes_with_where_to_put_one() -> None:
    refused = errors.JournalError("cannot reach it: fe_sendauth: no password supplied", code=UNFIT)
    assert explain(refused, BATCH).message.endswith("put the whole URL into AISTEMSPLITTER_JOURNAL")
    wrong = errors.APIConnectionError("wrong password", code=errors.GATE_UNREACHABLE, permanent=True)
    assert explain(wrong, BATCH).message.endswith("; check --shared or AISTEMSPLITTER_SHARED")


def test_the_most_severe_of_several_exit_codes_counts() -> None:
    assert most_severe([]) == Exit.DONE
    assert most_severe([Exit.DONE, Exit.FAILED]) == Exit.FAILED
    assert most_severe([Exit.FAILED, Exit.CREDITS, Exit.DONE]) == Exit.CREDITS
    assert most_severe([Exit.CREDITS, Exit.UNCERTAIN]) == Exit.UNCERTAIN


@given(st.permutations(list(Exit)))
def test_the_order_of_results_does_not_matter(codes: list[Exit]) -> None:
    assert most_severe(codes) == Exit.INTERRUPTED


def test_an_uncertain_create_names_its_key_and_the_way_on() -> None:
    error = errors.SubmissionUncertainError("who knows", submission=Submission("key-1", b"{}"))
    failure = explain(error, HERE, source="song.mp3")
    assert "run the same command again" in failure.message
    assert failure.as_json()["idempotency_key"] == "key-1"


def test_a_wait_that_took_too_long_says_how_to_go_on_with_the_same_options() -> None:
    context = Context(
        into="my stems",
        name="song-2",
        selecting=Selecting(stems=("vocals", "bass")).given,
        connection={"--base-url": "https://a.example/v1", "--api-key-file": Path("k")},
    )
    message = explain(errors.WaitTimeoutError("split_1", None), context, source="song.mp3").message
    assert message.startswith("song.mp3: ")
    connection = "--base-url https://a.example/v1 --api-key-file k"
    assert f"download split_1 --into 'my stems' --name song-2 --stems vocals,bass {connection}" in message
    assert f"wait split_1 {connection}" in message


def test_what_dies_with_the_process_is_not_offered_for_later() -> None:
    message = explain(errors.WaitTimeoutError("split_1", None), Context(into="stems", resumable=False)).message
    assert "aistemsplitter-async" not in message


def test_a_folder_in_use_names_the_ways_around_it() -> None:
    error = errors.DownloadError("stems/song holds stems", split_id="split_1", code="EXISTS")
    assert "--overwrite" in explain(error, HERE).message


BATCH = Context(into="stems", is_batch=True)


def test_a_batch_advises_only_what_it_has() -> None:
    exists = errors.DownloadError("stems/song holds stems", split_id="split_1", code="EXISTS")
    assert explain(exists, BATCH).message.endswith("paid for: move those files away, and run the same command again")
    for error, way_on in {
        errors.DownloadError("the line broke", split_id="split_1"): "when the same command is run again",
        errors.UnsafeNameError("no name", split_id="split_1"): "--retry-failed",
        errors.StemsExpiredError("gone", split_id="split_1"): "when the same command is run again",
    }.items():
        assert explain(error, BATCH).message.endswith(way_on)


SPLIT = Context(into="stems", is_split=True)
AGAIN = "run the same command again"


@pytest.mark.parametrize("context", [BATCH, SPLIT])
def test_no_advice_about_files_in_the_way_pays_for_what_may_be_paid_for(context: Context) -> None:
    before = errors.DownloadError("stems/song holds stems; choose another folder", code="EXISTS")
    message = explain(before, context).message
    assert "nothing was bought" in message
    paid = explain(errors.DownloadError("stems/song holds stems", split_id="split_1", code="EXISTS"), context).message
    assert paid.endswith(f"the split is paid for: move those files away, and {AGAIN}")
    for text in (message, paid):  # another folder has another journal, and --overwrite splits all sources again
        assert "--overwrite" not in text
        assert "--into" not in text


@pytest.mark.parametrize("context", [BATCH, SPLIT])
def test_a_failed_split_is_bought_again_only_by_an_explicit_choice(context: Context) -> None:
    split = Split("split_1", "failed", "4s", 1, NOW, NOW)
    assert explain(errors.SplitFailedError(split), context).message.endswith("bought again only with --retry-failed")


def test_what_would_buy_failed_splits_again_is_not_to_be_repeated() -> None:
    error = errors.SubmissionUncertainError("who knows", submission=Submission("key-1", b"{}"))
    assert AGAIN in explain(error, BATCH).message
    told = explain(error, attrs.evolve(BATCH, retry_failed=True)).message
    assert f"{AGAIN} without --retry-failed" in told


def test_a_changed_file_names_both_ways_on() -> None:
    error = errors.SourceChangedError('a.mp3 was bought with other bytes; changed="same" ..', code="CHANGED")
    message = explain(error, BATCH).message
    assert message.startswith("a.mp3 was bought with other bytes; perhaps only its tags changed")
    assert "--changed same" in message
    assert "--changed new" in message
    assert 'changed="same"' not in message


def test_a_create_that_needs_review_names_its_key_and_how_to_resend_it() -> None:
    error = errors.SubmissionUncertainError("too old", submission=Submission("key-1", b"{}"), code="NEEDS_REVIEW")
    for context in (HERE, BATCH):
        message = explain(error, context).message
        assert "key-1" in message
        assert "--resend" in message


def test_an_unknown_id_is_named() -> None:
    error = errors.APIStatusError("could not get the split: HTTP 404", status_code=404, split_id="split_9")
    assert explain(error, HERE).message == "there is no split split_9 for this key; check the id and the key"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.APIConnectionError("x"), "API_CONNECTION"),
        (errors.SourceUnreadableError("x"), "SOURCE_UNREADABLE"),
        (errors.UnsafeURLError("x"), "UNSAFE_URL"),
        (errors.ServerError("x", code="SERVER_ERROR"), "SERVER_ERROR"),
    ],
)
def test_every_error_has_a_code_for_scripts(error: errors.AIStemSplitterError, code: str) -> None:
    assert explain(error, HERE).as_json()["code"] == code


@given(st.text(max_size=60))
def test_a_message_is_one_line_that_a_terminal_only_prints(text: str) -> None:
    message = explain(errors.AIStemSplitterError(text), HERE, source="a\nb").message
    assert message == show(message)
    assert len(message.splitlines()) == 1


def test_keys_are_hidden_known_or_not() -> None:
    assert hide_keys("key ast_live_0123456789 was refused") == "key ast_*** was refused"
    assert hide_keys("key s3cret was refused", "s3cret") == "key ast_*** was refused"


def test_a_refused_format_is_told_with_the_option_that_works() -> None:
    error = errors.ValidationError("could not ..", detail="no wav here", output_format="wav", status_code=422)
    message = "song.mp3: the API refused it: no wav here; if wav is not offered to you, give --output-format mp3"
    assert explain(error, HERE, source="song.mp3").message == message
    other = errors.ValidationError("could not ..", detail="bad audio", status_code=422)
    assert "--output-format" not in explain(other, HERE, source="song.mp3").message
