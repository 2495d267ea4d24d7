"""pytest fixtures `stem_sandbox` and `stem_client`, available in every test run once the package is installed.

Both are plain fixtures, so they work with pytest-asyncio in either mode, with anyio's plugin, and without any: the
sandbox runs in its own thread, and a client's connections end with the call that opened them, so that nothing has to be
closed in the event loop of the test. Nothing is imported before a test uses one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aistemsplitter_async.client import AsyncAIStemSplitter
    from aistemsplitter_async.sandbox import BlockingSandbox

_MARKER = "stem_sandbox(**options): arguments of Sandbox for the fixture stem_sandbox"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def stem_sandbox(request: pytest.FixtureRequest) -> Iterator[BlockingSandbox]:
    """A new sandbox for each test: silent, instant and without a limit, unless a marker says otherwise."""
    from aistemsplitter_async.sandbox import BlockingSandbox, Sandbox  # noqa: PLC0415  # free when unused

    options: dict[str, Any] = {"separation": "silent", "requests_per_minute": None}
    for marker in reversed(list(request.node.iter_markers("stem_sandbox"))):  # the closest marker wins
        options |= marker.kwargs
    with BlockingSandbox(Sandbox(**options)) as sandbox:
        yield sandbox


@pytest.fixture
def stem_client(stem_sandbox: BlockingSandbox) -> AsyncAIStemSplitter:
    """A client of `stem_sandbox` that polls and retries after milliseconds; it needs no closing."""
    from aistemsplitter_async.testing import build_quick_client  # noqa: PLC0415  # as above

    return build_quick_client(stem_sandbox.api_key, stem_sandbox.base_url)
