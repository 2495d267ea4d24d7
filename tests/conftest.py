"""For all tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.io.fakes", "tests.e2e.harness")  # their failures show values too

# A loaded machine is not a reason to fail: how long an example took says nothing about what it proves.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("sample", settings.get_profile("shared machine"), max_examples=10)
settings.load_profile("shared machine")

_FEW = 2  # variants of one test, which all run in a sample


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", action="store_true", help="of a test with more than 2 variants or examples, run some")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("sample"):
        settings.load_profile("sample")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    spread(items)
    if config.getoption("sample"):
        take_sample(config, items)


def spread(items: list[pytest.Item]) -> None:
    """Mix the modules of tests that mostly wait, for processes and sockets, with those that compute: cores stay busy.

    The last of them come early enough that none is alone at the end.
    """
    places = dict[Path, float]()
    for share, waits in ((0.85, True), (1.0, False)):
        modules = dict.fromkeys(item.path for item in items if ("e2e" in item.path.parts) is waits)
        places |= {module: share * number / len(modules) for number, module in enumerate(modules)}
    items.sort(key=lambda item: places[item.path])


def take_sample(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out some of the variants of each test."""
    tests = [item.nodeid.partition("[")[0] for item in items]
    variants, met = Counter(tests), Counter[str]()
    kept, left_out = list[pytest.Item](), list[pytest.Item]()
    for item, test in zip(items, tests, strict=True):
        is_kept = variants[test] <= _FEW or met[test] % 8 == 0
        (kept if is_kept else left_out).append(item)
        met[test] += 1
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept
