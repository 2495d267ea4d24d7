"""Without an extra: every public name of the base, a split and a batch, in a process that sees only what they need.

What the extras are, and what the base is, is read from the installed metadata, so a new one is covered.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aistemsplitter_async.sandbox import Sandbox

OURS = "aistemsplitter-async"
PROGRAM = """
    import asyncio, importlib, json, pkgutil, sys
    from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

    base, refuse, base_url, key, song, work = json.loads(sys.argv[1])
    allowed = {"aistemsplitter_async", "__main__", *base, *sys.stdlib_module_names}

    class BaseOnly(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return super().find_spec(name, path, target) if name.partition(".")[0] in allowed else None

    started = set(sys.modules)
    if refuse:
        sys.meta_path[:] = [BuiltinImporter, FrozenImporter, BaseOnly]

    import aistemsplitter_async as package
    lacking = {}
    for found in pkgutil.iter_modules(package.__path__, "aistemsplitter_async."):
        name = found.name.rpartition(".")[2]
        if name.startswith("_") or name in ("pytest_plugin", "cli") or (name == "otel" and not refuse):
            continue  # pytest loads the first, a shell the second; the third is all of an extra
        try:
            module = importlib.import_module(found.name)
            [getattr(module, name) for name in dir(module)]
        except ImportError as error:
            lacking[found.name] = str(error)
    for name in package.__all__:
        getattr(package, name)

    async def main():
        receiver = package.WebhookReceiver("whsec_1", url="https://example.com/hooks")
        poll = package.PollPolicy().scaled(0.01)
        async with package.AsyncAIStemSplitter(key, base_url=base_url, poll=poll) as client:
            done = await client.split(song, into=work + "/one")
            batch = client.split_many([song], into=work + "/many", journal=work + "/journal", max_credits=60)
            async with batch:
                outcomes = [type(outcome).__name__ async for outcome in batch]
            return sorted(done.files), outcomes, await receiver.handle(b"{}", {})

    result = asyncio.run(main())
    loaded = {name.partition(".")[0] for name in set(sys.modules) - started} - set(sys.stdlib_module_names)
    print(json.dumps({"result": result, "loaded": sorted(loaded), "lacking": lacking}))
"""


def needed_by(requirements: list[str], extra: str = "") -> set[str]:
    """Return the distributions that requirements bring with them, those of an extra too, as far as installed."""
    found, waiting = set[str](), [(Requirement(text), extra) for text in requirements]
    while waiting:
        requirement, wanted = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": wanted}):
            continue
        try:
            further = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            waiting += [(Requirement(text), one) for text in further for one in ("", *requirement.extras)]
    return found


def modules_of(distributions: set[str]) -> set[str]:
    """Return the top-level modules that distributions install."""
    return {
        module
        for module, names in metadata.packages_distributions().items()
        if not distributions.isdisjoint(map(canonicalize_name, names))
    }


REQUIRED = metadata.requires(OURS) or []
EXTRAS = set(metadata.metadata(OURS).get_all("Provides-Extra") or []) - {"tests", "dev"}
BASE = needed_by(REQUIRED)
OPTIONAL = modules_of(set[str]().union(*(needed_by(REQUIRED, extra) for extra in EXTRAS)) - BASE)


async def run(code: str, *arguments: Any) -> dict[str, Any]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), json.dumps(arguments)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("refuse", [True, False], ids=["as if alone", "beside the extras"])
async def test_the_base_works_and_loads_nothing_optional(
    sandbox: Sandbox, song: Path, tmp_path: Path, refuse: bool
) -> None:
    got = await run(
        PROGRAM, sorted(modules_of(BASE)), refuse, sandbox.base_url, sandbox.api_key, str(song), str(tmp_path)
    )
    assert got["result"] == [["bass", "drums", "other", "vocals"], ["Done"], 400]
    assert not OPTIONAL.intersection(got["loaded"])
    assert len(sandbox.ledger.charges) == 2
    for name, said in got["lacking"].items():  # a module of an extra says which
        assert re.search(rf"{OURS}\[({'|'.join(EXTRAS)})\]", said), f"{name}: {said}"


def test_the_extras_are_known_by_what_they_install() -> None:
    assert OPTIONAL.issuperset({"cyclopts", "rich", "tinytag", "numpy", "scipy", "soundfile"})
    assert not OPTIONAL.intersection(modules_of(BASE))
    assert modules_of(BASE).issuperset({"aiohttp", "attrs", "attr", "cattrs", "filelock", "anyio", "yarl"})


async def test_an_import_of_something_optional_would_be_found(sandbox: Sandbox, song: Path, tmp_path: Path) -> None:
    """The negative control: a client that cannot do without it, and one that takes it where it is there."""
    program = PROGRAM.replace("async def main():", "import tinytag\n\n    async def main():")
    with pytest.raises(AssertionError, match="No module named 'tinytag'"):
        await run(program, sorted(modules_of(BASE)), True, sandbox.base_url, sandbox.api_key, str(song), str(tmp_path))
    got = await run(program, [], False, sandbox.base_url, sandbox.api_key, str(song), str(tmp_path))
    assert OPTIONAL.intersection(got["loaded"]) == {"tinytag"}
