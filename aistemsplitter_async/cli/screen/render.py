"""Human text: sizes, times and lines. Pure, and safe to put on a terminal."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

PROGRAM = "aistemsplitter-async"
_STEP = 1000
_MINUTE = 60
_HOUR = 3600


def show(text: object) -> str:
    """Return `text` with everything a terminal would act on, or could not print, written out as an escape."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def size(count: float) -> str:
    """Return a byte count such as `3.4 MB`."""
    if count < _STEP:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= _STEP
        if count < _STEP - 0.5 or unit == "GB":
            break
    return f"{count:.1f} {unit}" if count < 99.95 else f"{count:.0f} {unit}"  # noqa: PLR2004  # three digits are enough


def share(done: int, total: int | None) -> str:
    """Return how much of a transfer is done, such as `3.4 of 12.0 MB`."""
    if total is None or done == total:
        return size(done)
    ours, all_of_it = size(done), size(total)
    number, unit = ours.split(" ")
    return f"{number if all_of_it.endswith(' ' + unit) else ours} of {all_of_it}"


def clock(seconds: float) -> str:
    """Return a length or an elapsed time as `0:07`, `3:22` or `1:02:03`."""
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, _HOUR)
    minutes, left = divmod(rest, _MINUTE)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def words(seconds: float) -> str:
    """Return a length in words of two units at most, such as `1 h 43 min` or `12 s`."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    big, small, names = (_HOUR, _MINUTE, ("h", "min")) if whole >= _HOUR else (_MINUTE, 1, ("min", "s"))
    count, rest = divmod(whole, big)
    return f"{count} {names[0]}" + (f" {rest // small} {names[1]}" if rest // small else "")


def number(value: float) -> str:
    """Return a number of credits, thousands apart: `6,200`, `12.5`."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def price(credits_used: float) -> str:
    """Return what a split cost, such as `214 credits`."""
    return f"{number(credits_used)} credit{'' if credits_used == 1 else 's'}"


def charged(credits_used: float, lost: float) -> str:
    """Return what was charged, and how much of that for splits that failed: whether those are refunded nobody says."""
    of_it = f", {number(lost)} of them for splits that failed" if lost else ""
    return f"{price(credits_used)} charged{of_it}"


def command(*words_of_it: object) -> str:
    """Return a command line of this program that can be pasted into a shell."""
    return " ".join((PROGRAM, *(shlex.quote(str(word)) for word in words_of_it)))


def columns(rows: Sequence[tuple[str, ...]], *, indent: str = "  ", gap: str = "  ") -> list[str]:
    """Return rows as lines whose columns line up."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        indent + gap.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


_KEY = re.compile(r"\bast_\w{6,}")


def hide_keys(text: str, key: str | None = None) -> str:
    """Return `text` without `key`, or without anything that looks like an API key if it is not known."""
    return text.replace(key, "ast_***") if key else _KEY.sub("ast_***", text)
