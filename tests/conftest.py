"""For all tests."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.io.fakes", "tests.e2e.harness")  # their failures show values too

# A loaded machine is not a reason to fail: how long an example took says nothing about what it proves.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

_FEW = 4  # variants of one test, which all run in a sample


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", action="store_true", help="of a test with more than 4 variants, run every third")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("sample"):
        return
    tests = [item.nodeid.partition("[")[0] for item in items]
    variants, met = Counter(tests), Counter[str]()
    kept, left_out = list[pytest.Item](), list[pytest.Item]()
    for item, test in zip(items, tests, strict=True):
        is_kept = variants[test] <= _FEW or met[test] % 3 == 0
        (kept if is_kept else left_out).append(item)
        met[test] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept
