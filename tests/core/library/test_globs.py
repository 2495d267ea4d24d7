"""Patterns as pure values: what exists as it is written is no pattern, whatever the rest of the path is."""

from __future__ import annotations

from fnmatch import fnmatchcase

from hypothesis import given, strategies as st

from aistemsplitter_async.library.globs import Glob, parse_glob

NAMES = st.text(st.sampled_from("ab2[]*?!-"), min_size=1, max_size=5).filter(lambda name: name != "**")
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def found(glob: Glob | None, path: str, tree: set[str]) -> set[str]:
    """The paths of a tree that a parsed path stands for."""
    if glob is None:
        return {path}
    paths = set[str]()
    for candidate in tree:
        states, above = glob.start, glob.base
        rest = candidate if glob.base == "." else candidate.removeprefix(f"{glob.base}/")
        if glob.base not in (".", candidate[: len(glob.base)]) or (glob.base != "." and rest == candidate):
            continue
        for name in rest.split("/"):
            states = glob.step(states, name, names_in(above, tree))
            above = name if above == "." else f"{above}/{name}"
        if glob.is_match(states):
            paths.add(candidate)
    return paths


def names_in(folder: str, tree: set[str]) -> set[str]:
    inside = (
        path if folder == "." else path.removeprefix(f"{folder}/")
        for path in tree
        if folder == "." or path.startswith(f"{folder}/")
    )
    return {path.partition("/")[0] for path in inside}


def with_folders(paths: set[str]) -> set[str]:
    return {"/".join(path.split("/")[:end]) for path in paths for end in range(1, path.count("/") + 2)}


@given(PATHS, st.sets(PATHS, max_size=6))
def test_a_path_that_exists_stands_for_itself_alone(path: str, others: set[str]) -> None:
    tree = with_folders({path, *others})
    assert found(parse_glob(path, tree.__contains__), path, tree) == {path}


@given(PATHS, NAMES, st.sets(PATHS, max_size=6))
def test_what_a_path_with_a_pattern_at_its_end_stands_for_is_below_the_folder_that_is_named(
    folder: str, pattern: str, others: set[str]
) -> None:
    tree = with_folders({f"{folder}/a", *others})
    for path in found(parse_glob(f"{folder}/{pattern}", tree.__contains__), f"{folder}/{pattern}", tree):
        assert path.startswith(f"{folder}/")
        name = path.removeprefix(f"{folder}/")
        assert name == pattern or fnmatchcase(name, pattern)


def test_brackets_that_a_name_has_are_ordinary_characters_and_others_are_a_set() -> None:
    glob = parse_glob("*/Album [2001] */[0-9]*.wav", lambda _: False)
    assert glob is not None
    settled = glob.settle(lambda prefix: len(prefix.parts) == 2)
    assert (settled.plain, settled.has_sets) == (frozenset({1}), True)
    states = settled.step(settled.start, "x", {"x"})
    names = {"Album [2001] (live)", "Album 2 (live)"}
    assert [bool(settled.step(states, name, names)) for name in sorted(names)] == [False, True]
    assert not settled.settle(lambda _: True).has_sets


def test_a_path_without_any_of_the_characters_is_no_pattern() -> None:
    assert parse_glob("a/b.wav", lambda _: False) is None
    assert parse_glob("/a/*", lambda _: False) == Glob("/a", ("*",))
    assert parse_glob("/*", lambda _: False) == Glob("/", ("*",))
    assert parse_glob("*//b/", lambda _: False) == Glob(".", ("*", "b", "**"))
