"""What a path in a list may be called on the disk. Bytes in, candidates out; `names` finds out which of them exists.

A list may come from another system: in another code page, with accents composed or not (NFC, NFD), with other capitals,
backslashes, a drive letter. What exists exactly as it is written always comes first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from functools import cache, lru_cache
from os import fsdecode, fsencode
from urllib.parse import unquote_to_bytes

import attrs

# By how often names are met in them; what exists decides. Western, Mac, DOS, Japanese, Russian, Central European,
# Chinese, Korean, DOS Russian, Unix Russian, Greek, Turkish, Hebrew, Arabic, Baltic, Thai.
_PAGES = (
    *("cp1252", "latin-1", "mac_roman", "cp437", "cp850", "cp932", "cp1251", "cp1250", "gbk", "cp949", "cp950"),
    *("cp866", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874"),
)
_WIDE_PAGES = ("cp932", "gbk", "cp949", "cp950")  # those with characters of two bytes
_HALF = re.compile(rb"[\x80-\xff]\\")
_QUOTED = re.compile(rb"""\s*(["'])([^"']|[^"'].*[^"'])\1\s*""", re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # at least two letters: C:// is a drive
_DRIVE = re.compile(r"[A-Za-z]:[\\/]+|\\(?!\\)")
_UNC = re.compile(r"\\\\([^\\/]+)[\\/]")
_HFS = re.compile(r"[^:/\\]+:[^/\\]*[^:/\\]+", re.DOTALL)  # `Macintosh HD:Users:me:a.mp3`, as iTunes exported
_ESCAPED = re.compile("[\udc80-\udcff]")
_LONGEST_SHOWN = 300  # characters of an entry in a message


class Closeness(IntEnum):
    """How close the name of a file is to what is written: a closer one is taken."""

    SAME = 0
    EQUIVALENT = 1  # but for composed and decomposed accents
    REENCODED = 2  # the same text in another code page
    CASELESS = 3  # the same but for capitals


@attrs.frozen
class Spelling:
    """A path that an entry may stand for.

    Attributes:
        path: relative to the folder of the list, or absolute.
        rooted: whether it begins at the root of a drive, which is some folder above the list.
    """

    path: str
    rooted: bool = False


@attrs.frozen
class Unreadable:
    """Why an entry is no path of this machine."""

    reason: str


def spell(name: bytes) -> tuple[Spelling, ...] | Unreadable:
    """Return the paths that an entry may stand for, the likeliest first, or why there are none.

    Entries may be percent-encoded or not; only a `file:` URL always is.
    """
    if name[:5].lower() == b"file:":
        path = _path_of_url(name)
        return path if isinstance(path, Unreadable) else _unique(_spell_plain(path))
    if b"\x00" in name:
        return Unreadable("this is not a path")
    text = _decode(name)
    if scheme := _SCHEME.match(text):
        return Unreadable(f"{scheme[1]} URLs cannot be read, only http, https and file")
    spelled = [*_spell_plain(name)]
    if b"%" in name and b"\x00" not in (unquoted := unquote_to_bytes(name)):
        spelled += _spell_plain(unquoted)
    if quoted := _QUOTED.fullmatch(name):  # as Explorer copies paths
        inside = spell(quoted[2])
        spelled += () if isinstance(inside, Unreadable) else inside
    for one in tuple(spelled):  # what somebody typed has spaces around it that are in no name
        if (stripped := one.path.strip()) != one.path:
            spelled.append(attrs.evolve(one, path=stripped))
    return _unique(one for one in spelled if one.path)


def machine_of(name: bytes) -> str | None:
    """Return the machine that a path of a Windows network names."""
    match = _UNC.match(_decode(name))
    return None if match is None else match[1]


def show_name(name: bytes) -> str:
    """Return an entry as text to be shown: what is not text in it is escaped, and it is cut if it is very long."""
    text = name[: 4 * _LONGEST_SHOWN].decode("utf-8", "backslashreplace")
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def url_of(name: bytes) -> str:
    """Return an entry as a URL: bytes in it that are not text are percent-encoded."""
    return _ESCAPED.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", _decode(name).strip())


def composed(name: str) -> str:
    """Return a name with its accents composed (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def fold(name: str) -> str:
    """Return the key under which names are found that are the same but for capitals and the form of their accents."""
    return name.lower() if name.isascii() else composed(composed(name).lower())


@lru_cache(1024)  # the parts of paths repeat
def respell(name: str) -> frozenset[str]:
    """Return what else a name is called if its text, or that of the disk, is in another code page than UTF-8."""
    if name.isascii():
        return frozenset()
    if _ESCAPED.search(name) is None:
        return frozenset(_written(composed(name)))
    return frozenset(map(composed, _read(name)))


@lru_cache(1024)
def keys(name: str) -> frozenset[str]:
    """Return the keys of all names that a name may stand for."""
    return frozenset(map(fold, (name, *respell(name))))


def closeness(written: str, name: str) -> Closeness | None:
    """Return how close `name` is to what is written, one part of a path; `None` if it is something else."""
    if written == name:
        return Closeness.SAME
    if composed(written) == composed(name):
        return Closeness.EQUIVALENT
    if composed(name) in respell(written):
        return Closeness.REENCODED
    return Closeness.CASELESS if fold(name) in keys(written) else None


def read_text(raw: bytes, written: bytes = b"", found: str = "") -> str:
    """Return a title of a list as text.

    If it is not UTF-8, the code page that makes what is `written` of a file its name as it was `found` is that of the
    title too; without one it is Windows-1252, which most programs write.
    """
    with suppress(UnicodeDecodeError):
        return raw.decode()
    last = re.split(rb"[\\/]", written)[-1]
    for page in _PAGES:
        with suppress(UnicodeDecodeError):
            if not last.isascii() and composed(last.decode(page)) == composed(found):
                return raw.decode(page)
    with suppress(UnicodeDecodeError):
        return raw.decode("cp1252")
    return raw.decode("latin-1")  # five bytes are undefined in cp1252


def _written(text: str) -> Iterator[str]:
    """Yield what a text is called on a disk that knows another code page."""
    for page in _PAGES:
        with suppress(UnicodeError):
            yield fsdecode(text.encode(page))


def _read(name: str) -> Iterator[str]:
    """Yield the readings of a name that is not text. With tables, since to decode it by each page takes much longer."""
    with suppress(UnicodeError):
        raw = fsencode(name)
        escaped = raw.decode("ascii", "surrogateescape")
        for table in _tables_for(frozenset(_ESCAPED.findall(escaped))):
            yield escaped.translate(table)
        for page in _WIDE_PAGES:
            with suppress(UnicodeDecodeError):
                yield raw.decode(page)


@lru_cache(256)  # names have few letters with accents
def _tables_for(escaped: frozenset[str]) -> tuple[dict[int, str], ...]:
    """Return the tables that differ in what these bytes are, and know them all."""
    found = {tuple(table.get(ord(byte)) for byte in escaped): table for table in _tables()}
    return tuple(table for letters, table in found.items() if None not in letters)


@cache
def _tables() -> tuple[dict[int, str], ...]:
    """Return what each byte that is not ASCII is, by the pages of single bytes."""
    pages = (page for page in _PAGES if page not in _WIDE_PAGES)
    return tuple(
        {0xDC00 + byte: text for byte in range(0x80, 0x100) if (text := bytes([byte]).decode(page, "ignore"))}
        for page in pages
    )


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _spell_plain(name: bytes) -> Iterator[Spelling]:
    texts = dict.fromkeys([_decode(name), fsdecode(name)])
    for text in texts:
        yield Spelling(text)
    for text in texts:
        if "\\" in text or _DRIVE.match(text):
            for reading in (text, *_read_halves(name)):
                yield Spelling(reading.replace("\\", "/"))
                if drive := _DRIVE.match(reading):
                    yield Spelling(reading[drive.end() :].replace("\\", "/"), rooted=True)
        if _HFS.fullmatch(text) and "://" not in text:
            volume, _, rest = text.replace("/", "\x00").replace(":", "/").replace("\x00", ":").partition("/")
            yield Spelling(f"/{rest}")
            yield Spelling(f"/Volumes/{volume}/{rest}")


def _read_halves(name: bytes) -> Iterator[str]:
    """Yield the readings of a name in which a backslash may be half of a character."""
    if _HALF.search(name) is None:
        return
    for page in _WIDE_PAGES:
        with suppress(UnicodeDecodeError):
            yield name.decode(page)


def _path_of_url(url: bytes) -> bytes | Unreadable:
    """Return the path of a `file:` URL. Few programs encode `?` and `#`, so they are ordinary characters here."""
    rest = url.strip()[len("file:") :]
    if rest.startswith(b"//"):
        host, slash, path = rest[2:].partition(b"/")
        if host.lower() not in (b"", b"localhost"):
            return Unreadable(f"it is on another machine ({show_name(host)})")
        rest = slash + path
    decoded = unquote_to_bytes(rest)
    if b"\x00" in decoded:
        return Unreadable("this is not a path")
    return decoded[1:] if re.match(rb"/[A-Za-z]:[\\/]", decoded) else decoded


def _unique(spelled: Iterator[Spelling]) -> tuple[Spelling, ...]:
    return tuple(dict.fromkeys(spelled))
