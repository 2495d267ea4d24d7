"""pytest fixtures `stem_sandbox` and `stem_client`, there in every test run once the package is installed.

Both are plain fixtures, so they work with pytest-asyncio in either mode, with anyio's plugin, and without any: the
sandbox runs in a thread of its own, and a client's connections end with the call that opened them, which leaves
nothing that would have to be closed in the event loop of the test. Nothing is imported before a test asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aistemsplitter_async.client import AsyncAIStemSplitter
    from aistemsplitter_async.sandbox import BlockingSandbox

_MARKER = "stem_sandbox(**options): what the fixture stem_sandbox is to be; the arguments of Sandbox"


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest about the marker."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def stem_sandbox(request: pytest.FixtureRequest) -> Iterator[BlockingSandbox]:
    """A fresh sandbox for each test: silent, instant and without a limit, where no marker says otherwise."""
    from aistemsplitter_async.sandbox import BlockingSandbox, Sandbox  # noqa: PLC0415  # free when unused

    options: dict[str, Any] = {"separation": "silent", "requests_per_minute": None}
    for marker in reversed(list(request.node.iter_markers("stem_sandbox"))):  # the closest one has the last word
        options |= marker.kwargs
    with BlockingSandbox(Sandbox(**options)) as sandbox:
        yield sandbox


@pytest.fixture
def stem_client(stem_sandbox: BlockingSandbox) -> AsyncAIStemSplitter:
    """A client of `stem_sandbox` that looks and retries after milliseconds; there is nothing to close."""
    from aistemsplitter_async.testing import build_quick_client  # noqa: PLC0415  # as above

    return build_quick_client(stem_sandbox.api_key, stem_sandbox.base_url)
