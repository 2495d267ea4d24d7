"""Finding API keys where they do not belong: the upload worker and the CDN must never see one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


def find_leak(headers: Iterable[tuple[str, str]], url: str, api_keys: Collection[str]) -> str | None:
    """Return where a request carries credentials: a header's name or `url`; `None` where it carries none.

    Any `Authorization` header counts, whatever is in it; elsewhere only a key that this sandbox knows.
    """
    for name, value in headers:
        if name.lower() == "authorization" or any(key in value for key in api_keys):
            return name
    return "url" if any(key in url for key in api_keys) else None
