"""Paths of stems: a template such as `{artist}/{album}/{title}/{stem}.{ext}`, filled with a track's tags.

Tags are untrusted: whatever their content, each part of the result is one safe name (`check_name`), and the result is
inside the output folder. The downloader replaces `{stem}` and `{ext}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import attrs

from aistemsplitter_async._transfer.names import (
    ANY_STEM,
    NAME_CAP_BYTES,
    check_name,
    cut_name,
    fold,
    folder_name,
    make_name,
)
from aistemsplitter_async.errors import ConfigurationError, UnsafeNameError

FIELDS = (
    *("artist", "albumartist", "album", "title", "disc", "track", "year", "genre"),  # from the tags
    *("filename", "folder", "id"),  # from where the track was found
    *("stem", "ext"),  # from the split
)
_NUMBERS = ("disc", "track")
_PATTERN_CAP_BYTES = 80  # of text around `{stem}`: leaves 40 of a name's 120 bytes for the stem
_ENDING = ".{ext}"
_FIELD = re.compile(r"\{([^{}]*)\}")
_YEAR = re.compile(r"\d{4}")
_DISC = re.compile(r"(?<![^\W_])(?:cd|dis[ck])[\s._-]*(\d{1,2})(?!\d)", re.IGNORECASE)  # `CD1`, `Album (Disc 2)`
_PLAIN = str.maketrans("{}", "()")  # so that a title cannot contain a `{stem}`

Part = tuple[str, ...]  # text, field, text, field, .., text


@attrs.frozen(kw_only=True)
class Tags:
    """A file's tags, as far as it has any; `discs` of the album, and `tracks` of this disc."""

    artist: str | None = None
    albumartist: str | None = None
    album: str | None = None
    title: str | None = None
    disc: int | None = None
    discs: int | None = None
    track: int | None = None
    tracks: int | None = None
    year: str | None = None
    genre: str | None = None


@attrs.frozen
class Place:
    """The place of one track's stems.

    Attributes:
        folder: relative to the output folder, with `/` between its parts; may be empty.
        pattern: the files' name without extension, with `{stem}` in it.
    """

    folder: str
    pattern: str

    @property
    def key(self) -> str:
        """Equal for two places that are the same on some file systems."""
        return fold(f"{self.folder}/{self.pattern}")


@attrs.frozen
class Template:
    """A parsed template, made by `parse_template`."""

    text: str
    folders: tuple[Part, ...]
    file: Part

    def fill(self, tags: Tags, *, filename: str, folder: str = "", id: str = "") -> Place:  # noqa: A002  # its field
        """Return the place of one track.

        Args:
            tags: of the track. A missing title is replaced by the file's name, a missing disc by the first, a track
                number by 00, artist and album artist by each other, other tags by e.g. `Unknown Artist`.
            filename: the track's file name or the last part of its URL.
            folder: where it was found, relative to the folder that was searched, with `/` between its parts.
            id: anything that distinguishes it from other tracks.
        """
        values = _values(tags, filename, id)
        names: list[str] = []
        for part in self.folders:
            if part == ("", "folder", ""):
                names += [make_name(name, fallback="_") for name in folder.split("/") if name.strip(". ")]
            else:
                names.append(_join(part, values, NAME_CAP_BYTES))
        return Place("/".join(names), _join(self.file, values, _PATTERN_CAP_BYTES))


def parse_template(text: str) -> Template:
    """Parse a template: folders with `/` between them, and a file name that ends in `.{ext}`.

    Raises:
        ConfigurationError: an unknown field, no `{stem}` in the file name, or text that cannot be part of a file name.
    """
    for field in _FIELD.findall(text):
        if field not in FIELDS:
            known = ", ".join(f"{{{name}}}" for name in FIELDS)
            name, colon, _ = field.partition(":")
            hint = f"; numbers need no format: {{{name}}} has zeros in front" if colon and name in _NUMBERS else ""
            raise _wrong(text, f"there is no field {{{field}}}{hint}; known are {known}")
    if set("{}").intersection(_FIELD.sub("", text)):
        raise _wrong(text, "it has an unmatched brace")
    *folders, file = text.split("/")
    if file.count(ANY_STEM) != 1 or ANY_STEM in "".join(folders):
        raise _wrong(text, f"{ANY_STEM} must occur exactly once, in its last part, the file name")
    if not file.endswith(_ENDING) or text.count("{ext}") != 1:
        raise _wrong(text, f"it must end in {_ENDING}, and {{ext}} must not occur elsewhere")
    if "{folder}" in file or any("{folder}" in part and part != "{folder}" for part in folders):
        raise _wrong(text, "{folder} stands for several folders, so it must be a separate part: .../{folder}/...")
    if not set(_FIELD.findall(text)) - {"stem", "ext"}:
        raise _wrong(text, "every track would go to the same place; add a field such as {title} or {filename}")
    return Template(
        text,
        tuple(_parse_part(text, part, NAME_CAP_BYTES) for part in folders),
        _parse_part(text, file.removesuffix(_ENDING), _PATTERN_CAP_BYTES),
    )


