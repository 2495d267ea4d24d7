"""Carries out a request under the fault that its turn brings, if any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aistemsplitter_async.sandbox.faults.requests import Latency, Status
from aistemsplitter_async.sandbox.faults.rules import Injection
from aistemsplitter_async.sandbox.http.effects import build_status_reply, change_reply, replace_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aistemsplitter_async.sandbox.faults.rules import Faults, Rule
    from aistemsplitter_async.sandbox.http.replies import Reply
    from aistemsplitter_async.sandbox.service.timeline import SandboxClock

    Perform = Callable[["Injection | None"], Awaitable[Reply]]


class Injector:
    """Takes faults from the queue and brings them about."""

    def __init__(self, faults: Faults, clock: SandboxClock) -> None:
        self._faults = faults
        self._clock = clock

    async def answer(
        self, operation: str, split_id: str | None, perform: Perform, *, flat: bool = False
    ) -> tuple[Reply, str | None]:
        """Return the reply of `perform` and the name of the fault that changed it.

        Args:
            operation: Whose turn it is.
            split_id: The split it is about, where known.
            perform: Carries out the operation; refusals are replies too.
            flat: Use the flat error envelope of upload worker and CDN.
        """
        rule = self._faults.take(operation, split_id)
        if rule is None:
            return await perform(None), None
        injection = Injection(rule)
        delay = injection.use(Latency)
        if delay is not None:
            await self._clock.sleep(delay.seconds)
        reply = self._replace(rule, flat=flat)
        if reply is None:
            reply = await perform(injection)
        else:
            injection.used = True
        for fault in rule.faults:
            changed = change_reply(fault, reply)
            if isinstance(fault, Status) and fault.effect:
                changed = build_status_reply(fault, flat=flat, now=self._clock.now())
            if changed is not None:
                reply, injection.used = changed, True
        if injection.used:
            return reply, rule.name
        self._faults.give_back(rule)
        return reply, None

    def _replace(self, rule: Rule, *, flat: bool) -> Reply | None:
        for fault in rule.faults:
            reply = replace_reply(fault, flat=flat, now=self._clock.now())
            if reply is not None:
                return reply
        return None
