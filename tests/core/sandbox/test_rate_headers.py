from __future__ import annotations

import pytest

from aistemsplitter_async.sandbox.control.control import check_caller
from aistemsplitter_async.sandbox.http.rate_headers import build_rate_headers, parse_styles
from aistemsplitter_async.sandbox.http.refusals import RefusalError
from aistemsplitter_async.sandbox.service.window import Verdict, build_window

OPEN = Verdict(admitted=True, limit=60, remaining=59, retry_after=0.0, reset_after=59.5)
SHUT = Verdict(admitted=False, limit=60, remaining=0, retry_after=12.2, reset_after=59.5)


@pytest.mark.parametrize(
    ("style", "verdict", "expected"),
    [
        ("none", SHUT, {}),
        ("retry-after", OPEN, {}),
        ("retry-after", SHUT, {"Retry-After": "13"}),
        ("ratelimit", OPEN, {"RateLimit-Policy": '"default";q=60;w=60', "RateLimit": '"default";r=59;t=60'}),
        ("ratelimit", SHUT, {"RateLimit-Policy": '"default";q=60;w=60', "RateLimit": '"default";r=0;t=13'}),
        (
            "x-ratelimit",
            SHUT,
            {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1000013"},
        ),
    ],
)
def test_each_style_has_its_headers(style: str, verdict: Verdict, expected: dict[str, str]) -> None:
    assert build_rate_headers(verdict, parse_styles(style), minute=60.0, now=1_000_000.0) == expected


def test_styles_can_be_joined_and_unknown_ones_are_refused() -> None:
    assert parse_styles("retry-after, x-ratelimit") == {"retry-after", "x-ratelimit"}
    for wrong in ("", "none,ratelimit", "ratelimits"):
        with pytest.raises(ValueError, match="rate_headers"):
            parse_styles(wrong)


@pytest.mark.parametrize("policy", ["fixed", "sliding", "counter", "bucket"])
def test_reading_a_window_does_not_count_against_it(policy: str) -> None:
    window = build_window(policy, limit=2, minute=60.0)
    for _ in range(5):
        assert window.admit(1.0, take=False).remaining == 2
    assert window.admit(1.0).remaining == 1
    assert window.admit(1.0).remaining == 0
    assert not window.admit(1.0, take=False).admitted


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "127.0.0.1:8000"},
        {"Host": "[::1]:8000"},
        {"Host": "localhost:8000", "Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"},
        {"Host": "127.0.0.1:8000", "Sec-Fetch-Site": "none"},
    ],
)
def test_own_pages_and_terminals_may_control(headers: dict[str, str]) -> None:
    check_caller(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "evil.example:8000"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "127.0.0.1:8000", "Origin": "https://evil.example"},
        {"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:9000"},
        {"Host": "127.0.0.1:8000", "Origin": "null"},
        {"Host": "127.0.0.1:8000", "Sec-Fetch-Site": "cross-site"},
        {"Host": "127.0.0.1:8000", "Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_origins_may_not(headers: dict[str, str]) -> None:
    with pytest.raises(RefusalError) as caught:
        check_caller(headers)
    assert caught.value.status == 403
