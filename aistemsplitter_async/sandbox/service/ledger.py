"""A record for tests to read: requests, charges, uploads, polls, and API keys sent to the wrong origin.

Memory is bounded: of each kind the newest `capacity` records are kept; counts are always exact. A request's record
takes about 200 bytes, so 100,000 of them are about 20 MB.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import Any, TypeVar

import attrs

from aistemsplitter_async.sandbox.service.state import Split
from aistemsplitter_async.sandbox.service.timeline import format_timestamp

_BODIES_TOLD_APART = 16
_LEAKS_KEPT = 1000
_R = TypeVar("_R")


@attrs.frozen
class RequestRecord:
    """One request as it was answered."""

    at: float
    """POSIX seconds of the sandbox's clock."""
    operation: str
    """`credits`, `reserve`, `upload`, `create`, `get`, `download`, or `unknown`."""
    status: int
    """HTTP status of the answer; 0 if the connection was cut instead."""
    account: str | None = None
    split_id: str | None = None
    fault: str | None = None
    """Kind of the injected fault that changed the answer."""
    stem: str | None = None
    """The stem that was asked for, of a `download`."""
    sent_bytes: int = 0
    """Bytes of it in the answer; a client that goes away receives fewer."""


@attrs.define
class Charge:
    """The cost of one idempotency key, or of one request without any."""

    account: str
    idempotency_key: str | None
    split_id: str
    credits: int
    at: float
    refunded: int = 0
    requests: int = 1
    """Create requests answered with this split, replays included."""
    bodies: tuple[str, ...] = ()
    """SHA-256 of each distinct raw body; more than one means that a replay was not byte for byte."""


@attrs.frozen
class UploadRecord:
    """A file that was uploaded."""

    at: float
    account: str
    upload_id: str
    filename: str
    size_bytes: int
    sha256: str


@attrs.frozen
class DeliveryRecord:
    """One attempt to deliver a webhook."""

    at: float
    split_id: str
    status: int
    """HTTP status of the answer; 0 if none came."""
    note: str
    """Kinds of the injected faults, or why there was no answer."""


@attrs.frozen
class LeakedKey:
    """A bearer key that reached an origin other than the API. Its value is not kept."""

    at: float
    origin: str
    """`worker` or `cdn`."""
    where: str
    """Name of the header, or `url`."""


@attrs.frozen
class SplitView:
    """The polls of a split, and the delay until one saw its end."""

    split_id: str
    status: str
    polls: int
    finished_at: float | None
    first_seen_at: float | None

    @property
    def lag(self) -> float | None:
        """Seconds from the end of the split to the first poll that saw it; `None` if none did."""
        if self.finished_at is None or self.first_seen_at is None:
            return None
        return self.first_seen_at - self.finished_at


