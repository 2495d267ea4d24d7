"""When to look at a running split again."""

from __future__ import annotations

from aistemsplitter_async._core.retry import Random
from aistemsplitter_async.config import PollPolicy


def plan_look(policy: PollPolicy, *, elapsed: float, random: Random) -> float:
    """Return the seconds to wait before the next look at a split that has been watched for `elapsed` seconds."""
    wait = min(policy.longest, max(policy.shortest, policy.growth * elapsed))
    return wait * (1 + policy.jitter * (2 * random() - 1))
