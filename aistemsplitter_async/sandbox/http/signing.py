"""Signatures of stem addresses, which cannot be guessed and expire, and of webhooks."""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping

_MAX_DIGITS = 15


def build_signed_path(path: str, expires_at: float, secret: bytes) -> str:
    """Return `path` with `expires` (POSIX milliseconds, rounded up) and `signature` in its query."""
    expires = math.ceil(expires_at * 1000)
    return f"{path}?expires={expires}&signature={_sign(path, str(expires), secret)}"


def parse_expiry(path: str, query: Mapping[str, str], secret: bytes) -> float | None:
    """Return the POSIX time at which a signed address expires; `None` if `secret` did not sign it."""
    expires, signature = query.get("expires", ""), query.get("signature", "")
    if not (expires.isascii() and expires.isdigit() and len(expires) <= _MAX_DIGITS):
        return None
    expected = _sign(path, expires, secret)
    if not hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode()):
        return None
    return int(expires) / 1000


def build_webhook_signature(body: bytes, timestamp: int, secret: bytes) -> str:
    """Return the value of `AIStemSplitter-Signature` for an event sent at `timestamp` (POSIX seconds)."""
    digest = hmac.digest(secret, f"{timestamp}.".encode() + body, "sha256").hex()
    return f"t={timestamp},v1={digest}"


def _sign(path: str, expires: str, secret: bytes) -> str:
    return hmac.digest(secret, f"{path}\n{expires}".encode(), "sha256").hex()
