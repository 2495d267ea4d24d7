"""Webhooks: whoever asked to be told of a split's end is told, again and again until the answer is 2xx.

What is owed is written down together with the end of the split, so that a sandbox that is killed goes on with it. An
attempt may then be made twice: receivers have to expect that of any sender.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from aistemsplitter_async.sandbox.faults.webhooks import Duplicated, Forged, Late, Lost, OutOfOrder, Stale
from aistemsplitter_async.sandbox.http.fetch import open_session, vet_url
from aistemsplitter_async.sandbox.http.signing import build_webhook_signature
from aistemsplitter_async.sandbox.http.wire import build_webhook
from aistemsplitter_async.sandbox.service.ledger import DeliveryRecord
from aistemsplitter_async.sandbox.service.requests import RefusalError
from aistemsplitter_async.sandbox.service.state import Attempt, Delivery, DeliveryState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aistemsplitter_async.sandbox.faults.rules import Faults, Rule
    from aistemsplitter_async.sandbox.service.account import Account
    from aistemsplitter_async.sandbox.service.ledger import Ledger
    from aistemsplitter_async.sandbox.service.limits import Limits
    from aistemsplitter_async.sandbox.service.persistence import Store
    from aistemsplitter_async.sandbox.service.splits import Splits
    from aistemsplitter_async.sandbox.service.state import Split
    from aistemsplitter_async.sandbox.service.timeline import SandboxClock, Timeline

_NO_ANSWER = 0
_OK = range(200, 300)


class Deliveries:
    """Delivers the webhooks of all splits."""

    def __init__(
        self,
        *,
        clock: SandboxClock,
        timeline: Timeline,
        accounts: Mapping[str, Account],
        splits: Splits,
        faults: Faults,
        ledger: Ledger,
        store: Store,
        limits: Limits,
        allow_private: bool,
    ) -> None:
        self._clock = clock
        self._timeline = timeline
        self._accounts = accounts
        self._splits = splits
        self._faults = faults
        self._ledger = ledger
        self._store = store
        self._limits = limits
        self._allow_private = allow_private
        self._session: aiohttp.ClientSession | None = None
        self._connections = asyncio.Semaphore(limits.webhook_connections)
        self._tasks: set[asyncio.Task[None]] = set()
        self._delivered = asyncio.Event()

    def announce(self, split: Split) -> None:
        """Begin, or go on, to tell of a finished split, if that is owed."""
        if split.delivery is not None and split.delivery.state is DeliveryState.PENDING:
            task = asyncio.get_running_loop().create_task(self._attempt(split, split.delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Stop; what is still owed stays owed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _attempt(self, split: Split, delivery: Delivery) -> None:
        rule = self._faults.take("webhook", split.id)
        if rule is not None and rule.find(Lost):
            self._note(split, delivery, Attempt(self._clock.now(), _NO_ANSWER, rule.name), DeliveryState.LOST)
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
        self._note(split, delivery, attempt, state)

    async def _hold_back(self, rule: Rule) -> None:
        """Wait as long as the faults say."""
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
                for wait in waits:
                    wait.cancel()

    async def _send(self, split: Split, rule: Rule | None) -> Attempt:
        """Send the event, several times where a fault says so; any 2xx will do."""
        copies, secret, now = 1, self._accounts[split.account].webhook_secret, self._clock.now()
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
        """Return the status of the answer, and the trouble where there was none."""
        if self._session is None:
            self._session = open_session(allow_private=self._allow_private)
        try:
            vet_url(url, allow_private=self._allow_private, field="webhookUrl")
            async with (
                self._connections,
                asyncio.timeout(self._limits.webhook_timeout),
                self._session.post(url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                return response.status, ""
        except RefusalError as refusal:
            return _NO_ANSWER, refusal.message
        except TimeoutError:
            return _NO_ANSWER, f"No answer within {self._limits.webhook_timeout:g} s."
        except (aiohttp.ClientError, ValueError):
            return _NO_ANSWER, "The connection failed."

    def _note(self, split: Split, delivery: Delivery, attempt: Attempt, state: DeliveryState) -> None:
        """Write an attempt down, and plan the next one if there is to be one."""
        self._ledger.add_delivery(DeliveryRecord(attempt.at, split.id, attempt.status, attempt.note))
        if self._splits.find(split.id) is not split:
            return  # forgotten meanwhile
        delivery.attempts += (attempt,)
        delivery.state = state
        self._store.save(split)
        if state is DeliveryState.DELIVERED:
            self._delivered.set()
            self._delivered = asyncio.Event()
        elif state is DeliveryState.PENDING:
            wait = self._limits.webhook_backoff * 2.0 ** (len(delivery.attempts) - 1)
            due = self._clock.monotonic() + min(wait, self._limits.webhook_backoff_cap)
            self._timeline.at(due, lambda _: self.announce(split))
