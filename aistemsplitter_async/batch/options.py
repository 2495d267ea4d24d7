"""The options of a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import attrs

from aistemsplitter_async._transfer.selection import ALL_STEMS, Selection
from aistemsplitter_async.config import DOWNLOADS, KEY_AGE, PARK, UPLOADS
from aistemsplitter_async.errors import ConfigurationError

if TYPE_CHECKING:
    from aistemsplitter_async._gate.lanes import Priority
    from aistemsplitter_async._transfer.selection import Mixes, StemNames
    from aistemsplitter_async.journal.record import Changed, RetryFailed, Variant
    from aistemsplitter_async.models import OutputFormat, StemModel


def _at_least_one(_: object, attribute: attrs.Attribute[int], value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigurationError(f"{attribute.name} must be at least 1, not {value}")


def _not_negative(_: object, attribute: attrs.Attribute[float], value: float | None) -> None:
    if value is not None and not value >= 0:  # nor NaN
        raise ConfigurationError(f"{attribute.name} must be at least 0, not {value:g}")


def _one_of(*allowed: str) -> Callable[[object, attrs.Attribute[str], str], None]:
    def check(_: object, attribute: attrs.Attribute[str], value: str) -> None:
        if value not in allowed:
            raise ConfigurationError(f"{attribute.name} must be one of {', '.join(allowed)}, not {value!r}")

    return check


def _possible_of_model(options: BatchOptions, _: attrs.Attribute[Selection], value: Selection) -> None:
    value.check_model(options.stem_model)


class BatchKeywords(TypedDict, total=False):
    """The options of `AsyncAIStemSplitter.split_many`, without its folder and its journal, as others pass them on."""

    stem_model: StemModel | None
    output_format: OutputFormat | None
    stems: StemNames | None
    mixes: Mixes | None
    in_flight: int | None
    uploads: int
    downloads: int
    dedupe: bool
    priority: Priority
    max_credits: float | None
    webhook_url: str | None
    key_age: float
    patience: float
    retry_failed: RetryFailed
    overwrite: bool
    changed: Changed
    new_key: bool
    resend: bool


@attrs.frozen(kw_only=True)
class BatchOptions:
    """The options of a batch; see `AsyncAIStemSplitter.split_many`."""

    into: Path | None = None
    stem_model: StemModel | None = None
    output_format: OutputFormat | None = None
    selection: Selection = attrs.field(default=ALL_STEMS, validator=_possible_of_model)
    webhook_url: str | None = None
    in_flight: int | None = attrs.field(default=None, validator=_at_least_one)
    uploads: int = attrs.field(default=UPLOADS, validator=_at_least_one)
    downloads: int = attrs.field(default=DOWNLOADS, validator=_at_least_one)
    dedupe: bool = True
    priority: Priority = "bulk"
    max_credits: float | None = attrs.field(default=None, validator=_not_negative)
    key_age: float = KEY_AGE
    retry_failed: RetryFailed = False
    new_key: bool = False
    resend: bool = False
    patience: float = PARK
    overwrite: bool = False
    changed: Changed = attrs.field(default="refuse", validator=_one_of("refuse", "same", "new"))

    @property
    def variant(self) -> Variant:
        """The model and format asked of every source."""
        from aistemsplitter_async.journal.record import Variant  # noqa: PLC0415  # options are made before it is loaded

        return Variant(self.stem_model, self.output_format)
