"""The base of all faults, and the checks of their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import attrs

Check = Callable[[object, "attrs.Attribute[Any]", object], None]


def _is(expected: str, *types: type) -> Check:
    """Return a check that raises `TypeError` for a value of another type; true and false do not count as numbers."""

    def check(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise TypeError(f"{attribute.name} must be {expected}")

    return check


is_whole: Check = _is("a whole number", int)
is_number: Check = _is("a number", int, float)
is_text: Check = _is("text", str)
is_flag: Check = _is("true or false", bool)


def is_header_text(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise for anything that cannot be sent in a line of a header."""
    is_text(instance, attribute, value)
    if not str(value).isprintable():
        raise ValueError(f"{attribute.name} must be printable")


def is_retry_after(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise for anything but a number or a header's text."""
    (is_header_text if isinstance(value, str) else is_number)(instance, attribute, value)


def is_one_of(*known: str) -> Check:
    """Return a check that raises `ValueError` for any other value."""

    def check(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in known:
            raise ValueError(f"{attribute.name} must be one of {', '.join(known)}")

    return check


def to_tuple(values: str | Iterable[str]) -> tuple[str, ...]:
    """Return several texts, or one, as a tuple."""
    return (values,) if isinstance(values, str) else tuple(values)


@attrs.frozen
class Fault:
    """The base of all faults; `kind` names one in JSON, in text and in the ledger: its class's name in snake case."""

    kind: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()