class Ledger:
    """The sandbox's records. They may be read from any thread: every answer is a copy, made in one step."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._requests: deque[RequestRecord] = deque(maxlen=capacity)
        self._uploads: deque[UploadRecord] = deque(maxlen=capacity)
        self._deliveries: deque[DeliveryRecord] = deque(maxlen=capacity)
        self._delivery_counts: Counter[int] = Counter()
        self._leaked_keys: deque[LeakedKey] = deque(maxlen=_LEAKS_KEPT)
        self._counts: Counter[tuple[str, int]] = Counter()
        self._charges: OrderedDict[str, Charge] = OrderedDict()
        self._splits: OrderedDict[str, Split] = OrderedDict()

    @property
    def requests(self) -> list[RequestRecord]:
        """The newest requests, oldest first."""
        return list(self._requests)

    @property
    def uploads(self) -> list[UploadRecord]:
        """The newest uploaded files, oldest first."""
        return list(self._uploads)

    @property
    def deliveries(self) -> list[DeliveryRecord]:
        """The newest attempts to deliver webhooks, oldest first."""
        return list(self._deliveries)

    @property
    def delivery_counts(self) -> dict[int, int]:
        """Number of attempts to deliver webhooks by status, always exact."""
        return dict(self._delivery_counts)

    @property
    def leaked_keys(self) -> list[LeakedKey]:
        """The newest keys sent to an origin that must not see them, oldest first."""
        return list(self._leaked_keys)

    @property
    def counts(self) -> dict[tuple[str, int], int]:
        """Number of requests by operation and status, always exact."""
        return dict(self._counts)

    @property
    def charges(self) -> list[Charge]:
        """Every charge, oldest first."""
        return list(self._charges.values())

    @property
    def splits(self) -> list[SplitView]:
        """Every split, oldest first."""
        return [_view(split) for split in list(self._splits.values())]

    @property
    def throttled(self) -> int:
        """Number of requests answered with 429."""
        return sum(n for (_, status), n in self.counts.items() if status == 429)  # noqa: PLR2004

    def count(self, operation: str | None = None, status: int | None = None) -> int:
        """Return how many requests there were; of one operation or with one status, if given."""
        return sum(n for (op, st), n in self.counts.items() if operation in (None, op) and status in (None, st))

    def count_by_operation(self) -> dict[str, dict[str, int]]:
        """Return the number of requests by operation and, inside, by status as text."""
        counts: dict[str, dict[str, int]] = {}
        for (operation, status), n in sorted(self.counts.items()):
            counts.setdefault(operation, {})[str(status)] = n
        return counts

    def add_request(self, record: RequestRecord) -> None:
        """Record a request."""
        self._requests.append(record)
        self._counts[record.operation, record.status] += 1

    def add_upload(self, record: UploadRecord) -> None:
        """Record an uploaded file."""
        self._uploads.append(record)

    def add_delivery(self, record: DeliveryRecord) -> None:
        """Record an attempt to deliver a webhook."""
        self._deliveries.append(record)
        self._delivery_counts[record.status] += 1

    def add_leak(self, record: LeakedKey) -> None:
        """Record a key sent to an origin that must not see it."""
        self._leaked_keys.append(record)

    def add_charge(self, split: Split, body: str | None = None) -> None:
        """Record a new split and its cost."""
        self._charges[split.id] = Charge(
            split.account,
            split.idempotency_key,
            split.id,
            split.credits,
            split.created_at,
            bodies=(body,) if body else (),
        )
        self._splits[split.id] = split
        for book in (self._charges, self._splits):
            while len(book) > self._capacity:
                book.popitem(last=False)

    def add_replay(self, split_id: str, body: str) -> None:
        """Record one more request that was answered with an existing split."""
        charge = self._charges.get(split_id)
        if charge is not None:
            charge.requests += 1
            if body not in charge.bodies and len(charge.bodies) < _BODIES_TOLD_APART:
                charge.bodies += (body,)

    def add_refund(self, split: Split) -> None:
        """Record that a failed split was refunded."""
        charge = self._charges.get(split.id)
        if charge is not None:
            charge.refunded = charge.credits

    def as_dict(self, newest: int | None = None) -> dict[str, Any]:
        """Return the ledger as JSON values, times as ISO-8601 text; only the `newest` records of each kind if given."""
        return {
            "counts": self.count_by_operation(),
            "throttled": self.throttled,
            "requests": [_plain(record) for record in _tail(self._requests, newest)],
            "charges": [_plain(charge) for charge in _tail(self._charges.values(), newest)],
            "uploads": [_plain(record) for record in _tail(self._uploads, newest)],
            "deliveries": [_plain(record) for record in _tail(self._deliveries, newest)],
            "splits": [_plain(view) | {"lag": view.lag} for view in map(_view, _tail(self._splits.values(), newest))],
            "leaked_keys": [_plain(record) for record in _tail(self._leaked_keys, newest)],
        }


def _tail(records: Iterable[_R], newest: int | None) -> list[_R]:
    kept = list(records)
    return kept if newest is None else kept[max(0, len(kept) - newest) :]


def _view(split: Split) -> SplitView:
    finished_at = split.updated_at if split.finished else None
    return SplitView(split.id, split.status.value, split.polls, finished_at, split.first_seen_at)


def _plain(record: attrs.AttrsInstance) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in attrs.asdict(record, recurse=False).items():
        if (name == "at" or name.endswith("_at")) and value is not None:
            plain[name] = format_timestamp(value)
        else:
            plain[name] = value
    return plain
