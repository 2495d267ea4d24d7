"""The names a user may import: complete, typed, documented, and free until used."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import aistemsplitter_async
from aistemsplitter_async import distributed, errors, sandbox, shared, webhooks

NAMES = [name for name in dir(aistemsplitter_async) if name != "__version__"]
LAZY = pytest.mark.parametrize(
    "package", [aistemsplitter_async, distributed, sandbox, shared, webhooks], ids=lambda module: module.__name__
)


def typed_names(package: ModuleType) -> dict[str, str]:
    """Read what type checkers see: the re-exports under TYPE_CHECKING, name to module."""
    source = Path(str(package.__file__)).read_text("utf-8")
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


@LAZY
def test_type_checkers_and_the_interpreter_see_the_same_names(package: ModuleType) -> None:
    typed = typed_names(package)
    assert sorted(vars(package)["__all__"]) == sorted(typed) == dir(package)
    for name, module in typed.items():
        assert getattr(package, name) is getattr(import_module(module), name)
        assert name in vars(package), "kept, so that only the first use takes a detour"


def test_type_checkers_know_the_exact_types_and_reject_misspelt_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    packages = (aistemsplitter_async, distributed, sandbox, shared, webhooks)
    names = [(package.__name__, name, home) for package in packages for name, home in typed_names(package).items()]
    lines = [f"import {module}" for module in sorted({home for _, _, home in names} | {name for name, _, _ in names})]
    lines += [f"reveal_type({module}.{name})" for package, name, home in names for module in (package, home)]
    lines += [f"{package.__name__}.{max(typed_names(package))}s" for package in packages]
    (tmp_path / "uses.py").write_text("\n".join(lines), "utf-8")
    root = Path(aistemsplitter_async.__file__).parents[1]  # with the options, and so the cache, of the whole project
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--hide-error-context", str(tmp_path / "uses.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=root,
    )
    revealed = re.findall(r'note: Revealed type is "(.*)"', done.stdout)
    assert len(revealed) == 2 * len(names), done.stdout + done.stderr
    assert revealed[::2] == revealed[1::2]
    assert "Any" not in revealed
    assert len(re.findall(r": error: Module has no attribute ", done.stdout)) == len(packages), done.stdout
    assert done.stdout.count(": error: ") == len(packages), done.stdout


@LAZY
def test_other_names_are_attribute_errors(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no attribute 'AIStemSplitter'") as caught:
        _ = package.AIStemSplitter
    assert (caught.value.name, caught.value.obj) == ("AIStemSplitter", package), 'Python\'s "did you mean" reads these'
    assert not hasattr(package, "_nothing")


def test_every_error_of_the_tree_that_can_reach_a_user_is_a_public_name() -> None:
    raised_by = {
        "WebhookError": "webhooks",
        "JournalError": "batch",
        "JournalLockedError": "batch",
        "LostLeaseError": "batch",
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


def test_every_public_name_and_method_is_documented() -> None:
    public = {name: getattr(aistemsplitter_async, name) for name in NAMES}
    classes = [value for value in public.values() if isinstance(value, type)]
    for name, value in public.items():
        if isinstance(value, FunctionType | type):
            assert vars(value).get("__doc__") if isinstance(value, type) else value.__doc__, name
        for member, what in vars(value).items() if isinstance(value, type) else ():
            if not member.startswith("_") and isinstance(what, FunctionType | classmethod | staticmethod):
                assert documented_by(value, member, classes), f"{name}.{member}"


# Top-level names without an underscore that are our own parts' all the same.
OURS = {
    "cli": {"main"},
    "clock": {"Deadline", "Random"},
    "config": {"Check"},
    "errors": {"Kept"},
    "job": {"BoundEngine", "follow"},
    "models": {"WorkerReceipt"},
    "pytest_plugin": {"pytest_configure"},
}


def offered(module: ModuleType, source: str) -> set[str]:
    """Return the names that a public module offers: its `__all__`, or the classes, functions and types it defines."""
    if "__all__" in vars(module):
        return set(vars(module)["__all__"])
    names = set[str]()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name) and not target.id.isupper()}
    return {name for name in names if not name.startswith("_")}


def used(source: str) -> set[str]:
    """Return the names that a module uses, as what they are called where they are public; an import is no use."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return (
        names
        | {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        | {node.arg for node in nodes if isinstance(node, ast.arg)}
    )


def test_type_checkers_are_shown_a_use_of_every_public_name() -> None:
    root = Path(aistemsplitter_async.__file__).parent
    shown = used((Path(__file__).parents[1] / "typing" / "public_names.py").read_text("utf-8"))
    for path in [*root.glob("*.py"), *root.rglob("*/__init__.py")]:
        parts = path.relative_to(root).with_suffix("").parts
        if any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        name = ".".join(part for part in parts if part != "__init__")
        try:
            module = import_module(f"aistemsplitter_async.{name}".rstrip("."))
        except ModuleNotFoundError:  # of an extra that is not installed here
            continue
        public, ours = offered(module, path.read_text("utf-8")), OURS.get(name, set())
        assert ours <= public, f"{name}: no longer there"
        assert public - ours - shown == set(), f"{name}: show their use in tests/typing/public_names.py"


def test_an_import_alone_is_no_use() -> None:
    assert used("from x import A, B, f, m\n\ndef g(f: A) -> None: ...\n\nm.C()") >= {"A", "f", "C"}
    assert "B" not in used("from x import A, B, f, m\n\ndef g(f: A) -> None: ...\n\nm.C()")
    defined = "KEY = 1\n_A = 2\nOnEvent = int\nclass Split: ...\nasync def f(): ..."
    assert offered(ModuleType("m"), defined) == {"OnEvent", "Split", "f"}


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_importing_the_package_imports_nothing_but_itself() -> None:
    output = run(
        "import sys; before = set(sys.modules); import aistemsplitter_async as a;"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}; dir(a); a.__version__;"
        "print(sorted(names - set(sys.stdlib_module_names)));"
        "print([name for name in ('aiohttp', 'attr', 'attrs', 'numpy', 'anyio', 'asyncio') if name in sys.modules])"
    )
    ours, heavy = output.splitlines()
    assert ours == "['aistemsplitter_async']"
    assert heavy == "[]"


def test_reading_an_error_class_does_not_import_aiohttp() -> None:
    output = run(
        "import sys; from aistemsplitter_async import AIStemSplitterError, RateLimit, Split;"
        "print([name for name in ('aiohttp', 'numpy', 'scipy', 'cyclopts') if name in sys.modules])"
    )
    assert output == "[]\n"


def test_the_whole_surface_needs_none_of_the_extras() -> None:
    output = run(
        "import sys; from aistemsplitter_async import *;"
        "print([name for name in ('numpy', 'scipy', 'soundfile', 'cyclopts', 'rich', 'tinytag', 'pytest')"
        " if name in sys.modules])"
    )
    assert output == "[]\n"
