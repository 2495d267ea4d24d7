"""The decisions about one track: no way through them loses an intent, or finds a new key after an ambiguous create."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async import (
    AIStemSplitterError,
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    DirectURL,
    DownloadError,
    IncompleteDownloadError,
    InsufficientCreditsError,
    ProtocolError,
    RateLimitedError,
    ServerError,
    SourceChangedError,
    SpendLimitError,
    Split,
    SplitFailedError,
    StemsExpiredError,
    Submission,
    SubmissionUncertainError,
    UnsafeNameError,
    UnsafeURLError,
    UploadedFile,
    ValidationError,
    WaitTimeoutError,
)
from aistemsplitter_async.journal.record import (
    BEFORE,
    Record,
    StageName,
    State,
    Step,
    StoredFailure,
    build_failure,
    is_retried,
    plan_reopening,
    plan_step,
)

NOW = 1_800_000_000.0
DAY = 86_400.0
KEY_AGE = 82_800.0
SUBMISSION = Submission("key", b"{}")
SPLIT = Split(
    id="split_1",
    status="failed",
    stem_model="4s",
    filename="song.wav",
    duration_seconds=1.0,
    credits_used=1,
    created_at=datetime.fromtimestamp(NOW, UTC),
    updated_at=datetime.fromtimestamp(NOW, UTC),
    stems={},
    error=None,
)
OPEN = (State.INTENT, State.UNCERTAIN, State.NEEDS_REVIEW)
STAGES: tuple[StageName, ...] = ("prepare", "upload", "create", "wait", "download", "mix")


def record(state: State, **fields: Any) -> Record:
    usual: dict[str, Any] = {"input": DirectURL("https://example.com/a.mp3")}
    if state not in (State.FOUND, State.UPLOADED):
        usual |= {"submission": SUBMISSION, "intended_at": NOW}
    return Record(id=1, source="a.mp3", state=state, **(usual | fields))


def plan(known: Record, *, now: float = NOW, wants_files: bool = True) -> Step:
    return plan_step(known, now=now, key_age=KEY_AGE, wants_files=wants_files)


ERRORS: list[AIStemSplitterError] = [
    ValidationError("refused", status_code=422),
    APIStatusError("gone", status_code=404, code="NOT_FOUND"),
    APIStatusError("gone", status_code=404),
    APIStatusError("moved", status_code=302),
    ProtocolError("a web page"),
    UnsafeURLError("not on the public internet"),
    AuthenticationError("who?", status_code=401),
    InsufficientCreditsError("broke", status_code=402),
    RateLimitedError("slow", status_code=429),
    APIStatusError("late", status_code=408),
    ServerError("down", status_code=503),
    APIConnectionError("reset"),
    SubmissionUncertainError("who knows", submission=SUBMISSION, status_code=422),
    SplitFailedError(SPLIT),
    WaitTimeoutError("split_1", None),
    SourceChangedError("edited"),
    IncompleteDownloadError("short"),
    DownloadError("full", code="DISK"),
    StemsExpiredError("over"),
    UnsafeNameError("../x"),
    SpendLimitError("enough"),
]


@given(
    state=st.sampled_from(State),
    age=st.floats(-10 * DAY, 10 * DAY),
    key_age=st.floats(0, 10 * DAY),
    wants_files=st.booleans(),
    failure=st.sampled_from([None, StoredFailure("create", "ServerError", "down", status_code=503)]),
)
def test_whatever_may_have_been_sent_is_sent_again_as_it_was_or_handed_to_a_person(
    state: State, age: float, key_age: float, wants_files: bool, failure: StoredFailure | None
) -> None:
    known = record(state, failure=failure, expires_at=NOW + DAY)
    step = plan_step(known, now=NOW + age, key_age=key_age, wants_files=wants_files)
    if state in OPEN:
        assert step in (Step.REPLAY, Step.REVIEW)
    elif state not in (State.FOUND, State.UPLOADED):
        assert step not in (Step.UPLOAD, Step.CREATE, Step.REPLAY)


@given(age=st.integers(-(10**6), 10**6), key_age=st.integers(0, 10**6))
def test_a_key_is_used_again_only_while_the_server_is_trusted_to_remember_it(age: int, key_age: int) -> None:
    step = plan_step(record(State.INTENT), now=NOW + age, key_age=key_age, wants_files=True)
    assert (step is Step.REPLAY) == (-3600 <= age < key_age)


@pytest.mark.parametrize("state", OPEN)
@pytest.mark.parametrize(
    ("sender", "resend", "expected"),
    [
        (None, False, Step.REPLAY),
        ("ours", False, Step.REPLAY),
        ("another", False, Step.REVIEW),
        ("another", True, Step.REPLAY),
    ],
)
def test_a_create_of_another_key_is_sent_again_only_if_a_person_says_so(
    state: State, sender: str | None, resend: bool, expected: Step
) -> None:
    known = record(state, sender=sender)
    assert plan_step(known, now=NOW, key_age=KEY_AGE, wants_files=True, key="ours", resend=resend) is expected


def test_an_old_create_is_sent_again_if_a_person_says_so() -> None:
    known = record(State.NEEDS_REVIEW, intended_at=NOW - 30 * DAY)
    assert plan_step(known, now=NOW, key_age=KEY_AGE, wants_files=True) is Step.REVIEW
    assert plan_step(known, now=NOW, key_age=KEY_AGE, wants_files=True, resend=True) is Step.REPLAY


def test_an_intent_without_a_time_is_old() -> None:
    assert plan(record(State.INTENT, intended_at=None)) is Step.REVIEW


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{type(error).__name__} {error.status_code}")
def test_a_split_is_given_up_for_a_new_one_only_if_it_failed(error: AIStemSplitterError) -> None:
    for stage in STAGES:
        assert plan_reopening(build_failure(stage, error)) == isinstance(error, SplitFailedError), stage


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{type(error).__name__} {error.status_code}")
def test_the_next_run_goes_on_by_itself_unless_the_same_would_happen_again(error: AIStemSplitterError) -> None:
    lasting = {"SplitFailedError", "UnsafeNameError"}
    assert build_failure("wait", error).passing == (type(error).__name__ not in lasting)
    assert build_failure("download", error).passing == (type(error).__name__ not in lasting)
    refused = type(error) is ValidationError or error.code == "NOT_FOUND"
    assert build_failure("upload", error).passing == (type(error).__name__ not in lasting and not refused)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{type(error).__name__} {error.status_code}")
def test_a_failure_comes_back_as_the_error_it_was(error: AIStemSplitterError) -> None:
    known = record(State.CREATED, failure=build_failure("wait", error), split_id="split_1", split=SPLIT)
    restored = known.error
    assert restored is not None
    assert str(restored) == str(error)
    assert (restored.code, restored.status_code) == (error.code, error.status_code)
    if isinstance(error, APIStatusError | DownloadError | SplitFailedError):
        assert type(restored) is type(error)


def test_an_error_class_that_does_not_exist_is_restored_as_the_root() -> None:
    for kind in ("__builtins__", "annotations", "Exception", "NoSuchError", "ConfigurationError"):
        known = record(State.FOUND, failure=StoredFailure("create", kind, "odd"))
        assert type(known.error) is AIStemSplitterError


def test_a_final_failure_stays_until_a_retry_is_requested() -> None:
    failure = build_failure("create", ValidationError("refused", status_code=422))
    assert plan(record(State.FOUND, failure=failure)) is Step.FAILED
    down = build_failure("create", ServerError("down", status_code=503))
    assert plan(record(State.FOUND, failure=down)) is Step.CREATE


def test_each_state_calls_for_its_step() -> None:
    assert plan(record(State.FOUND)) is Step.CREATE
    assert plan(record(State.FOUND, input=None)) is Step.UPLOAD
    assert plan(record(State.CREATED)) is Step.WAIT
    assert plan(record(State.SUCCEEDED)) is Step.DOWNLOAD
    assert plan(record(State.SUCCEEDED), wants_files=False) is Step.NOTHING
    assert plan(record(State.DOWNLOADED)) is Step.CHECK
    assert plan(record(State.DOWNLOADED), wants_files=False) is Step.NOTHING


def test_an_upload_is_used_while_it_is_good_for_a_while_longer() -> None:
    uploaded = UploadedFile("upl_1", "https://cdn/1", "sources/1")
    for left, step in ((31, Step.CREATE), (29, Step.UPLOAD), (-5, Step.UPLOAD)):
        assert plan(record(State.UPLOADED, input=uploaded, expires_at=NOW + left)) is step
    assert plan(record(State.UPLOADED, input=uploaded, expires_at=None)) is Step.UPLOAD


def test_nothing_leads_from_a_create_that_may_exist_back_to_one_that_was_never_sent() -> None:
    for state, earlier in BEFORE.items():
        if state in (State.UPLOADED, State.INTENT):
            assert earlier <= {State.FOUND, State.UPLOADED}
    assert State.FOUND not in BEFORE


@given(st.sampled_from(ERRORS), st.sampled_from(STAGES))
def test_what_is_retried_without_being_told_to_pays_for_nothing_twice(
    error: AIStemSplitterError, stage: StageName
) -> None:
    failure = build_failure(stage, error)
    assert is_retried(failure, True)
    assert is_retried(failure, False) is failure.passing
    assert is_retried(failure, "unpaid") is not (plan_reopening(failure) or failure.may_be_paid)
    assert not (failure.passing and plan_reopening(failure))


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410])
def test_a_page_that_an_earlier_version_took_for_the_refusal_of_a_create_is_a_persons_decision(status: int) -> None:
    kind = "AuthenticationError" if status == 403 else "APIStatusError"
    failure = StoredFailure("create", kind, "could not create the split: a web page", status_code=status)
    assert not failure.passing, "perhaps it was created, and its key is gone"
    assert not is_retried(failure, "unpaid")
    assert is_retried(failure, True)
    assert attrs.evolve(failure, stage="upload").passing
    assert attrs.evolve(failure, code="FORBIDDEN", kind="AuthenticationError", status_code=403).passing
