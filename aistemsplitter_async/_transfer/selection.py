"""Which stems of a split are wanted, and which mixes of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Self

import attrs

from aistemsplitter_async._transfer.names import KNOWN_STEMS, MODEL_STEMS, NAME_CAP_BYTES, check_name, fold
from aistemsplitter_async.config import STEMS_CAP
from aistemsplitter_async.errors import ConfigurationError, DownloadError, UnsafeNameError

NO_SUCH_STEM: Final = "NO_SUCH_STEM"  # the code of that error
NO_STEMS: Final = "NO_STEMS"  # that of a split that has none, such as one that is still processing
NO_SUCH_MIX: Final = "NO_SUCH_MIX"  # the same of a mix
_ANY_MODEL: Final = "6s"  # which has every stem that is known
_ALL_BUT: Final = "-"

StemNames = Collection[str]
Mixes = Mapping[str, str | Collection[str]]


@attrs.frozen
class Mix:
    """What a mix is the sum of.

    Attributes:
        stems: their names.
        all_but: whether it is the sum of all others, rather than of these.
    """

    stems: tuple[str, ...]
    all_but: bool = False

    @classmethod
    def parse(cls, name: str, summed: str | Collection[str]) -> Self:
        """Return the mix called `name`, written as names of stems, or as names with a minus: all but those.

        Raises:
            ConfigurationError: it is written in another way.
        """
        words = _parse_names([summed] if isinstance(summed, str) else summed, f"the mix {name!r}")
        left_out = [word.removeprefix(_ALL_BUT) for word in words if word.startswith(_ALL_BUT)]
        if not words or "" in left_out or len(left_out) not in (0, len(words)):
            raise ConfigurationError(
                f'the mix {name!r} must be stems like ("drums", "bass") or all but some like "-vocals", not {summed!r}'
            )
        return cls(tuple(left_out or words), all_but=bool(left_out))

    def sum_of(self, stems: Collection[str]) -> tuple[str, ...]:
        """Return those of a split's stems that it is the sum of."""
        return tuple(stem for stem in stems if (stem in self.stems) is not self.all_but)


@attrs.frozen
class Selection:
    """What is downloaded of a split.

    Attributes:
        stems: names of stems; `None` for all that there are.
        mixes: by the names of their files.
    """

    stems: tuple[str, ...] | None = None
    mixes: Mapping[str, Mix] = attrs.field(factory=dict[str, Mix])

    @classmethod
    def parse(cls, stems: StemNames | None = None, mixes: Mixes | None = None) -> Self:
        """Return the selection that a caller asks for.

        Raises:
            ConfigurationError: it is not one, or selects nothing.
        """
        names = None if stems is None else _parse_names(stems, "stems")
        if names == () and not mixes:
            raise ConfigurationError("no stems and no mix are nothing to download; leave stems out to download all")
        parsed = {_parse_mix_name(name): Mix.parse(name, summed) for name, summed in (mixes or {}).items()}
        if len({fold(name) for name in parsed}) < len(mixes or {}):
            raise ConfigurationError(f"some of the mixes {', '.join(map(repr, mixes or {}))} would be the same file")
        return cls(names, parsed)

    @property
    def is_nothing(self) -> bool:
        """Return whether nothing is to be downloaded."""
        return self.stems == () and not self.mixes

    @property
    def named(self) -> tuple[str, ...]:
        """Return every stem that is called by its name."""
        mixed = (stem for mix in self.mixes.values() for stem in mix.stems)
        return tuple(dict.fromkeys([*(self.stems or ()), *mixed]))

    @property
    def files(self) -> tuple[str, ...]:
        """Return, before the split is known, which files it may become, without their extension."""
        return (*(sorted(KNOWN_STEMS) if self.stems is None else self.stems), *self.mixes)

    def check_model(self, stem_model: str | None) -> None:
        """Check that a split by this model may have the stems, before it is paid for.

        Raises:
            ConfigurationError: it cannot. What a model that is not known here has shows only in its splits.
        """
        there = MODEL_STEMS.get(stem_model or _ANY_MODEL)
        if there is not None and (missing := _missing(self.named, there)):
            whose = "no model has" if stem_model is None else f"the model {stem_model} does not have"
            raise ConfigurationError(f"{whose} {missing}; there are {', '.join(there)}")

    def kept(self, stems: Collection[str]) -> tuple[str, ...]:
        """Return which of a split's stems end as files.

        Raises:
            DownloadError: one that is called by its name is not among them (`code` is `NO_SUCH_STEM`).
        """
        if missing := _missing(self.named, stems):
            there = ", ".join([repr(stem[:NAME_CAP_BYTES]) for stem in stems][:STEMS_CAP]) or "none"
            raise DownloadError(f"the split does not have {missing}; it has {there}", code=NO_SUCH_STEM)
        return tuple(stem for stem in stems if self.stems is None or stem in self.stems)

    def fetched(self, stems: Collection[str]) -> tuple[str, ...]:
        """Return which of a split's stems are needed: those that are kept, and those that mixes are made of.

        Raises:
            DownloadError: see `kept`.
        """
        needed = {*self.kept(stems), *(stem for mix in self.mixes.values() for stem in mix.sum_of(stems))}
        return tuple(stem for stem in stems if stem in needed)


ALL_STEMS: Final = Selection()


def _parse_names(names: Collection[str], what: str) -> tuple[str, ...]:
    """Return names without repetitions.

    Raises:
        ConfigurationError: these are no names.
    """
    if isinstance(names, str | bytes) or not isinstance(names, Collection):
        shown = f"({names!r},)" if isinstance(names, str) else '("vocals",)'
        raise ConfigurationError(f"{what} must be a collection of names, like {shown}, not {names!r}")
    if odd := [name for name in names if not (isinstance(name, str) and name)]:
        raise ConfigurationError(f"{what} must be names of stems, not {odd[0]!r}")
    return tuple(dict.fromkeys(names))


def _parse_mix_name(name: str) -> str:
    """Return the name of a mix, which becomes that of its file.

    Raises:
        ConfigurationError: it cannot be one, or is that of a stem.
    """
    try:
        if fold(name) in KNOWN_STEMS:
            raise ConfigurationError(f"the mix {name!r} must not be called like a stem")
        return check_name(name)
    except UnsafeNameError as error:
        raise ConfigurationError(f"the name of a mix is that of its file: {error}") from None


def _missing(named: Collection[str], there: Collection[str]) -> str:
    """Return, as text, which of the named stems are not there."""
    missing = [repr(stem) for stem in named if stem not in there]
    return f"a stem {missing[0]}" if len(missing) == 1 else f"stems {', '.join(missing)}" if missing else ""
