"""For all tests."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.io.fakes", "tests.e2e.harness")  # their failures show values too

# A loaded machine is not a reason to fail: how long an example took says nothing about what it proves.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")
