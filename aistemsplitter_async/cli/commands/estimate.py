"""`estimate`: shows what a library would cost, before anything is spent."""

from __future__ import annotations

from functools import partial

import attrs

from aistemsplitter_async._tasks import run_in_thread
from aistemsplitter_async.batch.preflight import Estimate, plan_wall_seconds
from aistemsplitter_async.cli.connect import connected
from aistemsplitter_async.cli.failures import Context, Exit, exit_code, explain
from aistemsplitter_async.cli.library import Library, Survey, check_track, measure_track
from aistemsplitter_async.cli.options import Common
from aistemsplitter_async.cli.places import default_journal
from aistemsplitter_async.cli.results import print_json
from aistemsplitter_async.cli.screen.render import columns, describe_repeated, price, quote, show, shown_source, words
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.config import RateLimit
from aistemsplitter_async.errors import AIStemSplitterError, ConfigurationError, UploadError
from aistemsplitter_async.library.found import Ignored, Repeated, Unusable

_PROCESSING = 60.0  # s that a split is assumed to take: compared with the limit it hardly matters


async def estimate_library(library: Library, common: Common, terminal: Terminal) -> int:
    """Show what splitting a library would cost, and return the exit code."""
    survey = Survey()
    try:
        async for track in library.tracks(await library.search(), partial(note_unusable, survey, terminal)):
            try:
                await check_track(track)
            except UploadError as error:
                survey.unusable += 1
                terminal.error(explain(error, Context(is_batch=True), source=shown_source(track.source)).message)
            else:
                survey.add(track, await measure_track(track, thorough=False))
        await print_estimate(survey, common, terminal)
        journal = default_journal(library.into)
        if await run_in_thread(journal.exists):
            again = f"batch --dry-run --into {quote(str(library.into))}"
            terminal.say(f"that is the price of all of it; what a journal has already is left out by: {again}")
    except AIStemSplitterError as error:
        terminal.error(explain(error, Context()).message)
        return exit_code(error)
    return Exit.FAILED if survey.unusable else Exit.DONE


def note_unusable(survey: Survey, terminal: Terminal, found: Unusable | Ignored | Repeated) -> None:
    """Count what was found and is no song, or was named again, and show what cannot be split."""
    if isinstance(found, Ignored):
        survey.ignored.note(found)
    elif isinstance(found, Repeated):
        survey.repeated += 1
    else:
        survey.unusable += 1
        terminal.error(show(f"{found.source}: {found.reason}"))


async def print_estimate(survey: Survey, common: Common, terminal: Terminal, *, left_out: int = 0) -> None:
    """Show what splitting the tracks of a survey would cost; `left_out` sources cost nothing.

    Raises:
        AIStemSplitterError: the options are invalid.
    """
    balance, reason = await _get_balance(common, terminal)
    estimate = build_estimate(survey, balance, common.rate_limit)
    for line in survey.ignored.lines():
        terminal.say(line)
    if survey.repeated:
        terminal.say(describe_repeated(survey.repeated))
    if common.json:
        extra = {"left_out": left_out, "repeated": survey.repeated}
        values = attrs.asdict(estimate) | {"ignored": survey.ignored.as_json()}
        print_json(values | {name: count for name, count in extra.items() if count}, terminal)
        return
    lines = _describe(estimate, survey, reason, common.rate_limit)
    if left_out:
        lines.insert(1, f"         and {left_out:,} that cost{'s' * (left_out == 1)} nothing")
    for line in lines:
        terminal.result(line)


async def _get_balance(common: Common, terminal: Terminal) -> tuple[float | None, str]:
    """Return the key's balance, or why it is not known: an estimate is useful without it."""
    try:
        async with connected(common, terminal) as client:
            return (await client.get_credits()).balance, ""
    except ConfigurationError as error:
        if error.code != "NO_API_KEY":
            raise
        return None, "not known without an API key"
    except AIStemSplitterError as error:
        return None, f"not known: {explain(error, Context()).message}"


def build_estimate(survey: Survey, balance: float | None, limit: RateLimit | None) -> Estimate:
    """Return the estimate for the tracks of a survey."""
    return Estimate(
        tracks=survey.tracks,
        unknown_tracks=survey.unknown,
        seconds=survey.seconds,
        credits=survey.credits_needed,
        credits_at_most=None if survey.unbounded else survey.credits_at_most,
        balance=None if balance is None else int(balance),
        missing=None if balance is None else max(0, round(survey.credits_needed - balance)),
        wall_seconds=plan_wall_seconds(limit, uploads=survey.files, urls=survey.urls, processing=_PROCESSING),
    )


def _describe(estimate: Estimate, survey: Survey, reason: str, limit: RateLimit | None) -> list[str]:
    more = f", and {estimate.unknown_tracks:,} of uncertain length" if estimate.unknown_tracks else ""
    limits = [limit, *limit.further] if limit is not None else []
    per = " and ".join(f"{one.requests:,} per {words(one.per)}" for one in limits[1:])
    at = f" at {limits[0].requests} requests per {words(limits[0].per)}{per and ' and '}{per}" if limits else ""
    time = "not known without --rate-limit"
    if estimate.wall_seconds is not None:
        time = f"about {words(estimate.wall_seconds)}{at}, if uploads and downloads keep up"
    rows = [
        ("tracks", f"{estimate.tracks:,} ({survey.files:,} files, {survey.urls:,} URLs)"),
        ("audio", f"{words(estimate.seconds)}{more}"),
        ("price", _describe_price(estimate)),
        ("balance", reason if estimate.balance is None else price(estimate.balance)),
        ("time", time),
    ]
    if estimate.missing:  # of what is known
        rows.insert(4, ("missing", f"{'at least ' if estimate.unknown_tracks else ''}{price(estimate.missing)}"))
    return columns(rows, indent="")


def _describe_price(estimate: Estimate) -> str:
    known = estimate.tracks - estimate.unknown_tracks
    if not estimate.unknown_tracks:
        figures = price(estimate.credits)
    elif estimate.credits_at_most is not None:
        least = f"at least {price(estimate.credits)}, " if known else ""
        figures = f"{least}at most {price(estimate.credits_at_most)}"
    elif known:
        figures = f"at least {price(estimate.credits)}"
    else:
        return "not known: one credit is one second of audio"
    return f"{figures} (the API decides the final price)"
