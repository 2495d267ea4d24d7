"""Safe file names: names from elsewhere are treated as hostile until they are checked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from aistemsplitter_async.config import STEMS_CAP
from aistemsplitter_async.errors import DownloadError, UnsafeNameError

KNOWN_STEMS = frozenset({"vocals", "drums", "bass", "other", "guitar", "piano"})
NAME_CAP_BYTES = 120  # leaves room for the extension and `.part` under every file system's 255
ANY_STEM = "{stem}"  # where a stem's name goes in a pattern of file names
AUDIO_EXTENSIONS = frozenset(
    {
        *("aac", "aif", "aifc", "aiff", "alac", "ape", "caf", "flac", "m4a", "m4b"),
        *("mka", "mp2", "mp3", "oga", "ogg", "opus", "wav", "weba", "wma", "wv"),
    }
)
UNKNOWN_EXTENSION = "bin"
EXTENSION_BY_TYPE = {
    "audio/aac": "aac",
    "audio/aiff": "aiff",
    "audio/flac": "flac",
    "audio/mp3": "mp3",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/opus": "opus",
    "audio/vnd.wave": "wav",
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/webm": "weba",
    "audio/x-aiff": "aiff",
    "audio/x-flac": "flac",
    "audio/x-m4a": "m4a",
    "audio/x-wav": "wav",
}
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9]|lpt[0-9]) *(\..*)?", re.IGNORECASE)  # after NFKC
_FORBIDDEN_CHARACTERS = frozenset('/\\:*?"<>|')
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # controls, bidi marks, unassigned


def check_name(name: str) -> str:
    """Return `name`, NFKC-normalised, if it can be one file's name on every system.

    Raises:
        UnsafeNameError: it is empty, only dots, longer than 120 bytes, reserved on Windows, begins or ends with a dot
            or space, or holds a separator, a colon, a wildcard, a control or a bidirectional mark. Normalising comes
            first: a fullwidth solidus must not turn into a separator afterwards. A dot in front hides a file, and is
            where our own parts and manifests are.
    """
    if name in KNOWN_STEMS:
        return name
    normal = unicodedata.normalize("NFKC", name)
    problem = _problem(normal)
    if problem:
        raise UnsafeNameError(f"the name {name[:NAME_CAP_BYTES]!r} is not safe for a file: {problem}")
    return normal


def _problem(name: str) -> str | None:
    if not name.strip(". "):
        return "it has nothing but dots or spaces"
    if any(unicodedata.category(character) in _FORBIDDEN_CATEGORIES for character in name):
        return "it has control or unassigned characters"
    if _FORBIDDEN_CHARACTERS.intersection(name):
        return 'it has one of / \\ : * ? " < > |'
    if name[-1] in ". " or name[0] in ". ":
        return "it has a dot or a space at an end"
    if _RESERVED.fullmatch(name):
        return "it is reserved on Windows"
    if len(name.encode()) > NAME_CAP_BYTES:
        return f"it is longer than {NAME_CAP_BYTES} bytes"
    return None


def stem_file_name(stem: str, pattern: str = ANY_STEM) -> str:
    """Return the safe file name, without extension, of `stem` by a pattern such as `Song - {stem}`.

    Raises:
        UnsafeNameError: the stem's name or the whole one does not pass `check_name`, or the pattern does not contain
            `{stem}` exactly once.
    """
    before, found, after = pattern.partition(ANY_STEM)
    if not found or ANY_STEM in after:
        raise UnsafeNameError(f"the name pattern {pattern[:NAME_CAP_BYTES]!r} must contain {ANY_STEM} once")
    return check_name(before + check_name(stem) + after)


def plan_names(stems: Collection[str], pattern: str = ANY_STEM) -> tuple[dict[str, str], dict[str, DownloadError]]:
    """Return the safe file name (without extension) of each stem, and why the others have none.

    Names that differ only in case, or only before normalisation, would be one file on some systems: all but the
    first are refused. So is what comes after the first 256.
    """
    names: dict[str, str] = {}
    refused: dict[str, DownloadError] = {}
    taken: dict[str, str] = {}
    for number, stem in enumerate(stems):
        if number == STEMS_CAP:
            refused[stem] = DownloadError(
                f"the split has {len(stems)} stems, and only the first {STEMS_CAP} of them are downloaded. The URLs of "
                "the others are in its stems, which the command get shows",
                code="TOO_MANY",
            )
            break
        try:
            name = stem_file_name(stem, pattern)
        except UnsafeNameError as error:
            refused[stem] = error
            continue
        first = taken.setdefault(fold(name), stem)
        if first == stem:
            names[stem] = name
        else:
            refused[stem] = UnsafeNameError(f"the stems {first!r} and {stem!r} would be the same file")
    return names, refused


def fold(name: str) -> str:
    """Return a key that is equal for names that are one file on some systems."""
    return unicodedata.normalize("NFKC", name.casefold())


def make_name(text: str, *, fallback: str) -> str:
    """Return the nearest name to `text` that `check_name` accepts, or `fallback` if nothing of it is left."""
    normal = unicodedata.normalize("NFKC", text)
    kept = "".join(
        "_"
        if character in _FORBIDDEN_CHARACTERS or unicodedata.category(character) in _FORBIDDEN_CATEGORIES
        else character
        for character in normal
    )
    short = kept.encode()[:NAME_CAP_BYTES].decode("utf-8", "ignore").strip(". ")
    if _RESERVED.fullmatch(short):
        short = f"_{short}"
    return short if short and _problem(short) is None else fallback


def folder_name(filename: str | None, *, fallback: str) -> str:
    """Return the folder that holds the stems of a source called `filename`: its name without the extension."""
    stem = PurePosixPath((filename or "").replace("\\", "/")).stem
    return make_name(stem, fallback=fallback)


def extension_for(url: str, content_type: str | None) -> str:
    """Return the extension of a stem: what its URL says if that is one of audio, else its type, else `bin`."""
    suffix = PurePosixPath(urlsplit(url).path).suffix.removeprefix(".").lower()
    if suffix in AUDIO_EXTENSIONS:
        return suffix
    return EXTENSION_BY_TYPE.get((content_type or "").partition(";")[0].strip().lower(), UNKNOWN_EXTENSION)
