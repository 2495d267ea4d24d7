"""Carries out a request and applies the fault for it, if there is one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aistemsplitter_async.sandbox.faults.requests import Latency, Status
from aistemsplitter_async.sandbox.faults.rules import Faults, Injection, Rule
from aistemsplitter_async.sandbox.http.effects import build_status_reply, change_reply, replace_reply
from aistemsplitter_async.sandbox.http.refusals import RefusalError
from aistemsplitter_async.sandbox.http.replies import Reply, build_refusal_reply
from aistemsplitter_async.sandbox.service.errors import ServiceError
from aistemsplitter_async.sandbox.service.timeline import SandboxClock

Perform = Callable[[Injection], Awaitable[Reply]]


class Injector:
    """Takes faults from the queue and puts them into effect."""

    def __init__(self, faults: Faults, clock: SandboxClock) -> None:
        self._faults = faults
        self._clock = clock

    async def answer(
        self, operation: str, split_id: str | None, perform: Perform, *, flat: bool = False
    ) -> tuple[Reply, str | None]:
        """Return the reply to a request, and the name of the fault that changed it.

        Args:
            operation: What the request does, as fault rules call it.
            split_id: The split it is about, if known.
            perform: Carries out the operation; a refusal becomes a reply too.
            flat: Use the flat error envelope of upload worker and CDN.
        """
        rule = self._faults.take(operation, split_id)
        injection = Injection(rule)
        if rule is None:
            return await _carry_out(perform, injection, flat=flat), None
        delay = injection.use(Latency)
        if delay is not None:
            await self._clock.sleep(delay.seconds)
        reply = self._replace(rule, flat=flat)
        if reply is None:
            reply = await _carry_out(perform, injection, flat=flat)
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


async def _carry_out(perform: Perform, injection: Injection, *, flat: bool) -> Reply:
    try:
        return await perform(injection)
    except (RefusalError, ServiceError) as refusal:
        return build_refusal_reply(refusal, flat=flat)
