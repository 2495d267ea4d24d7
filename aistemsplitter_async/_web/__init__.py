"""Text files of this package, such as the scripts and styles of its pages, and how a page embeds them.

Imports nothing of this package.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files


@cache
def read_asset(path: str) -> str:
    """Return the text of a file of this package; `path` is relative to `aistemsplitter_async`."""
    return files("aistemsplitter_async").joinpath(path).read_text("utf-8")


def hash_source(source: str) -> str:
    """Return the source expression for a script or style in a content security policy (CSP level 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
