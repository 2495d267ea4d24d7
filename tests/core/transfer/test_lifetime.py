"""The lifetime of a reservation: by the server's own times, whatever our wall clock says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async import APIConnectionError, APIStatusError, AuthenticationError, ValidationError
from aistemsplitter_async._transfer.lifetime import Lifetime, may_have_expired

SERVER = datetime(2026, 5, 4, 12, tzinfo=UTC)
skews = st.floats(-1e8, 1e8)


def lifetime(seconds: float, *, skew: float = 0.0, dated: bool = True, begins: float = 1000.0) -> Lifetime:
    return Lifetime.between(
        SERVER + timedelta(seconds=seconds),
        server_now=SERVER.timestamp() if dated else None,
        now=SERVER.timestamp() + skew,
        begins=begins,
    )


@given(st.floats(-1e6, 1e6), skews)
def test_with_a_date_our_wall_clock_makes_no_difference(seconds: float, skew: float) -> None:
    assert lifetime(seconds, skew=skew) == lifetime(seconds)
    assert lifetime(seconds).left(1000.0) == pytest.approx(seconds, abs=1e-3)


def test_without_one_our_clock_is_used_and_not_trusted_for_long() -> None:
    assert lifetime(900, dated=False).left(1000.0) == 900
    assert lifetime(900, dated=False).sure_until == 1060
    assert lifetime(50, dated=False).sure_until == 1020
    assert lifetime(900).sure_until == 1870


@pytest.mark.parametrize("expires_at", [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)])
def test_the_ends_of_the_calendar_can_be_counted_with(expires_at: datetime) -> None:
    ends = Lifetime.between(expires_at, server_now=SERVER.timestamp(), now=0.0, begins=0.0)
    for ours in (datetime.fromtimestamp(0, UTC), SERVER):
        assert 1900 < (ours + timedelta(seconds=ends.left(0.0))).year < 2100


@given(st.integers(-10_000, 10_000), st.integers(0, 10_000))
def test_one_that_had_expired_before_it_came_has_not_passed_since(seconds: int, later: int) -> None:
    passed = lifetime(seconds).has_passed(1000.0 + later)
    assert passed == (seconds > 0 and lifetime(seconds).left(1000.0 + later) <= 0)


def refusal(status: int, code: str = "CODE", detail: str = "") -> APIStatusError:
    return APIStatusError("refused", status_code=status, code=code, detail=detail)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 409, 410, 413, 415, 422, 423, 429, 500, 503])
def test_which_refusals_may_be_about_the_upload(status: int) -> None:
    surely_valid = may_have_expired(refusal(status), 1000.0, now=999.0)
    perhaps_not = may_have_expired(refusal(status), 1000.0, now=1000.0)
    of_another_run = may_have_expired(refusal(status), None, now=999.0)
    assert surely_valid == (status in (404, 410))
    assert perhaps_not == of_another_run == (status in (400, 404, 410, 422))


@pytest.mark.parametrize(
    "said", [{"code": "UPLOAD_EXPIRED"}, {"detail": "This upload has expired."}, {"code": "RESERVATION_EXPIRED"}]
)
def test_one_that_says_so_is_about_the_upload(said: dict[str, str]) -> None:
    assert may_have_expired(refusal(422, **said), 1000.0, now=0.0)
    assert not may_have_expired(refusal(403, **said), 1000.0, now=0.0)


@pytest.mark.parametrize("error", [APIConnectionError("lost"), AuthenticationError("no", status_code=401), OSError()])
def test_no_other_failure_is(error: Exception) -> None:
    assert not may_have_expired(error, None, now=0.0)


def test_an_invalid_file_is_not_an_expired_upload() -> None:
    assert not may_have_expired(ValidationError("not audio", status_code=422, detail="not audio"), 1000.0, now=10.0)
