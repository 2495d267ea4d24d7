"""What is read as a file object."""

from __future__ import annotations

from typing import Protocol, TypeGuard


class BinaryFile(Protocol):
    """A file object that is open for reading bytes."""

    def read(self, size: int, /) -> bytes | None:
        """Return up to `size` bytes, none at the end."""
        ...


def is_file_object(source: object) -> TypeGuard[BinaryFile]:
    """Return whether `source` is to be read as a file object."""
    try:
        return not hasattr(source, "opened") and callable(getattr(source, "read", None))
    except Exception:  # noqa: BLE001  # other people's code, which `guard` will name
        return False
