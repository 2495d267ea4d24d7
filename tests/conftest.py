"""For all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A loaded machine is no reason to fail: how long an example took says nothing about what it proves.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")