def disc_of_folder(name: str) -> int | None:
    """Return which disc a folder such as `CD1` or `Album (Disc 2)` holds, `None` if its name does not say it."""
    found = _DISC.search(name)
    return int(found[1]) or None if found else None


def choose_place(place: Place, is_taken: Callable[[str], bool]) -> Place:
    """Return `place`, or a free one of `Title (2)`, `Title (3)`, ... if another track has it.

    The answer depends only on which places are taken; store it, so that a track has the same place in every run.

    Args:
        place: where the track should go.
        is_taken: whether another track has the place with this `key`. It is called about log2(n) times for the n-th
            track of a name: a binary search, so numbers that became free in between may be missed.
    """
    if not is_taken(place.key):
        return place
    taken, free = 1, 2
    while is_taken(_numbered(place, free).key):
        taken, free = free, 2 * free
    while free - taken > 1:
        middle = (taken + free) // 2
        if is_taken(_numbered(place, middle).key):
            taken = middle
        else:
            free = middle
    return _numbered(place, free)


def _numbered(place: Place, number: int) -> Place:
    suffix = f" ({number})"
    if place.pattern != ANY_STEM:  # other tracks may share the folder, so it is the file that needs a number
        return attrs.evolve(place, pattern=place.pattern + suffix)
    *above, last = place.folder.split("/")
    return attrs.evolve(place, folder="/".join([*above, f"{_cut(last, NAME_CAP_BYTES - len(suffix))}{suffix}".strip()]))


def _values(tags: Tags, filename: str, track_id: str) -> Mapping[str, str]:
    """Return each field's value: never empty, and safe as part of a name."""
    name = _clean(folder_name(filename, fallback="")) or _clean(track_id) or "audio"
    artist, albumartist = _clean(tags.artist), _clean(tags.albumartist)
    year = _YEAR.search(tags.year or "")
    return {
        "artist": artist or albumartist or "Unknown Artist",
        "albumartist": albumartist or artist or "Unknown Artist",
        "album": _clean(tags.album) or "Unknown Album",
        "title": _clean(tags.title) or name,
        "disc": _number(tags.disc or 1, tags.discs, 1),
        "track": _number(tags.track or 0, tags.tracks, 2),
        "year": year[0] if year else "Unknown Year",
        "genre": _clean(tags.genre) or "Unknown Genre",
        "filename": name,
        "id": _clean(track_id) or name,
        "stem": ANY_STEM,
    }


def _number(number: int, of: int | None, digits: int) -> str:
    """Return a number with as many digits as the last one has, so that the names are in the order of the numbers."""
    return f"{number:0{max(digits, len(str(of or 0)))}}"


def _clean(text: str | None) -> str:
    name = make_name(text or "", fallback="").translate(_PLAIN)
    return name if name.strip("_. ") else ""


def _join(part: Part, values: Mapping[str, str], cap_bytes: int) -> str:
    """Return the name made from a part; the longest values are shortened until it fits."""
    texts = [values[text] if index % 2 else text for index, text in enumerate(part)]
    fixed = [not index % 2 or text == "stem" for index, text in enumerate(part)]
    while (excess := sum(_size(text) for text in texts if text != ANY_STEM) - cap_bytes) > 0:
        longest = max((index for index in range(len(texts)) if not fixed[index]), key=lambda index: _size(texts[index]))
        texts[longest] = _cut(texts[longest], max(0, _size(texts[longest]) - excess))
    return make_name("".join(texts), fallback="_")


def _size(text: str) -> int:
    return len(text.encode())


def _cut(text: str, size_bytes: int) -> str:
    return cut_name(text, size_bytes).rstrip(". ")


def _parse_part(template: str, text: str, cap_bytes: int) -> Part:
    part = tuple(_FIELD.split(text))
    literal = "".join(part[::2])
    if _size(literal) > cap_bytes // 2:
        raise _wrong(template, f"{literal!r} leaves no room for the fields")
    sample = _FIELD.sub("x", text)
    try:
        if check_name(sample) == sample:
            return part
        problem = "some systems change characters of it"
    except UnsafeNameError as error:
        problem = str(error).partition("not safe for a file: ")[2]
    raise _wrong(template, f"its part {text!r} cannot be a file name: {problem}")


def _wrong(template: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"the template {template!r} is invalid: {problem}")
