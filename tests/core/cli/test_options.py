from __future__ import annotations

import io
import math
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
from cyclopts import CycloptsError
from hypothesis import given, strategies as st
from rich.console import Console

from aistemsplitter_async.cli.app import app, run_app
from aistemsplitter_async.cli.commands.sandbox import build_sandbox
from aistemsplitter_async.cli.failures import UsageError
from aistemsplitter_async.cli.options import Common, Selecting
from aistemsplitter_async.cli.server_options import Serving
from aistemsplitter_async.cli.values import parse_duration, parse_port, parse_rate_limit
from aistemsplitter_async.config import RateLimit
from aistemsplitter_async.sandbox import Manual, Sandbox, Timed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800),
        ("1h30m", 5400),
        ("90s", 90),
        ("90", 90),
        ("1.5h", 5400),
        ("2 min", 120),
        ("1H", 3600),
        ("1h 2m 3s", 3723),
        ("0.5s", 0.5),
    ],
)
def test_a_duration_reads_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "3x", "-5m", "0", "0h0m0s", "1m1h", "nan", "inf", "1e9", "9" * 400, "32d", "1000h", "٣m٣"]
)
def test_what_is_not_a_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="30m, 1h30m or 90s"):
        parse_duration(text)


@given(st.text(max_size=20))
def test_any_text_is_a_positive_finite_duration_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert seconds > 0
    assert math.isfinite(seconds)


@given(hours=st.integers(0, 99), minutes=st.integers(0, 59), seconds=st.integers(1, 59))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


def test_a_rate_limit_reads_like_sixty_a_minute() -> None:
    assert parse_rate_limit("60/min") == RateLimit(60, 60.0)
    assert parse_rate_limit("100/30s") == RateLimit(100, 30.0)
    _, bound, _ = app.parse_args(["estimate", "x", "--rate-limit", "100/30s"], print_error=False, exit_on_error=False)
    assert bound.kwargs["common"].rate_limit == RateLimit(100, 30.0)


@pytest.mark.parametrize("text", ["", "60", "0/min", "60/.s", "60/0s", "9" * 5000 + "/s", "a/b"])
def test_what_is_not_a_rate_limit_is_a_value_error_that_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate limit|positive|at least 1"):
        parse_rate_limit(text)


