"""Safe file names: names from elsewhere are treated as hostile until they are checked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from aistemsplitter_async.config import STEMS_CAP
from aistemsplitter_async.errors import DownloadError, UnsafeNameError

_FOUR_STEMS = ("vocals", "drums", "bass", "other")
MODEL_STEMS = {"4s": _FOUR_STEMS, "6s": (*_FOUR_STEMS, "guitar", "piano")}
KNOWN_STEMS = frozenset(MODEL_STEMS["6s"])
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
# Invisible characters that belong to what is seen: joiners, which Persian, Indian scripts and emoji are written with,
# and the tags behind a black flag that make it England's or Scotland's.
_JOINERS = frozenset("\u200c\u200d")
_FLAG = re.compile("(?<=\U0001f3f4)[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f")
_SHAPED = frozenset("LMS")  # letters, marks, symbols: a joiner shapes the one before it
_ASCII = 0x7F
_EMOJI = range(0x1F300, 0x1FB00)  # reserved for them: which of these are assigned depends on the version of Python


def check_name(name: str) -> str:
    """Return `name`, NFKC-normalised, if it can be one file's name on every system.

    Raises:
        UnsafeNameError: it is empty, only dots, longer than 120 bytes, reserved on Windows, begins or ends with a dot
            or space, or holds a separator, a colon, a wildcard, a control, a bidirectional mark, or a joiner that joins
            nothing. Normalising comes first: a fullwidth solidus must not turn into a separator afterwards. A dot in
            front hides a file, and is where our own parts and manifests are.
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
    if unseen_in(name):
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


def unseen_in(name: str) -> set[int]:
    """Return where in `name` characters are that are not seen, and part of none that is."""
    flags = {place for found in _FLAG.finditer(name) for place in range(*found.span())}
    return {
        place
        for place, (before, character) in enumerate(zip(f" {name}", name, strict=False))
        if unicodedata.category(character) in _FORBIDDEN_CATEGORIES
        and ord(character) not in _EMOJI
        and not (character in _JOINERS and ord(before) > _ASCII and _is_shaped(before))
        and place not in flags
    }


def _is_shaped(character: str) -> bool:
    return unicodedata.category(character)[0] in _SHAPED or ord(character) in _EMOJI


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


def plan_names(
    stems: Collection[str], pattern: str = ANY_STEM, *, wanted: Collection[str] | None = None
) -> tuple[dict[str, str], dict[str, DownloadError]]:
    """Return the safe file name (without extension) of each wanted stem, and why the others of them have none.

    Names that differ only in case, or only before normalisation, would be one file on some systems: all but the
    first of the split are refused, whether or not the first is wanted now. So is what comes after the first 256.
    """
    names: dict[str, str] = {}
    refused: dict[str, DownloadError] = {}
    taken: dict[str, str] = {}
    for stem in stems:
        is_wanted = wanted is None or stem in wanted
        if is_wanted and len(names) + len(refused) == STEMS_CAP:
            refused[stem] = DownloadError(
                f"the split has {len(stems)} stems, and only the first {STEMS_CAP} of them are downloaded. The URLs of "
                "the others are in its stems, which the command get shows",
                code="TOO_MANY",
            )
            break
        try:
            name = stem_file_name(stem, pattern)
        except UnsafeNameError as error:
            if is_wanted:
                refused[stem] = error
            continue
        first = taken.setdefault(fold(name), stem)
        if first == stem and is_wanted:
            names[stem] = name
        elif is_wanted:
            refused[stem] = UnsafeNameError(f"the stems {first!r} and {stem!r} would be the same file")
    return names, refused


def fold(name: str) -> str:
    """Return a key that is equal for names that are one file on some systems; HFS+ does not see joiners."""
    seen = "".join(character for character in name if character not in _JOINERS)
    # Before, since marks in another order are folded otherwise; after, since folding leaves letters and marks apart.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())


def make_name(text: str, *, fallback: str) -> str:
    """Return the nearest name to `text` that `check_name` accepts, or `fallback` if nothing of it is left."""
    normal = unicodedata.normalize("NFKC", text)
    controls = unseen_in(normal)
    kept = "".join(
        "_" if character in _FORBIDDEN_CHARACTERS or place in controls else character
        for place, character in enumerate(normal)
    )
    short = cut_name(kept, NAME_CAP_BYTES).strip(". ")
    if _RESERVED.fullmatch(short):
        short = f"_{short}"
    return short if short and _problem(short) is None else fallback


def cut_name(name: str, most: int) -> str:
    """Return the beginning of `name` that has at most `most` bytes, without half a character or the joiner of one."""
    short = name.encode()[:most].decode("utf-8", "ignore")
    if short != name:  # the rest of a flag is none
        short = short.rstrip("\u200c\u200d").rstrip("".join(map(chr, range(0xE0020, 0xE007F))))
    return short


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
