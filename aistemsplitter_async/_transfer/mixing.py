"""Mixes: the sum of some stems, as one more file. What touches the disk blocks, and is called in a thread.

A mix is written to a part and gets its name in the same order as a stem (`downloader`). The manifest knows of it before
anything is fetched for it, so that a later call can remove what a killed one left. Stems that only a mix needs stay
parts, and are removed once it is complete.

What it needs, numpy and soundfile, is an extra, and is loaded only here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import ModuleType

import attrs

from aistemsplitter_async._transfer.manifest import Manifest, MixRecord
from aistemsplitter_async._transfer.names import ANY_STEM, fold, plan_names, stem_file_name
from aistemsplitter_async._transfer.partfile import PartFile, as_download_error, part_path, status_of
from aistemsplitter_async._transfer.selection import NO_SUCH_MIX, Selection
from aistemsplitter_async.config import MIX_BLOCK_FRAMES
from aistemsplitter_async.errors import ConfigurationError, DownloadError, MixError

INSTALL = "pip install 'aistemsplitter-async[audio]'"


class StoppedError(Exception):
    """The caller did not want the mix any more."""


@attrs.frozen
class MixPlan:
    """A mix of a certain split.

    Attributes:
        name: of the mix.
        file: its file's name, without extension.
        stems: which it is the sum of, in the order of the split.
    """

    name: str
    file: str
    stems: tuple[str, ...]


def plan_mixes(selection: Selection, stems: Collection[str], pattern: str = ANY_STEM) -> list[MixPlan]:
    """Return the selected mixes of a split that has `stems`, whose files are named by `pattern`.

    Raises:
        DownloadError: one would be the sum of nothing, or its file that of a stem (`code` is `NO_SUCH_MIX`), or the
            split does not have a stem that is selected.
        UnsafeNameError: the pattern, with its name, is not a safe name.
    """
    selection.kept(stems)  # or it raises
    plans = []
    taken = {fold(stem): stem for stem in stems}
    for name, mix in selection.mixes.items():
        if fold(name) in taken:
            problem = f"and the stem {taken[fold(name)]!r} would be the same file; give it another name"
        elif not mix.sum_of(stems):
            problem = f"would be the sum of no stem; the split has {', '.join(stems)}"
        else:
            plans.append(MixPlan(name, stem_file_name(name, pattern), mix.sum_of(stems)))
            continue
        raise DownloadError(f"the mix {name!r} {problem}", code=NO_SUCH_MIX)
    return plans


def find_unmade(manifest: Manifest, plans: Collection[MixPlan], extension: str, *, overwrite: bool) -> list[MixPlan]:
    """Return which mixes are not here yet, before anything is fetched for them. From now on the manifest knows of them.

    Args:
        manifest: of the folder.
        plans: all that are wanted.
        extension: that the stems will have, so far as it is known.
        overwrite: whether they are made again, and may replace other files.

    Raises:
        DownloadError: another file has the name of one, or the disk fails.
    """
    unmade = [plan for plan in plans if overwrite or manifest.finished_mix(plan.name, plan.stems) is None]
    for plan in () if overwrite else unmade:
        target = manifest.folder / f"{plan.file}.{extension}"
        if os.path.lexists(target):
            known = manifest.mixes.get(plan.name)
            other = known is not None and manifest.finished_mix(plan.name) == target
            reason = f"is the mix of {', '.join(known.stems)}" if known is not None and other else "exists already"
            raise DownloadError(f"{target} {reason}; nothing was overwritten", code="EXISTS")
    if unmade:
        manifest.mixes |= {plan.name: MixRecord(file=f"{plan.file}.{extension}", stems=plan.stems) for plan in unmade}
        manifest.save([plan.name for plan in unmade])
    return unmade


def make_mix(
    manifest: Manifest, plan: MixPlan, stems: Mapping[str, Path], is_stopped: Callable[[], bool], *, overwrite: bool
) -> float:
    """Make a mix in the manifest's folder; return the gain that kept it from clipping, in dB: 0 or less.

    Args:
        manifest: of the stems, which are complete.
        plan: of the mix.
        stems: the files of those that it is the sum of.
        is_stopped: see `mix_stems`.
        overwrite: whether another file may be replaced.

    Raises:
        DownloadError, ConfigurationError, StoppedError: like `mix_stems`; also if another file has its name.
    """
    extension = manifest.stems[plan.stems[0]].file.rpartition(".")[2]
    record = MixRecord(file=f"{plan.file}.{extension}", stems=plan.stems)
    with closing(PartFile(part_path(manifest.folder, plan.file))) as part:
        gain_db = mix_stems(plan.name, stems, part, is_stopped)
        manifest.mixes[plan.name] = attrs.evolve(record, total=part.sync(), gain_db=gain_db)
        manifest.save({plan.name})
        part.publish(manifest.folder / record.file, overwrite=overwrite)
    return gain_db


def read_gains(files: Mapping[str, Path], mixes: Collection[str]) -> dict[str, float]:
    """Return the gain of each of `mixes`, in dB; `files` are what was downloaded in one folder."""
    folder = next((files[name].parent for name in mixes if name in files), None)
    manifest = None if folder is None else Manifest.load(folder)
    known = {} if manifest is None else manifest.mixes
    return {name: known[name].gain_db for name in mixes if name in known}


def sweep(manifest: Manifest, kept: Collection[str], mixes: Collection[str]) -> None:
    """Remove what is left of mixes: stems that are not `kept` besides, and what was begun and is wanted no more.

    Raises:
        DownloadError: the disk fails.
    """
    if not manifest.mixes:
        return
    stems = dict.fromkeys(stem for mix in manifest.mixes.values() for stem in mix.stems if stem not in kept)
    dropped = [name for name in manifest.mixes if name not in mixes and manifest.finished_mix(name) is None]
    files, _ = plan_names([*stems, *dropped], manifest.pattern)
    with ExitStack() as stack:
        parts = {}
        for name, file in files.items():
            path = part_path(manifest.folder, file)
            with suppress(DownloadError):  # another process is writing it, or will mix it
                parts[name] = stack.enter_context(closing(PartFile(path))) if status_of(path) is not None else None
        # First of all the manifest forgets them: without its part, another split's file would be taken for the stem.
        before = dict(manifest.stems)
        for name in parts:
            _forget_part(manifest, name)
        if changed := [name for name in parts if before.get(name) != manifest.stems.get(name)]:
            manifest.save(changed)
        for part in filter(None, parts.values()):
            part.discard()
    in_use = files.keys() - parts
    unused = {name: mix for name in dropped if in_use.isdisjoint((name, *(mix := manifest.mixes[name]).stems))}
    if unused:
        manifest.save((), dropped=unused)


def _forget_part(manifest: Manifest, stem: str) -> None:
    """Forget what the part of a stem has, unless the stem is complete. A file of its name may have been edited."""
    entry = manifest.stems.get(stem)
    if entry is None or manifest.finished(stem) is not None:
        return
    if status_of(manifest.folder / entry.file) is None or entry.file in manifest.replaced:
        del manifest.stems[stem]
    else:
        manifest.stems[stem] = attrs.evolve(entry, durable=0)


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
            try:
                gain_db: float = sound.mix(stems, part.path, tick)
            except OSError as error:
                if error.errno is None:  # libsndfile does not say why, but the system does, of the next bytes
                    part.take_over()
                    part.start_at(part.size)
                    part.write(bytes(MIX_BLOCK_FRAMES))
                raise
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
