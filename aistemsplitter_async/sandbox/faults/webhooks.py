"""Faults of webhooks, for the operation `webhook`: each changes one attempt to deliver an event.

A refused attempt is repeated, so a forged or stale event is followed by the genuine one.
"""

from __future__ import annotations

from typing import Final

import attrs
from attrs.validators import ge, gt

from aistemsplitter_async.sandbox.faults.base import Fault, is_number, is_whole


@attrs.frozen
class Lost(Fault):
    """Webhook: the event never arrives, and is not sent again."""


@attrs.frozen
class Duplicated(Fault):
    """Webhook: `copies` more of the event arrive, all at the same time."""

    copies: int = attrs.field(default=1, validator=[is_whole, gt(0)])


@attrs.frozen
class OutOfOrder(Fault):
    """Webhook: the event is held back until a later one was delivered, but at most for `seconds`."""

    seconds: float = attrs.field(default=5.0, validator=[is_number, ge(0)])


@attrs.frozen
class Late(Fault):
    """Webhook: the event is signed and sent `seconds` later."""

    seconds: float = attrs.field(default=5.0, validator=[is_number, ge(0)])


@attrs.frozen
class Forged(Fault):
    """Webhook: the event is signed with a secret that is not the key's."""


@attrs.frozen
class Stale(Fault):
    """Webhook: the event was signed `seconds` ago; a negative number is in the future."""

    seconds: float = attrs.field(default=600.0, validator=is_number)


OF_WEBHOOKS: Final[tuple[type[Fault], ...]] = (Lost, Duplicated, OutOfOrder, Late, Forged, Stale)
