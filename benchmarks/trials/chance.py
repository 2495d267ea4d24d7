"""Draws what several kinds of trouble have in common."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from benchmarks.trials.songs import Format, Song

ALWAYS = 10_000  # times
Draw = Callable[[random.Random], dict[str, Any]]


def draw_songs(rng: random.Random, count: int, *formats: Format) -> tuple[Song, ...]:
    return tuple(
        Song(number, rng.choice(formats or ("wav", "mp3", "url")), rng.randint(1, 3)) for number in range(count)
    )
