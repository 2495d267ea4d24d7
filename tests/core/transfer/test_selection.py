"""Which stems are kept and fetched, and what is refused before anything is paid for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aistemsplitter_async._transfer.names import plan_names
from aistemsplitter_async._transfer.selection import ALL_STEMS, NO_SUCH_STEM, Mix, Selection
from aistemsplitter_async.config import STEMS_CAP
from aistemsplitter_async.errors import ConfigurationError, DownloadError

FOUR = ("vocals", "drums", "bass", "other")
NAMES = st.sampled_from([*FOUR, "guitar", "choir"])


def test_nothing_said_is_everything() -> None:
    assert Selection.parse() == Selection.parse(None, {}) == ALL_STEMS
    assert ALL_STEMS.kept(["x", *FOUR]) == ALL_STEMS.fetched(["x", *FOUR]) == ("x", *FOUR)


@given(wanted=st.lists(NAMES, min_size=1), there=st.lists(NAMES, unique=True))
def test_what_is_kept_is_what_is_wanted_in_the_order_of_the_split_or_an_error_with_all_that_exists(
    wanted: list[str], there: list[str]
) -> None:
    selection = Selection.parse(wanted)
    if set(wanted) <= set(there):
        assert selection.kept(there) == tuple(stem for stem in there if stem in wanted) == selection.fetched(there)
    else:
        with pytest.raises(DownloadError) as caught:
            selection.kept(there)
        assert caught.value.code == NO_SUCH_STEM
        lacking, _, existing = str(caught.value).partition(";")
        assert {name for name in wanted if repr(name) in lacking} == set(wanted) - set(there)
        assert existing == f" it has {', '.join(map(repr, there)) or 'none'}"


def no_names() -> Iterator[str]:
    yield "vocals"


@pytest.mark.parametrize(
    ("stems", "said"),
    [
        ("vocals", r"like \('vocals',\), not 'vocals'"),
        (b"vocals", "collection of names"),
        (no_names(), "collection of names"),
        (7, "collection of names"),
        ((), "nothing to download; leave stems out"),
        (("vocals", None), "names of stems, not None"),
        (("vocals", ""), "names of stems, not ''"),
    ],
)
def test_what_is_no_selection_is_refused_with_the_way_out(stems: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Selection.parse(stems)


@pytest.mark.parametrize(
    ("model", "stem", "said"),
    [
        ("4s", "piano", r"the model 4s does not have a stem 'piano'; there are vocals, drums, bass, other$"),
        ("6s", "choir", r"the model 6s does not have a stem 'choir'; there are .*, guitar, piano$"),
        (None, "Vocals", r"no model has a stem 'Vocals'; there are vocals, .*, piano$"),
        (None, "piano", None),
        ("6s", "piano", None),
        ("htdemucs_ft", "choir", None),
    ],
)
def test_a_stem_that_the_model_cannot_have_is_refused(model: str | None, stem: str, said: str | None) -> None:
    selection = Selection.parse(["vocals", stem])
    if said is None:
        selection.check_model(model)
    else:
        with pytest.raises(ConfigurationError, match=said):
            selection.check_model(model)


def test_a_mix_is_the_sum_of_stems_or_of_all_but_some() -> None:
    assert Mix.parse("m", ("drums", "bass")).sum_of(FOUR) == ("drums", "bass")
    assert Mix.parse("m", "-vocals").sum_of((*FOUR, "piano")) == ("drums", "bass", "other", "piano")
    for odd in ((), "", "-", ("drums", "-bass"), 7, ("drums", 7)):
        with pytest.raises(ConfigurationError, match="mix 'm'"):
            Mix.parse("m", odd)  # type: ignore[arg-type]


def test_stems_that_only_a_mix_needs_are_fetched_and_not_kept() -> None:
    selection = Selection(("vocals",), {"rhythm": Mix(("drums", "bass"))})
    assert selection.kept(FOUR) == ("vocals",)
    assert selection.fetched(FOUR) == ("vocals", "drums", "bass")
    assert selection.files == ("vocals", "rhythm")
    with pytest.raises(DownloadError, match="does not have a stem 'bass'; it has 'vocals', 'drums'"):
        selection.kept(["vocals", "drums"])


def test_names_collide_with_all_stems_of_a_split_and_are_counted_among_the_wanted() -> None:
    """Or two calls that want one each would write the same file; and the last of very many stems can be had."""
    assert plan_names(["Vocals", "vocals"], wanted=["Vocals"]) == ({"Vocals": "Vocals"}, {})
    names, refused = plan_names(["Vocals", "vocals"], wanted=["vocals"])
    assert (names, list(refused)) == ({}, ["vocals"])
    many = [f"stem {number}" for number in range(STEMS_CAP + 50)]
    assert plan_names(many, wanted=many[-1:]) == ({many[-1]: many[-1]}, {})
    names, refused = plan_names(many, wanted=many[9:])
    assert (len(names), list(refused)) == (STEMS_CAP, [many[9 + STEMS_CAP]])
    assert plan_names(["../x", "vocals"], wanted=["vocals"]) == ({"vocals": "vocals"}, {})
