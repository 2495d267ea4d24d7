"""Mixes: the sum of some stems, as one more file. Everything here blocks, and is called in a thread.

What it needs, numpy and soundfile, is an extra, and is loaded only here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from aistemsplitter_async._transfer.partfile import PartFile, as_download_error
from aistemsplitter_async.errors import ConfigurationError, MixError

INSTALL = "pip install 'aistemsplitter-async[audio]'"


class StoppedError(Exception):
    """The caller did not want the mix any more."""


def load_audio() -> ModuleType:
    """Load what mixes are made with, which takes a fifth of a second at the first call.

    Raises:
        ConfigurationError: it is missing, broken, or too old for MP3.
    """
    try:
        import soundfile  # noqa: PLC0415  # an extra

        from aistemsplitter_async._transfer import sound  # noqa: PLC0415
    except (ImportError, OSError) as error:  # OSError: soundfile came without libsndfile
        raise ConfigurationError(f"a mix needs numpy and soundfile ({error}): {INSTALL}", code="NO_AUDIO") from None
    if "MP3" not in soundfile.available_formats():  # the system's own, not that of soundfile's wheel
        version = soundfile.__libsndfile_version__
        raise ConfigurationError(
            f"a mix needs libsndfile 1.1 or newer with MP3, and this one is {version}: {INSTALL}", code="NO_AUDIO"
        )
    return sound


def mix_stems(name: str, stems: Mapping[str, Path], part: PartFile, is_stopped: Callable[[], bool] = bool) -> float:
    """Write the sum of `stems` to `part`; return the gain that kept it from clipping, in dB: 0 or less.

    It begins where they do, is as long as the longest of them, and has their format, sampling rate and channels.

    Args:
        name: of the mix, for messages.
        stems: the files by stem name.
        part: where to; what is in it is replaced, and it is removed if this fails.
        is_stopped: asked before every block, from the thread that runs this.

    Raises:
        MixError: a stem cannot be decoded, or does not fit the others.
        DownloadError: the disk refuses something, or is full.
        ConfigurationError: like `load_audio`.
        StoppedError: `is_stopped` returned true.
    """
    sound = load_audio()

    def tick(count: int) -> None:
        if is_stopped():
            raise StoppedError
        part.check_room(count)

    try:
        part.start_at(0)
        with as_download_error(part.path):
            gain_db: float = sound.mix(stems, part.path, tick)
        part.take_over()
    except sound.UnusableStemError as error:
        part.discard()
        raise MixError(
            f"the mix {name!r} was not made: the stem {error.stem!r} {error}", mix=name, stem=error.stem
        ) from None
    except BaseException:
        part.discard()
        raise
    return gain_db
