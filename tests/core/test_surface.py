"""The names a user may import: complete, typed, documented, and free until used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import aistemsplitter_async
from aistemsplitter_async import errors

NAMES = [name for name in aistemsplitter_async.__all__ if name != "__version__"]


def typed_names(source: str) -> dict[str, str]:
    """Read what type checkers see: the re-exports under TYPE_CHECKING, name to module."""
    block = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "only `as` marks a re-export"
            found[alias.name] = str(node.module)
    return found


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    typed = typed_names(Path(aistemsplitter_async.__file__).read_text("utf-8"))
    assert sorted(typed) == sorted(NAMES)
    assert len(set(NAMES)) == len(NAMES)
    for name, module in typed.items():
        __import__(module)
        assert getattr(aistemsplitter_async, name) is getattr(sys.modules[module], name)


def test_the_names_are_listed_and_others_are_attribute_errors() -> None:
    assert dir(aistemsplitter_async) == sorted(aistemsplitter_async.__all__)
    with pytest.raises(AttributeError, match="no attribute 'AIStemSplitter'"):
        _ = aistemsplitter_async.AIStemSplitter
    assert not hasattr(aistemsplitter_async, "_nothing")


def test_every_error_of_the_tree_that_can_reach_a_user_is_a_public_name() -> None:
    raised_by = {
        "WebhookError": "webhooks",
        "JournalError": "batch",
        "JournalLockedError": "batch",
        "SpendLimitError": "batch",
    }
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.AIStemSplitterError):
            assert name in NAMES or name in raised_by, name


def documented_by(cls: type[Any], name: str, public: list[type[Any]]) -> bool:
    """Whether a method says what it does: itself, or in a base or protocol that it implements."""
    if inspect.getdoc(getattr(cls, name)):
        return True
    return any(inspect.getdoc(vars(other).get(name)) for other in public if getattr(other, "_is_protocol", False))


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_and_method_is_documented(name: str) -> None:
    value = getattr(aistemsplitter_async, name)
    public = [getattr(aistemsplitter_async, other) for other in NAMES]
    classes = [other for other in public if isinstance(other, type)]
    if isinstance(value, FunctionType):
        assert value.__doc__
    if not isinstance(value, type):
        return
    assert vars(value).get("__doc__"), name
    for member, what in vars(value).items():
        if not member.startswith("_") and isinstance(what, FunctionType | classmethod | staticmethod):
            assert documented_by(value, member, classes), f"{name}.{member}"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_importing_the_package_imports_nothing_but_itself() -> None:
    told = run(
        "import sys; before = set(sys.modules); import aistemsplitter_async as a;"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}; dir(a); a.__version__;"
        "print(sorted(names - set(sys.stdlib_module_names)));"
        "print([name for name in ('aiohttp', 'attr', 'attrs', 'numpy', 'anyio', 'asyncio') if name in sys.modules])"
    )
    ours, heavy = told.splitlines()
    assert ours == "['aistemsplitter_async']"
    assert heavy == "[]"


def test_reading_an_error_class_does_not_import_aiohttp() -> None:
    told = run(
        "import sys; from aistemsplitter_async import AIStemSplitterError, RateLimit, Split;"
        "print([name for name in ('aiohttp', 'numpy', 'scipy', 'cyclopts') if name in sys.modules])"
    )
    assert told == "[]\n"


def test_the_whole_surface_needs_none_of_the_extras() -> None:
    told = run(
        "import sys; from aistemsplitter_async import *;"
        "print([name for name in ('numpy', 'scipy', 'soundfile', 'cyclopts', 'rich', 'tinytag', 'pytest')"
        " if name in sys.modules])"
    )
    assert told == "[]\n"