@pytest.mark.parametrize(
    ("words", "stems"),
    [
        ([], None),
        (["--stems", "vocals,drums"], ("vocals", "drums")),
        (["--stems", "vocals", "--stems=drums, bass"], ("vocals", "drums", "bass")),
        (["--stems", "none"], ()),
    ],
)
@pytest.mark.parametrize(
    ("command", "given"), [("split", "splitting"), ("batch", "batching"), ("download", "selecting")]
)
def test_stems_are_named_with_commas_or_one_by_one(
    command: str, given: str, words: list[str], stems: tuple[str, ...] | None
) -> None:
    _, bound, _ = app.parse_args([command, *words, "song.wav"], print_error=False, exit_on_error=False)
    options = bound.kwargs.get(given, Selecting())
    assert getattr(options, "selecting", options).stems == stems


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stems", "vocls"], "no model has a stem 'vocls'; there are vocals, drums, bass, other, guitar, piano"),
        (["--stems", "piano", "--stem-model", "4s"], "the model 4s does not have a stem 'piano'"),
        (["--stems", "none"], "no stems and no mix are nothing to download"),
        (["--stems", "vocals,"], "write them like vocals,drums"),
        (["--stems", "none,vocals"], "write them like vocals,drums"),
        (["--stems", ""], "write them like vocals,drums"),
    ],
)
@pytest.mark.parametrize("command", ["split", "batch"])
def test_stems_that_cannot_be_are_refused_before_anything_is_done(
    command: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app([command, "song.wav", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", ["-1", "65536", "1x", "\u00b2", "", "9" * 5000])
def test_what_is_no_port_is_refused(text: str) -> None:
    assert [parse_port(one) for one in ("0", "65535")] == [0, 65535]
    with pytest.raises(ValueError, match="is not a port, 0 to 65535"):
        parse_port(text)


@pytest.mark.parametrize("option", ["--base-url", "--proxy", "--idempotency-key", "--stem-model", "--output-format"])
def test_an_option_from_a_variable_that_is_not_set_is_not_left_out_in_silence(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another API, or a charge under another key, would be the consequence."""
    assert run_app(["split", "song.wav", option, ""]) == 2
    assert f"{option}: it is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--api-key", "ast_secret123"], ["--api-key=ast_secret123"], ["--key=ast_secret123"]]
)
@pytest.mark.parametrize("command", ["split", "credits"])
def test_a_key_on_a_command_line_is_refused_and_not_repeated(
    command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app([command, *words]) == 2
    shown = capsys.readouterr().err
    assert "ast_secret123" not in shown
    assert ("every user can see a key" in shown) == words[0].startswith("--api-key")


def serving(*arguments: str) -> Serving:
    _, bound, _ = app.parse_args(["sandbox", *arguments], print_error=False, exit_on_error=False)
    parsed = bound.kwargs.get("serving", Serving())
    assert isinstance(parsed, Serving)
    return parsed


def test_the_sandbox_command_takes_everything_a_sandbox_can_be(tmp_path: Path) -> None:
    given = serving(
        *("--port", "1234", "--api-key", "ast_k", "--credits", "7", "--requests-per-minute", "9", "--minute", "0.5"),
        *("--window", "bucket", "--burst", "3", "--rate-headers", "retry-after,ratelimit", "--separation", "silent"),
        *("--progression", "manual", "--data", str(tmp_path), "--seed", "5", "--no-control"),
        *("--fault", "create:status:status=503,times=2", "--fault", "get:latency:seconds=1"),
    )
    sandbox = build_sandbox(given)
    settings = sandbox._settings
    assert (settings.port, sandbox.keys[0].credits, sandbox.keys[0].requests_per_minute) == (1234, 7, 9)
    assert (settings.minute, settings.window, settings.burst, settings.seed) == (0.5, "bucket", 3, 5)
    assert settings.rate_styles == {"retry-after", "ratelimit"}
    assert (settings.silent, settings.control, settings.data) == (True, False, tmp_path)
    assert isinstance(settings.progression, Manual)
    rules = sandbox.faults.rules
    assert [(rule.operation, rule.name, rule.times) for rule in rules] == [
        ("create", "status", 2),
        ("get", "latency", 1),
    ]


def test_what_is_not_given_is_the_sandboxs_own_default() -> None:
    ours, plain = build_sandbox(serving())._settings, Sandbox()._settings
    assert attrs.evolve(ours, keys=plain.keys) == plain
    assert ours.keys[0].credits == plain.keys[0].credits
    assert build_sandbox(serving("--requests-per-minute", "0")).keys[0].requests_per_minute is None
    assert isinstance(build_sandbox(serving("--progression", "timed"))._settings.progression, Timed)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--fault", "create"], "--fault create: write it like OPERATION:KIND"),
        (["--fault", "make:status"], "--fault make:status: operation must be one of credits, reserve"),
        (["--fault", "create:explode"], "there is no fault 'explode'; there are status, body"),
        (["--fault", "create:status:code"], "'code' is not NAME=VALUE"),
        (["--fault", "create:status:sort=1"], "fault status has no sort; it has status, code, retry_after, effect"),
        (["--fault", "create:status:status=200"], "'status' must be >= 300"),
        (["--fault", "get:latency:seconds=soon"], "fault latency: seconds must be a number"),
        (["--fault", "get:cut:how=gently"], "fault cut: how must be one of reset, close"),
        (["--fault", "get:status:probability=2"], "probability must be between 0 and 1"),
        (["--fault", "get:status:times=0"], "times and calls must be whole numbers from 1 on"),
        (["--burst", "3"], "only the bucket policy has a burst"),
        (["--rate-headers", "polite"], "--rate-headers must be some of"),
        (["--minute", "0"], "minute more than 0"),
        (["--api-key", "sk_x"], "starts with ast_"),
    ],
)
def test_what_makes_no_sense_for_a_sandbox_says_why(arguments: list[str], problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_sandbox(serving(*arguments))
    assert problem in str(caught.value)


@pytest.mark.parametrize("arguments", [["--window", "leaky"], ["--separation", "loud"], ["--seed", "x"], ["--fault"]])
def test_a_choice_that_there_is_not_is_refused_before_anything_is_built(arguments: list[str]) -> None:
    with pytest.raises(CycloptsError):
        serving(*arguments)


def test_a_command_to_continue_with_has_a_place_for_the_password_of_the_proxy() -> None:
    common = Common(proxy="http://me:hunter2@proxy.example.com:3128")
    assert common.connection["--proxy"] == "http://USER:PASSWORD@proxy.example.com:3128"
    assert "hunter2" not in repr(common)
    for proxy in (None, "env", "http://proxy.example.com:3128"):
        assert Common(proxy=proxy).connection["--proxy"] == proxy


@pytest.mark.parametrize("command", ["split", "batch"])
def test_help_shows_what_a_command_does_above_how_it_connects_and_what_it_prints(command: str) -> None:
    app.help_print([command], console=Console(file=(shown := io.StringIO()), width=120))
    order = [
        " Parameters ",
        "--into",
        " Stems ",
        "--stems",
        "--instrumental",
        " After an earlier run ",
        "--new-key",
        "--resend",
    ]
    order += [" Connection ", "--base-url", "--ca-file", " Output ", "--json", "--quiet"]
    places = [shown.getvalue().find(f"\u2502 {word} " if word[0] == "-" else f"\u2500{word}\u2500") for word in order]
    assert places[0] > 0
    assert all(one < next_one for one, next_one in pairwise(places)), dict(zip(order, places, strict=True))
