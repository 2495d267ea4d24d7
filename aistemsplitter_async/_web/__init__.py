"""Text files of this package, such as the scripts and styles of its pages, and how a page embeds them.

Imports nothing of this package.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files


@cache
def read_asset(path: str) -> str:
    """Return the text of a file of this package; `path` is relative to `aistemsplitter_async`."""
    return files("aistemsplitter_async").joinpath(path).read_text("utf-8")


def build_policy(script: str, style: str, more: Mapping[str, str]) -> str:
    """Return a content security policy (CSP level 3) by which one script and one style apply and nothing else.

    Args:
        script: its text, which cannot turn other text into scripts.
        style: its text.
        more: directives for what the page may load, and who may frame it.
    """
    directives = {
        "default-src": "'none'",
        "script-src": _hash_source(script),
        "style-src": _hash_source(style),
        "img-src": "data:",
        **more,
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def _hash_source(source: str) -> str:
    """Return the source expression of a script or style (CSP level 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
