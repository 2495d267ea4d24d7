"""How one source ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from aistemsplitter_async.audio import Source
    from aistemsplitter_async.models import Split


@attrs.frozen
class Done:
    """The source is split.

    Attributes:
        source: as it was given.
        split: its terminal state.
        files: stem name to file, empty if nothing was to be downloaded.
    """

    source: Source
    split: Split
    files: Mapping[str, Path]
