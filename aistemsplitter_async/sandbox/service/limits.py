"""Every default of the sandbox, once, with its unit and reason."""

from __future__ import annotations

import attrs

CREDITS = 36_000
"""Balance of a new key in seconds of audio: ten hours, enough for any test and small enough to exhaust on purpose."""

MOST_CREDITS = 2**53
"""The largest balance: what every reader of JSON holds exactly."""

REQUESTS_PER_MINUTE = 60
"""The service does not publish its limit; one a second is slow enough for a careless client to get 429s."""

MINUTE = 60.0
"""Length of the limit's window in seconds."""

UNSTATED_SECONDS = 180.0
"""Length of a `direct_url` source in silent mode, where nothing is fetched: that of a usual song."""


@attrs.frozen
class Limits:
    """Caps that keep the sandbox's disk and memory bounded. Byte counts unless a name says otherwise."""

    max_json_bytes: int = 1024 * 1024
    """A JSON request body; a normal one has at most a few kilobytes."""
    max_upload_bytes: int = 2 * 1024**3
    """One uploaded file: an hour of 96 kHz stereo in 24 bit fits."""
    max_fetch_bytes: int = 512 * 1024**2
    """One file behind a `direct_url`."""
    fetch_timeout: float = 60.0
    """Seconds for the whole download of a `direct_url`: the create request is waiting for it."""
    max_disk_bytes: int = 32 * 1024**3
    """Everything stored: uploads, fetched sources and stems."""
    max_files: int = 100_000
    """Number of stored uploads and sets of stems."""
    max_splits: int = 100_000
    """Splits remembered; the oldest finished ones are forgotten first."""
    max_reservations: int = 100_000
    """Reservations remembered at a time."""
    ledger_requests: int = 100_000
    """Request records kept; counts have no cap."""
    probe_timeout: float = 100.0
    """Seconds for measuring a file, by decoding it: ten hours of music. A create waits for it, for 120 s."""
    probe_workers: int = 4
    """Files measured at a time: each takes a process with a hundred megabytes, and many creates may come at once."""
    separation_timeout: float = 120.0
    """Seconds for one separation besides those for the length of its audio: a busy machine starts processes slowly."""
    separation_pace: float = 1.0
    """Seconds for each second of audio: a slow machine takes a tenth of that, and a hung decoder must end some time."""
    webhook_timeout: float = 10.0
    """Seconds for one attempt to deliver a webhook; a slower receiver should answer first and work later."""
    webhook_attempts: int = 20
    """Attempts to deliver one before giving up: about an hour with the waits between them."""
    webhook_backoff: float = 1.0
    """Seconds of the sandbox's clock after the first refused attempt; twice as long after each further one."""
    webhook_backoff_cap: float = 300.0
    """Longest of these waits in seconds."""
    webhook_connections: int = 16
    """Webhooks under way at a time."""
    separation_workers: int = 1
    """Separations at a time; one already keeps a core busy and holds a few hundred megabytes."""


@attrs.frozen
class Lifetimes:
    """How long something stays valid, in seconds of the sandbox's clock."""

    reservation: float = 900.0
    """From the reservation to the last moment at which its upload may begin."""
    upload: float = 86_400.0
    """From the finished upload to its deletion; creates may use it until then."""
    stem_url: float = 3600.0
    """Of one signed stem address; every poll answers with new ones."""
    stems: float = 86_400.0
    """From the end of a split to the deletion of its stem files."""
    idempotency_key: float = 86_400.0
    """How long a key is remembered after the request that used it."""
