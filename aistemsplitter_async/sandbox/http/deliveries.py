"""Webhooks: the end of a split is sent to the URL its create named, repeatedly until the answer is 2xx.

A pending delivery is saved together with the end of the split, so that a sandbox that was killed continues with it. An
attempt may then be made twice: receivers have to expect that from any sender.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp

from aistemsplitter_async._tasks import cancel_and_wait
from aistemsplitter_async.sandbox.faults.rules import Faults, Rule
from aistemsplitter_async.sandbox.faults.webhooks import Duplicated, Forged, Late, Lost, OutOfOrder, Stale
from aistemsplitter_async.sandbox.http.encode import build_webhook
from aistemsplitter_async.sandbox.http.fetch import open_session, vet_url
from aistemsplitter_async.sandbox.http.signing import build_webhook_signature
from aistemsplitter_async.sandbox.service.errors import InvalidRequestError
from aistemsplitter_async.sandbox.service.ledger import DeliveryRecord
from aistemsplitter_async.sandbox.service.service import Service
from aistemsplitter_async.sandbox.service.state import Attempt, Delivery, DeliveryState, Split

_NO_ANSWER = 0
_OK = range(200, 300)


class Deliveries:
    """Delivers the webhooks of all splits."""

    def __init__(self, service: Service, faults: Faults, *, allow_private: bool) -> None:
        self._service = service
        self._clock = service.clock
        self._limits = service.settings.limits
        self._faults = faults
        self._allow_private = allow_private
        self._session: aiohttp.ClientSession | None = None
        self._connections = asyncio.Semaphore(self._limits.webhook_connections)
        self._tasks: set[asyncio.Task[None]] = set()
        self._delivered = asyncio.Event()
        self._closed = False

    def announce(self, split: Split) -> None:
        """Make the next attempt to deliver a finished split's webhook, if one is pending."""
        if split.delivery is not None and split.delivery.state is DeliveryState.PENDING and not self._closed:
            task = asyncio.get_running_loop().create_task(self._attempt(split, split.delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Stop. What is pending stays pending, for a later run with the same data folder."""
        self._closed = True
        await cancel_and_wait(*self._tasks)
        if self._session is not None:
            await self._session.close()

    async def _attempt(self, split: Split, delivery: Delivery) -> None:
        rule = self._faults.take("webhook", split.id)
        if rule is not None and rule.find(Lost):
            self._enter(split, Attempt(self._clock.now(), _NO_ANSWER, rule.name), DeliveryState.LOST)
            return
        if rule is not None:
            await self._hold_back(rule)
        attempt = await self._send(split, rule)
        if attempt.status in _OK:
            state = DeliveryState.DELIVERED
        elif len(delivery.attempts) + 1 < self._limits.webhook_attempts:
            state = DeliveryState.PENDING
        else:
            state = DeliveryState.GIVEN_UP
        self._enter(split, attempt, state)

    async def _hold_back(self, rule: Rule) -> None:
        """Wait as long as the rule's faults ask for."""
        late, out_of_order = rule.find(Late), rule.find(OutOfOrder)
        if late is not None:
            await self._clock.sleep(late.seconds)
        if out_of_order is not None:
            waits = [
                asyncio.ensure_future(self._delivered.wait()),
                asyncio.ensure_future(self._clock.sleep(out_of_order.seconds)),
            ]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel_and_wait(*waits)

    async def _send(self, split: Split, rule: Rule | None) -> Attempt:
        """Send the event, several times if a fault says so; one 2xx is enough."""
        copies, now = 1, self._clock.now()
        secret = self._service.accounts_by_label[split.account].webhook_secret
        if rule is not None:
            duplicated, stale = rule.find(Duplicated), rule.find(Stale)
            copies += duplicated.copies if duplicated else 0
            now -= stale.seconds if stale else 0.0
            secret = f"not {secret}" if rule.find(Forged) else secret
        body = build_webhook(split)
        headers = {
            "Content-Type": "application/json",
            "AIStemSplitter-Signature": build_webhook_signature(body, int(now), secret.encode()),
        }
        answers = await asyncio.gather(*(self._post(str(split.webhook_url), body, headers) for _ in range(copies)))
        status, trouble = next((answer for answer in answers if answer[0] in _OK), answers[0])
        return Attempt(self._clock.now(), status, rule.name if rule is not None else trouble)

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        """Return the status of the answer, or why there was none."""
        if self._session is None:
            self._session = open_session(allow_private=self._allow_private)
        try:
            vetted = vet_url(url, allow_private=self._allow_private, field="webhookUrl")
            async with (
                self._connections,
                asyncio.timeout(self._limits.webhook_timeout),
                self._session.post(vetted, data=body, headers=headers, allow_redirects=False) as response,
            ):
                return response.status, ""
        except InvalidRequestError as refusal:
            return _NO_ANSWER, str(refusal)
        except TimeoutError:
            return _NO_ANSWER, f"No answer within {self._limits.webhook_timeout:g} s."
        except (aiohttp.ClientError, ValueError):
            return _NO_ANSWER, "The connection failed."

    def _enter(self, split: Split, attempt: Attempt, state: DeliveryState) -> None:
        """Save an attempt, and schedule the next one if there is to be one."""
        service = self._service
        service.ledger.add_delivery(DeliveryRecord(attempt.at, split.id, attempt.status, attempt.note))
        attempts = service.splits.add_attempt(split, attempt, state)
        if not attempts:
            return  # the split has been forgotten since
        if state is DeliveryState.DELIVERED:
            self._delivered.set()
            self._delivered = asyncio.Event()
        elif state is DeliveryState.PENDING:
            wait = self._limits.webhook_backoff * 2.0 ** (attempts - 1)
            due = self._clock.monotonic() + min(wait, self._limits.webhook_backoff_cap)
            service.timeline.at(due, lambda _: self.announce(split))
