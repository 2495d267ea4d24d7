"""The base of all faults, and the checks of their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import attrs


def is_whole(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise `TypeError` unless the value is a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be a whole number")


def is_number(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise `TypeError` unless the value is a number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be a number")


def is_text(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise `TypeError` unless the value is text."""
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be text")


def is_flag(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Raise `TypeError` unless the value is true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be true or false")


def is_one_of(*known: str) -> Callable[[object, attrs.Attribute[Any], object], None]:
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
    """The base of all faults; `kind` names one in JSON, in text and in the ledger."""

    kind: ClassVar[str]
