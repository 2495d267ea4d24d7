"""What the name of a file or a folder says of it: a song, or what programs, disks and networks leave beside songs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from enum import StrEnum

from aistemsplitter_async._transfer.names import AUDIO_EXTENSIONS


class Kind(StrEnum):
    """Why something in a folder is not taken for a song. The texts are keys in the JSON output."""

    VIDEO = "video"  # a container of moving pictures, which may have sound
    PROTECTED = "protected"  # only its shop's player can read it
    ELSEWHERE = "elsewhere"  # a stand-in for a file that is in a cloud
    UNFINISHED = "unfinished"  # a download
    STEM = "stem"  # of an earlier separation
    HIDDEN = "hidden"  # audio, but with a dot in front of its name
    SYSTEM = "system"  # a recycle bin, a folder or a file of an operating system or a server
    OTHER = "other"  # not audio by its name


VIDEO_EXTENSIONS = frozenset(
    {
        *("3g2", "3gp", "asf", "avi", "divx", "f4v", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts"),
        *("mxf", "ogv", "ts", "vob", "webm", "wmv"),
    }
)
_PROTECTED = frozenset({"aa", "aax", "aaxc", "m4p"})
_STANDING_IN = frozenset({"icloud", "nextcloud", "owncloud"})  # `.song.mp3.icloud`, `song.mp3.nextcloud`
_UNFINISHED = frozenset({"!qb", "!ut", "aria2", "crdownload", "download", "filepart", "part", "partial", "tmp"})

# In small letters.
_SYSTEM_FOLDERS = frozenset(
    {
        *("$recycle.bin", "system volume information", "$windows.~bt", "$windows.~ws", "config.msi"),  # Windows
        *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"),  # macOS
        *(".appledouble", ".appledb", ".appledesktop", ".documentrevisions-v100", ".fseventsd", ".spotlight-v100"),
        *(".temporaryitems", ".trash", ".trashes"),
        *("lost+found", "lost.dir"),  # Linux, Android
        *("#recycle", "#snapshot", "@eadir", "@tmp", "@recycle", "@recently-snapshot", ".@__thumb"),  # Synology, QNAP
        *(".recycle", ".snapshot", ".snapshots", "~snapshot", ".zfs", ".stversions"),  # Samba, NetApp, ZFS, Syncthing
    }
)
_TRASH_OF_USER = re.compile(r"\.trash-\d+")  # freedesktop.org, on every volume but that of the home
_RECYCLERS = frozenset({"recycler", "recycled"})  # of Windows before Vista
_OF_RECYCLER = re.compile(r"s-1-5-[-\d]+|info2")
_RESOURCE_FORK = "._"  # AppleDouble: what macOS has to say of a file that is on a foreign disk

_VOCALS = "vocals"
_STEMS_BESIDE_VOCALS = ("accompaniment", "bass", "drums", "guitar", "instrumental", "no_vocals", "other", "piano")
_BEYOND_DOUBT = frozenset({"accompaniment", "drums", "instrumental", "no_vocals"})
_STEM = re.compile(rf"(.*?)(?<![^\W_])({'|'.join((*_STEMS_BESIDE_VOCALS, _VOCALS))})([)\]]?\.\w+)", re.DOTALL)


def is_hidden(name: str) -> bool:
    """Return whether a name is hidden. A title may begin with dots as well: `...And Justice for All`."""
    return name.startswith(".") and not name.startswith("..")


def is_audio(name: str) -> bool:
    """Return whether a file is audio by its name."""
    return _has_extension(name, AUDIO_EXTENSIONS)


def is_video(name: str) -> bool:
    """Return whether a file is a container of moving pictures by its name."""
    return _has_extension(name, VIDEO_EXTENSIONS)


def is_resource_fork(name: str) -> bool:
    """Return whether a file is what macOS puts beside every file on a foreign disk, under its name with `._`."""
    return name.startswith(_RESOURCE_FORK)


def kind_of(name: str) -> Kind | None:
    """Return why a file is not taken for a song, or `None` if it is. Other hidden files are of no interest: `OTHER`."""
    if is_resource_fork(name):
        return Kind.SYSTEM
    if _has_extension(name, _STANDING_IN):
        return Kind.ELSEWHERE
    if is_audio(name):
        return Kind.HIDDEN if is_hidden(name) else None
    if is_hidden(name):
        return Kind.OTHER
    if is_video(name):
        return Kind.VIDEO
    if _has_extension(name, _PROTECTED):
        return Kind.PROTECTED
    return Kind.UNFINISHED if is_unfinished(name) else Kind.OTHER


def is_unfinished(name: str) -> bool:
    """Return whether a file, or a folder that Safari made, is a download of audio or video under way."""
    before, _, extension = name.rpartition(".")
    if extension.lower() not in _UNFINISHED:
        return False
    return is_audio(before) or is_video(before) or extension.lower() == "crdownload"


def may_be_system_folder(name: str) -> bool:
    """Return whether a folder may be a recycle bin or belong to an operating system or a server, by its name."""
    small = name.lower()
    return small in _SYSTEM_FOLDERS or is_ambiguous(name) or _TRASH_OF_USER.fullmatch(small) is not None


def is_ambiguous(name: str) -> bool:
    """Return whether only what is in such a folder tells a recycle bin from an album: ZZ Top made a `Recycler`."""
    return name.lower() in _RECYCLERS


def is_system_folder(name: str, inside: Iterable[str]) -> bool:
    """Return whether a folder is one, in any case of letters; `inside` are the names in it, if its own is ambiguous."""
    if is_ambiguous(name):
        return any(_OF_RECYCLER.fullmatch(inner.lower()) for inner in inside)
    return may_be_system_folder(name)


def is_stem(name: str) -> bool:
    """Return whether a name has a stem in it, as `*_(Vocals).wav` has."""
    return any(stem in name.lower() for stem in (_VOCALS, *_STEMS_BESIDE_VOCALS))


def stems_among(names: Collection[str]) -> set[str]:
    """Return the files of a folder that separators made, by their names.

    That is what has vocals and what remains beside them, in the same words around: `vocals.wav` and `drums.wav`, or
    `1_Song_(Vocals).flac` and `1_Song_(Instrumental).flac`.
    """
    if not any(_VOCALS in name.lower() for name in names):  # as in nearly all folders
        return set()
    groups: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for name in names:
        if match := _STEM.fullmatch(name.lower()):
            groups[match[1], match[3]][match[2]] = name
    return {
        name
        for stems in groups.values()
        if _VOCALS in stems and not _BEYOND_DOUBT.isdisjoint(stems)
        for name in stems.values()
    }


def _has_extension(name: str, extensions: Collection[str]) -> bool:
    # Not with pathlib: it interns every name it sees, and some Python versions never release them.
    before, _, extension = name.rpartition(".")
    return bool(before) and extension.lower() in extensions
