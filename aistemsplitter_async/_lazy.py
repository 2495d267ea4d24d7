"""Packages whose names load on first use, so that importing the package costs next to nothing."""

import sys
from collections.abc import Mapping
from importlib import import_module

_ROOT = __name__.partition(".")[0]


def lazy(package: str, modules: Mapping[str, str]) -> None:
    """Give a package its `__all__`, and a `__getattr__` that loads those names on first use.

    Call it where type checkers do not see it: to them, a module with a `__getattr__` has every name, even a misspelt
    one. They read the same names from imports under `TYPE_CHECKING`; a test compares the two.

    Args:
        package: its `__name__`.
        modules: a literal dict from module, relative to the root package, to its names, separated by spaces.
    """
    home = {name: module for module, names in modules.items() for name in names.split()}
    namespace = vars(sys.modules[package])

    def load(name: str) -> object:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = namespace[name] = getattr(import_module(f"{_ROOT}.{home[name]}"), name)
        return value

    namespace.update(__all__=list(home), __getattr__=load, __dir__=lambda: sorted(home))
