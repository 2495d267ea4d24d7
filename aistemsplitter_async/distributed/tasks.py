"""What a task carries to a worker, as one text of plain JSON, and what the worker compares with its own. Pure.

A text, since a worker of another version must be able to read which that is. Nothing in it is secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final, Self

import attrs

from aistemsplitter_async.batch.item import BatchItem
from aistemsplitter_async.batch.options import BatchKeywords
from aistemsplitter_async.batch.outcome import Outcome
from aistemsplitter_async.config import API_KEY_VARIABLE, BASE_URL_VARIABLE, PollPolicy, RateLimit
from aistemsplitter_async.errors import ConfigurationError, SourceUnreadableError
from aistemsplitter_async.models import DirectURL

_OF_SONG: Final = ("folder", "pattern", "seconds", "filename", "content_type", "idempotency_key", "timeout")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

Reply = Outcome | Exception | None
"""What a worker answers: the outcome of the song; the error because of which it splits no more songs of this run; or
nothing, as it is going away, and the song belongs to another one."""


@attrs.frozen
class Identity:
    """What driver and workers must have in common.

    Attributes:
        version: of this package.
        base_url: of the API.
        key: identifies the API key without showing it.
    """

    version: str
    base_url: str
    key: str

    def explain_difference(self, driver: Identity) -> str | None:
        """Return why a worker with this identity does nothing for `driver`, `None` if they are alike."""
        pairs = {
            f"it has version {self.version} of aistemsplitter-async, and the driver {driver.version}: install the same "
            "everywhere": (self.version, driver.version),
            f"it uses the API at {self.base_url}, and the driver {driver.base_url}: set {BASE_URL_VARIABLE} there": (
                self.base_url,
                driver.base_url,
            ),
            f"it has another API key than the driver: set {API_KEY_VARIABLE} there": (self.key, driver.key),
        }
        return next((problem for problem, (own, other) in pairs.items() if own != other), None)


@attrs.frozen(kw_only=True)
class Terms:
    """What all songs of a run have in common.

    Attributes:
        run: identifies it.
        driver: its identity.
        journal: where it is, without a password; a worker's environment may say so too.
        journal_id: which one that is: the same address may be another database elsewhere.
        into: the folder for all stems, the same on every machine.
        options: those of `split_many`.
        rate_limit: what is known of the key's limit.
        poll: when running splits are polled.
        allow_hosts: as a client takes them.
    """

    run: str
    driver: Identity
    journal: str | None
    into: str | None
    options: BatchKeywords
    rate_limit: RateLimit | None = None
    journal_id: str | None = None
    poll: PollPolicy | None = None
    allow_hosts: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Task:
    """A song, as a worker is given it.

    Attributes:
        terms: of its run.
        number: identifies the task within the run; a song that is given to another worker has another one then.
        source: a path or URL.
        song: the options of its `BatchItem` that are not left out.
    """

    terms: Terms
    number: int
    source: str
    song: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Its name at the scheduler."""
        return f"split-{self.terms.run}-{self.number}"

    @property
    def item(self) -> BatchItem:
        """The source with its options."""
        return BatchItem(source=self.source, **self.song)

    def dump(self) -> str:
        """Return it as text. What is too rich for JSON is written as the list or the object that it is equal to."""
        return json.dumps(attrs.asdict(self), default=_as_json)

    @classmethod
    def load(cls, text: str) -> Self:
        """Return the task that was written as `text` by this version."""
        task = json.loads(text)
        terms = task.pop("terms")
        limit, poll = terms["rate_limit"], terms["poll"]
        values = {
            "driver": Identity(**terms["driver"]),
            "rate_limit": None if limit is None else _load_limit(limit),
            "poll": None if poll is None else PollPolicy(**poll),
            "allow_hosts": tuple(terms["allow_hosts"]),
        }
        return cls(terms=Terms(**terms | values), **task)


def read_driver(text: str) -> Identity:
    """Return whose task it is, of whatever version."""
    driver = json.loads(text)["terms"]["driver"]
    return Identity(**{field.name: str(driver.get(field.name)) for field in attrs.fields(Identity)})


def pack(item: BatchItem) -> tuple[str, Mapping[str, Any]]:
    """Return the source and the options of an item as a task carries them.

    Raises:
        SourceUnreadableError: it is neither a path nor a URL.
        ConfigurationError: it has an option that does not leave this process.
    """
    source = item.source
    if item.on_progress is not None:
        raise ConfigurationError("on_progress is a function of this process, and workers are others; leave it out")
    if item.anew:
        raise ConfigurationError("anew is for split_many: a cluster may be asked for a song more than once")
    defaults = {field.name: field.default for field in attrs.fields(BatchItem)}
    given = {name: getattr(item, name) for name in _OF_SONG if getattr(item, name) != defaults[name]}
    if isinstance(source, DirectURL):
        return source.url, given
    if isinstance(source, str) and _SCHEME.match(source):  # of any kind: the worker says what it thinks of it
        return source, given
    if isinstance(source, str | PathLike):
        return str(Path(source).absolute()), given
    raise SourceUnreadableError(
        f"a cluster takes paths and URLs, not {type(source).__name__}: save it where all workers see it, or use "
        "split_many for it"
    )


def _as_json(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return str(value) if isinstance(value, Path) else list(value)  # type: ignore[call-overload]


def _load_limit(limit: Mapping[str, Any]) -> RateLimit:
    return RateLimit(**{**limit, "further": tuple(map(_load_limit, limit["further"]))})
