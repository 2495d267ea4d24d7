"""A queue of rules that decide which request gets which fault, and counts that prove each was consumed.

A request takes the first rule that matches it and no other, so queued rules take effect one after the other. If a rule
has several faults, all of them apply to the same request.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any, Final, Literal, TypeVar

import attrs

from aistemsplitter_async.sandbox.faults.base import Fault
from aistemsplitter_async.sandbox.faults.requests import KINDS, build_fault
from aistemsplitter_async.sandbox.faults.webhooks import OF_WEBHOOKS

OPERATIONS: Final = ("credits", "reserve", "upload", "create", "get", "download", "webhook", "any")
_OUTBOUND: Final = "webhook"  # not a request to the sandbox, so `any` does not include it
_ALWAYS: Final = "always"
_RULE_NAMES: Final = ("times", "calls", "probability", "split_id")
_F = TypeVar("_F", bound=Fault)


@attrs.define(eq=False, kw_only=True)
class Rule:
    """One entry of the queue; `Faults.add` describes its arguments."""

    id: int
    operation: str
    faults: tuple[Fault, ...]
    times: int | None
    calls: frozenset[int] | None
    probability: float | None
    split_id: str | None
    seen: int = 0
    """Requests for its operation and split since it was added."""
    consumed: int = 0
    """Requests that it changed."""

    def __attrs_post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise ValueError(f"operation must be one of {', '.join(OPERATIONS)}")
        if not self.faults or not all(isinstance(fault, Fault) for fault in self.faults):
            raise ValueError("a rule needs at least one fault")
        if any((type(fault) in OF_WEBHOOKS) != (self.operation == _OUTBOUND) for fault in self.faults):
            kinds = ", ".join(kind.kind for kind in OF_WEBHOOKS)
            raise ValueError(f"operation webhook takes the faults {kinds}, and they take no other operation")
        numbers = [*(self.calls or ()), *(() if self.times is None else (self.times,))]
        if not all(isinstance(number, int) and number > 0 for number in numbers):
            raise ValueError("times and calls must be whole numbers from 1 on")
        if self.probability is not None and not (_is_number(self.probability) and 0 <= self.probability <= 1):
            raise ValueError("probability must be between 0 and 1")

    @property
    def name(self) -> str:
        """The kinds of its faults, as the ledger records them."""
        return "+".join(fault.kind for fault in self.faults)

    @property
    def exhausted(self) -> bool:
        """Whether it cannot apply any more."""
        if self.times is not None and self.consumed >= self.times:
            return True
        return self.calls is not None and self.seen >= max(self.calls, default=0)

    def find(self, kind: type[_F]) -> _F | None:
        """Return its fault of one kind."""
        return next((fault for fault in self.faults if isinstance(fault, kind)), None)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return attrs.asdict(self, recurse=False) | {
            "faults": [{"kind": fault.kind, **attrs.asdict(fault)} for fault in self.faults],
            "calls": None if self.calls is None else sorted(self.calls),
            "exhausted": self.exhausted,
        }


class Faults:
    """The queue of rules. `seed` makes probabilities repeatable."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = Random(seed)  # noqa: S311  chance, not secrets
        self._rules: list[Rule] = []
        self._added = 0

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule that was added and not removed, consumed or not."""
        return tuple(self._rules)

    @property
    def unconsumed(self) -> tuple[Rule, ...]:
        """Rules that have not changed any request yet; a test asserts that there are none: every fault took effect."""
        return tuple(rule for rule in self._rules if not rule.consumed)

    def add(
        self,
        operation: str,
        *faults: Fault,
        times: int | Literal["always"] | None = None,
        calls: int | Iterable[int] | None = None,
        probability: float | None = None,
        split_id: str | None = None,
    ) -> Rule:
        """Queue faults and return the rule, whose `consumed` counts the requests it changed.

        Args:
            operation: `credits`, `reserve`, `upload`, `create`, `get`, `download`, `webhook`, or `any` request.
            faults: All of them apply to the same request.
            times: How often at most. By default once, or as often as `calls` or `probability` say.
            calls: Only these requests for the operation; the next one is 1.
            probability: Chance for each request, 0 to 1.
            split_id: Only requests about this split (`get`, `download`, `webhook`).

        Raises:
            ValueError: An argument is out of its range.
        """
        self._added += 1
        if times is None:
            times = 1 if calls is None and probability is None else _ALWAYS
        try:
            rule = Rule(
                id=self._added,
                operation=operation,
                faults=faults,
                times=None if times == _ALWAYS else times,
                calls=None if calls is None else frozenset((calls,) if isinstance(calls, int) else calls),
                probability=probability,
                split_id=split_id,
            )
        except TypeError as error:
            raise ValueError(f"bad fault rule: {error.args[0]}") from None
        self._rules.append(rule)
        return rule

    def add_dict(self, values: Mapping[str, Any]) -> Rule:
        """Queue a rule given as JSON: `operation`, `faults` (each with `kind`), and the other arguments of `add`.

        Raises:
            ValueError: Something in it is missing, unknown or out of range.
        """
        unknown = set(values) - {"operation", "faults", *_RULE_NAMES}
        if unknown:
            raise ValueError(f"a fault rule has no {', '.join(sorted(unknown))}")
        listed = values.get("faults")
        if not isinstance(listed, list) or not all(isinstance(one, dict) and "kind" in one for one in listed):
            raise ValueError("faults must be a list of objects with a kind")
        return self.add(
            str(values.get("operation", "")),
            *(build_fault(**one) for one in listed),
            **{name: values[name] for name in _RULE_NAMES if values.get(name) is not None},
        )

    def add_text(self, text: str) -> Rule:
        """Queue a rule in the form of the command line, `OPERATION:KIND[:NAME=VALUE,...]`.

        Names are those of the fault's attributes and of `add`; several calls are joined with `+`:
        `create:status:status=503,retry_after=2,times=3`, `get:latency:seconds=2,probability=0.1`,
        `download:reset:calls=1+3`.

        Raises:
            ValueError: The text has another form, or something in it is unknown or out of range.
        """
        operation, _, rest = text.partition(":")
        kind, _, listed = rest.partition(":")
        if not kind:
            raise ValueError("write it like OPERATION:KIND or OPERATION:KIND:NAME=VALUE,NAME=VALUE")
        values: dict[str, Any] = {}
        for pair in filter(None, listed.split(",")):
            name, equals, value = pair.partition("=")
            if not equals:
                raise ValueError(f"{pair!r} is not NAME=VALUE")
            name = name.strip()
            values[name] = value if _is_text(kind, name) else _parse_value(value)
        options = {name: values.pop(name) for name in _RULE_NAMES if name in values}
        if isinstance(calls := options.get("calls"), str):
            options["calls"] = [_parse_value(part) for part in calls.split("+")]
        return self.add(operation, build_fault(kind, **values), **options)

    def remove(self, rule_id: int) -> bool:
        """Remove a rule; return whether there was one."""
        kept = [rule for rule in self._rules if rule.id != rule_id]
        found, self._rules = len(kept) < len(self._rules), kept
        return found

    def clear(self) -> None:
        """Remove every rule."""
        self._rules = []

    def take(self, operation: str, split_id: str | None = None) -> Rule | None:
        """Return the rule that applies to this request, counted as consumed, or `None`."""
        taken: Rule | None = None
        for rule in self._rules:
            if rule.exhausted or rule.operation not in (operation, "any" if operation != _OUTBOUND else operation):
                continue
            if rule.split_id is not None and rule.split_id != split_id:
                continue
            rule.seen += 1
            if taken is None and self._applies(rule):
                rule.consumed += 1
                taken = rule
        return taken

    def give_back(self, rule: Rule) -> None:
        """Undo `take`: the rule's faults could not change the request."""
        rule.consumed -= 1

    def _applies(self, rule: Rule) -> bool:
        if rule.calls is not None and rule.seen not in rule.calls:
            return False
        return rule.probability is None or self._random.random() < rule.probability


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_text(kind: str, name: str) -> bool:
    """Return whether the value of this name is always text: a header's value may be `1`."""
    field = attrs.fields_dict(KINDS[kind]).get(name) if kind in KINDS else None
    return name == "split_id" if field is None else str(field.type) in ("str", "tuple[str, ...]")


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class Injection:
    """The faults of one request, from the rule that applies to it, if any. An operation uses those that concern it."""

    def __init__(self, rule: Rule | None = None) -> None:
        self._rule = rule
        self.used: bool = False

    def use(self, kind: type[_F]) -> _F | None:
        """Return the fault of this kind, which then counts as consumed, or `None`."""
        fault = None if self._rule is None else self._rule.find(kind)
        self.used = self.used or fault is not None
        return fault
