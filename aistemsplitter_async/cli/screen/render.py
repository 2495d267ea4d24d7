"""Text for people: sizes, times, columns. Pure, and safe to write to a terminal."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence

from aistemsplitter_async._plain import printable_text
from aistemsplitter_async._wire.urls import is_url
from aistemsplitter_async.events import BoughtBefore
from aistemsplitter_async.models import redact_url

PROGRAM = "aistemsplitter-async"
_STEP = 1000
_MINUTE = 60
_HOUR = 3600
_JOINERS = "\u200c\u200d"


def show(text: object) -> str:
    """Return `text` with every character that a terminal would act on, or cannot print, written as an escape."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(character if _is_shown(character) else _escape(character) for character in text)


def _is_shown(character: str) -> bool:
    """Return whether it is shown as it is: for Python, neither joiners (of Persian, of emoji) nor wide spaces are."""
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    escaped = printable_text(character)
    return escaped if escaped != character else character.encode("unicode_escape").decode()


def shown_source(source: str) -> str:
    """Return a source that is safe to show: a URL without its query, which may be what grants access."""
    return redact_url(source) if is_url(source) else source


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
    part, whole = size(done), size(total)
    digits, unit = part.split(" ")
    return f"{digits if whole.endswith(' ' + unit) else part} of {whole}"


def clock(seconds: float) -> str:
    """Return a length or an elapsed time as `0:07`, `3:22` or `1:02:03`."""
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, _HOUR)
    minutes, left = divmod(rest, _MINUTE)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def words(seconds: float) -> str:
    """Return a length of time in at most two units, such as `1 h 43 min` or `12 s`."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    big, small, names = (_HOUR, _MINUTE, ("h", "min")) if whole >= _HOUR else (_MINUTE, 1, ("min", "s"))
    count, rest = divmod(whole, big)
    return f"{count} {names[0]}" + (f" {rest // small} {names[1]}" if rest // small else "")


def number(value: float) -> str:
    """Return a number with thousands separators, such as `6,200` or `12.50`."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def price(credits_used: float) -> str:
    """Return the price of a split, such as `214 credits`."""
    return f"{number(credits_used)} credit{'' if credits_used == 1 else 's'}"


def describe_again(event: BoughtBefore) -> str:
    """Return the notice about the first of the songs that are bought again with other options."""
    return show(
        f"{event.source} was split before ({event.split_id}), and {describe_delivered(event.delivered)}; "
        f"{_spaced(event.asked)} is asked for now, so it is bought again, and so are others like it"
    )


def describe_delivered(variant: str) -> str:
    """Return a model and a format with `/` between them in words."""
    return f"delivered as {_spaced(variant) or 'something unknown'}"


def _spaced(variant: str) -> str:
    return " ".join(filter(None, variant.split("/")))


def describe_without_price(count: int) -> str:
    """Return the notice about sources that may cost more than is allowed."""
    return (
        f"{number(count)} not split because of a length that is not certain: convert files and download URLs, or run "
        "without --max-credits"
    )


def describe_repeated(count: int) -> str:
    """Return the notice about songs that were named more than once."""
    return f"{number(count)} named again: the same file under any name is one song"


def charged(credits_used: float, lost: float, by_all: float | None = None) -> str:
    """Return the credits charged, and how many of them for splits that failed: the API does not document refunds.

    Workers that may spend so much together also see what was charged to all of them.
    """
    failed = f", {number(lost)} of them for splits that failed" if lost else ""
    together = "" if by_all is None else f" ({number(by_all)} to all workers)"
    return f"{price(credits_used)} charged{failed}{together}"


def command(*arguments: object) -> str:
    """Return a command line of this program that can be pasted into a shell, and shown on a terminal."""
    return " ".join((PROGRAM, *(quote(str(argument)) for argument in arguments)))


def quote(word: str) -> str:
    """Return a word for a shell: as `shlex.quote` does, or as `$'..'` where it holds what a terminal would act on.

    A name that is not UTF-8 comes back as the bytes that it is.
    """
    if all(map(_is_shown, word)):
        return shlex.quote(word)
    return "$'" + "".join(map(_escape_in_quotes, word)) + "'"


def _escape_in_quotes(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if _is_shown(character):
        return character
    is_byte = "\udc80" <= character <= "\udcff"  # of a name that is not UTF-8
    data = character.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in data)


def given_options(options: Mapping[str, object]) -> list[str]:
    """Return the options that have a value, or several in a list, as the words of a command line."""
    return [
        word
        for name, value in options.items()
        if value is not None
        for one in (value if isinstance(value, list) else [value])
        for word in (name, str(one))
    ]


def columns(rows: Sequence[tuple[str, ...]], *, indent: str = "  ", gap: str = "  ") -> list[str]:
    """Return rows as lines with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        indent + gap.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


_KEY = re.compile(r"\bast_\w{6,}")


def hide_keys(text: str, key: str | None = None) -> str:
    """Return `text` with `key` masked, or with everything that looks like an API key masked if none is given."""
    return text.replace(key, "ast_***") if key else _KEY.sub("ast_***", text)


# Of a database. Up to the last @: a password that was not escaped may have one in it.
_PASSWORD = re.compile(
    r"(\b(?:postgres(?:ql)?|rediss?|valkeys?|unix)://[^\s/:@]*):\S*@|([?&](?:ssl)?password=)[^&\s'\"]*"
)


def hide_passwords(text: str) -> str:
    """Return `text` without the passwords in URLs of databases."""
    return _PASSWORD.sub(lambda found: f"{found[1]}:***@" if found[1] is not None else f"{found[2]}***", text)
