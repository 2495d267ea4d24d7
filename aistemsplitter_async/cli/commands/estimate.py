"""`estimate`: what a library would cost, before anything is spent."""

from __future__ import annotations

import json

import attrs

from aistemsplitter_async.batch.preflight import Estimate, estimate
from aistemsplitter_async.cli.connect import connected
from aistemsplitter_async.cli.failures import Exit, Place, exit_code, explain
from aistemsplitter_async.cli.library import Library, Survey, read
from aistemsplitter_async.cli.options import Common
from aistemsplitter_async.cli.screen.render import columns, price, show, words
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.config import RateLimit
from aistemsplitter_async.errors import AIStemSplitterError, ConfigurationError
from aistemsplitter_async.library.found import Track, Unusable

_PROCESSING = 60.0  # s a split may take where nothing is known: it hardly matters beside the limit


async def estimate_library(library: Library, common: Common, terminal: Terminal) -> int:
    """Show what splitting a library would cost; return the exit code."""
    survey, problems = Survey(), 0
    try:
        async for one in library.each(await library.search()):
            if isinstance(one, Track):
                survey.add(one, (await read(one)).seconds)
            elif isinstance(one, Unusable):
                problems += 1
                terminal.error(show(f"{one.source}: {one.reason}"))
        await tell_estimate(survey, common, terminal)
    except AIStemSplitterError as error:
        terminal.error(explain(error, Place()).message)
        return exit_code(error)
    return Exit.FAILED if problems else Exit.DONE


async def tell_estimate(survey: Survey, common: Common, terminal: Terminal, *, left_out: int = 0) -> None:
    """Show what splitting what was counted would cost; `left_out` sources cost nothing any more.

    Raises:
        AIStemSplitterError: the options cannot be right.
    """
    balance, reason = await _balance(common, terminal)
    told = _estimate(survey, balance, common.rate_limit)
    if common.json:
        terminal.result(json.dumps(attrs.asdict(told) | ({"left_out": left_out} if left_out else {})))
        return
    lines = _describe(told, survey, reason, common.rate_limit)
    if left_out:
        lines.insert(1, f"         and {left_out:,} that {'is' if left_out == 1 else 'are'} not to be paid")
    for line in lines:
        terminal.result(line)


async def _balance(common: Common, terminal: Terminal) -> tuple[float | None, str]:
    """Return the key's balance, or why it is not known: an estimate is worth something without it."""
    try:
        async with connected(common, terminal) as client:
            return (await client.get_credits()).balance, ""
    except ConfigurationError as error:
        if error.code != "NO_API_KEY":
            raise
        return None, "not known without an API key"
    except AIStemSplitterError as error:
        return None, f"not known: {explain(error, Place()).message}"


def _estimate(survey: Survey, balance: float | None, limit: RateLimit | None) -> Estimate:
    told = estimate((), uploads=survey.files, urls=survey.urls, processing=_PROCESSING, limit=limit)
    missing = None if balance is None else max(0, round(survey.credits_needed - balance))
    return attrs.evolve(
        told,
        tracks=survey.tracks,
        unknown_tracks=survey.unknown,
        seconds=survey.seconds,
        credits=survey.credits_needed,
        balance=None if balance is None else int(balance),
        missing=missing,
    )


def _describe(told: Estimate, survey: Survey, reason: str, limit: RateLimit | None) -> list[str]:
    more = f", and {told.unknown_tracks:,} that do not say how long they are" if told.unknown_tracks else ""
    wall = f"about {words(told.wall_seconds)}" if told.wall_seconds is not None else "give --rate-limit to know"
    at = f" at {limit.requests} requests per {words(limit.per)}" if limit is not None else ""
    rows = [
        ("tracks", f"{told.tracks:,} ({survey.files:,} files, {survey.urls:,} URLs)"),
        ("audio", f"{words(told.seconds)}{more}"),
        ("price", _tell_price(told)),
        ("balance", reason if told.balance is None else price(told.balance)),
        ("time", f"{wall}{at if told.wall_seconds is not None else ''}, uploads and downloads permitting"),
    ]
    if told.missing:  # of what is known
        rows.insert(4, ("missing", f"{'at least ' if told.unknown_tracks else ''}{price(told.missing)}"))
    return columns(rows, indent="")


def _tell_price(told: Estimate) -> str:
    if told.tracks and told.unknown_tracks == told.tracks:
        return "not known: one credit is one second of audio"
    least = "at least " if told.unknown_tracks else ""
    return f"{least}{price(told.credits)} (the service's own figure decides)"
