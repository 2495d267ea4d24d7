"""Scripts and styles that the sandbox's page and the batch report share, and how a page puts them into itself."""

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
    """Return what a content security policy calls a script or style of the page (CSP level 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
