"""What holds for every example."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.examples.conftest import EXAMPLES

ROOT = EXAMPLES.parent
NAMES = sorted(path.name for pattern in ("*.py", "*.yaml") for path in EXAMPLES.glob(pattern))


@pytest.mark.parametrize("name", NAMES)
def test_every_example_is_short_is_listed_and_is_run_by_a_test(name: str) -> None:
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) < 90
    assert f"(../examples/{name})" in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert f'"{name.removesuffix(".py")}"' in tests or f'"{name}"' in tests
