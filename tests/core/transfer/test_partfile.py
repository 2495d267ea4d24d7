"""The disk side of a download, on a real disk: nothing partial, nothing overwritten, nothing outside of the folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from aistemsplitter_async._transfer.manifest import MANIFEST_NAME, Manifest, StemRecord, manifest_name, pattern_of
from aistemsplitter_async._transfer.partfile import PartFile, part_path
from aistemsplitter_async._transfer.target import prepare_folder
from aistemsplitter_async.errors import DownloadError, UnsafeNameError

posix = pytest.mark.skipif(sys.platform == "win32", reason="links and locks of POSIX")
GOOD = {"version": 1, "split_id": "split_1", "stems": {"vocals": {"file": "vocals.wav", "etag": '"v1"', "total": 5}}}


def remember(folder: Path, saved: object) -> None:
    (folder / MANIFEST_NAME).write_text(json.dumps(saved))


def entry(**change: Any) -> dict[str, Any]:
    return {**GOOD, "stems": {"vocals": {"file": "vocals.wav", "etag": '"v1"', "total": 5, **change}}}


def fetched(folder: Path, name: str = "vocals", data: bytes = b"12345", *, overwrite: bool = False) -> Path:
    part = PartFile(part_path(folder, name))
    try:
        part.write(data)
        part.publish(folder / f"{name}.wav", overwrite=overwrite)
    finally:
        part.close()
    return folder / f"{name}.wav"


def test_a_published_part_is_the_target_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = fetched(tmp_path)
    assert target.read_bytes() == b"12345"
    assert [path.name for path in tmp_path.iterdir()] == ["vocals.wav"]


def test_nothing_is_overwritten_unasked_and_the_part_is_kept(tmp_path: Path) -> None:
    (tmp_path / "vocals.wav").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="exists already") as caught:
        fetched(tmp_path)
    assert caught.value.code == "EXISTS"
    assert (tmp_path / "vocals.wav").read_bytes() == b"mine"
    assert part_path(tmp_path, "vocals").read_bytes() == b"12345"
    assert fetched(tmp_path, overwrite=True).read_bytes() == b"12345"


@posix
def test_publishing_replaces_a_link_and_never_what_it_points_to(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_bytes(b"mine")
    (tmp_path / "vocals.wav").symlink_to(mine)
    with pytest.raises(DownloadError, match="exists already"):
        fetched(tmp_path)
    assert fetched(tmp_path, overwrite=True).read_bytes() == b"12345"
    assert mine.read_bytes() == b"mine"


@posix
def test_a_dangling_link_counts_as_existing_even_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "vocals.wav").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DownloadError, match="exists already"):
        fetched(tmp_path)
    (tmp_path / "vocals.wav").unlink()
    assert fetched(tmp_path).read_bytes() == b"12345"


@posix
def test_a_part_that_is_a_link_is_refused_and_its_target_untouched(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_bytes(b"mine")
    part_path(tmp_path, "vocals").symlink_to(mine)
    with pytest.raises(DownloadError):
        PartFile(part_path(tmp_path, "vocals"))
    assert mine.read_bytes() == b"mine"
    part_path(tmp_path, "drums").symlink_to(tmp_path / "created by following")
    with pytest.raises(DownloadError):
        PartFile(part_path(tmp_path, "drums"))
    assert not (tmp_path / "created by following").exists()


@posix
def test_a_part_that_is_another_name_of_a_file_does_not_change_that_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_bytes(b"mine")
    os.link(mine, part_path(tmp_path, "vocals"))
    part = PartFile(part_path(tmp_path, "vocals"))
    part.start_at(0)
    part.write(b"12345")
    part.close()
    assert mine.read_bytes() == b"mine"


@posix
@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_a_part_that_is_not_a_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = part_path(tmp_path, "vocals")
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(DownloadError):
        PartFile(path)


def test_a_part_that_cannot_be_written_is_a_download_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot write") as caught:
        PartFile(tmp_path / "missing" / ".vocals.part")
    assert caught.value.code == "DISK"


def test_a_part_continues_at_the_given_offset(tmp_path: Path) -> None:
    path = part_path(tmp_path, "vocals")
    path.write_bytes(b"123xxxxxxxx")
    part = PartFile(path, durable=4)
    assert part.size == 4
    part.start_at(3)
    part.write(b"45")
    assert part.size == 5
    part.publish(tmp_path / "vocals.wav", overwrite=False)
    part.close()
    assert (tmp_path / "vocals.wav").read_bytes() == b"12345"


@posix
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_part_that_another_process_put_in_the_place_of_this_one_is_not_published(
    tmp_path: Path, overwrite: bool
) -> None:
    path = part_path(tmp_path, "vocals")
    part = PartFile(path)
    part.write(b"12345")
    path.unlink()  # as a process does that overwrites this split with another one
    other = PartFile(path)
    other.write(b"abc")
    with pytest.raises(DownloadError, match="replaced"):
        part.publish(tmp_path / "vocals.wav", overwrite=overwrite)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"abc"
    part.close()
    other.close()


HOLD = """
import sys
from pathlib import Path
from aistemsplitter_async._transfer.partfile import PartFile
part = PartFile(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


@posix
def test_a_second_process_does_not_write_the_same_part(tmp_path: Path) -> None:
    path = part_path(tmp_path, "vocals")
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DownloadError, match="another process is downloading"):
            PartFile(path)
        other.stdin.write("\n")
    PartFile(path).close()


@posix
def test_a_part_that_was_finished_while_it_was_opened_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = part_path(tmp_path, "vocals")
    path.write_bytes(b"whole")
    real_open = os.open

    def open_late(name: Any, flags: int, mode: int = 0o777) -> int:
        descriptor = real_open(name, flags, mode)
        if Path(name) == path:
            path.replace(tmp_path / "vocals.wav")  # the other process publishes, and gives up its lock
        return descriptor

    monkeypatch.setattr(os, "open", open_late)
    with pytest.raises(DownloadError, match="just finished"):
        PartFile(path)
    assert (tmp_path / "vocals.wav").read_bytes() == b"whole"


def test_a_manifest_is_read_as_it_was_saved(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, "split_1", {"vocals": StemRecord(file="vocals.wav", etag='"v1"', total=5)})
    manifest.stems["Stimme für Björk"] = StemRecord(file="Stimme für Björk.mp3")
    manifest.stems["\uff56\uff4f\uff58"] = StemRecord(file="vox.mp3", etag=None, total=0)
    manifest.save()
    assert Manifest.load(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST_NAME]
    assert Manifest.load(tmp_path / "elsewhere") is None


TAMPERED: dict[str, object] = {
    "list": [],
    "null": None,
    "text": "x",
    "other version": {**GOOD, "version": 2},
    "no version": {key: value for key, value in GOOD.items() if key != "version"},
    "no split": {key: value for key, value in GOOD.items() if key != "split_id"},
    "split is a number": {**GOOD, "split_id": 5},
    "split acts on the terminal": {**GOOD, "split_id": "\x1b[2J"},
    "stems are a list": {**GOOD, "stems": []},
    "stem is text": {**GOOD, "stems": {"vocals": "vocals.wav"}},
    "stem has more": entry(extra=1),
    "stem has no file": {**GOOD, "stems": {"vocals": {"etag": None}}},
    "file above": entry(file="../vocals.wav"),
    "file far above": entry(file="../../../../etc/passwd"),
    "file absolute": entry(file="/etc/passwd"),
    "file below": entry(file="sub/vocals.wav"),
    "file of windows": entry(file="..\\vocals.wav"),
    "file is dots": entry(file=".."),
    "file is empty": entry(file=""),
    "file is the manifest": entry(file=MANIFEST_NAME),
    "file is a part": entry(file=".vocals.part"),
    "file of another stem": entry(file="drums.wav"),
    "file without extension": entry(file="vocals"),
    "file with a strange extension": entry(file="vocals.w/v"),
    "file is a number": entry(file=5),
    "file is null": entry(file=None),
    "file with nul": entry(file="vocals\x00.wav"),
    "stem above": {**GOOD, "stems": {"../vocals": {"file": "../vocals.wav"}}},
    "stem is our manifest": {**GOOD, "stems": {".stems": {"file": ".stems.json"}}},
    "etag is a number": entry(etag=5),
    "etag is weak": entry(etag='W/"v1"'),
    "etag ends the line": entry(etag='"v1"\r\nHost: evil'),
    "etag breaks inside": entry(etag='"v\r\n1"'),
    "total is text": entry(total="5"),
    "total is negative": entry(total=-1),
    "total is true": entry(total=True),
    "total is a fraction": entry(total=5.0),
    "replaced is text": {**GOOD, "replaced": "vocals.mp3"},
    "replaced above": {**GOOD, "replaced": {"../vocals.mp3": 5}},
    "replaced is no audio": {**GOOD, "replaced": {"vocals.txt": 5}},
    "replaced is our manifest": {**GOOD, "replaced": {MANIFEST_NAME: 5}},
    "replaced has no length": {**GOOD, "replaced": {"vocals.mp3": None}},
}


@pytest.mark.parametrize("saved", TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_manifest_is_not_loaded(tmp_path: Path, saved: object) -> None:
    remember(tmp_path, GOOD)
    assert Manifest.load(tmp_path) is not None, "the untampered one is"
    remember(tmp_path, saved)
    assert Manifest.load(tmp_path) is None
    assert prepare_folder(tmp_path, "split_1", {"vocals": "vocals"}, overwrite=False) == Manifest(tmp_path, "split_1")


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b"\x00" * 100, b" " * (2 * 1024 * 1024)], ids=len
)
def test_a_corrupt_manifest_is_not_loaded(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(raw)
    assert Manifest.load(tmp_path) is None


@posix
def test_a_manifest_that_would_be_read_for_ever_is_not_loaded(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MANIFEST_NAME)
    assert Manifest.load(tmp_path) is None
    (tmp_path / MANIFEST_NAME).unlink()
    (tmp_path / MANIFEST_NAME).symlink_to("/dev/zero")
    assert Manifest.load(tmp_path) is None


leaves = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["vocals.wav", '"v"', "../x.wav"])
)
entries = st.fixed_dictionaries({"file": leaves}, optional={"etag": leaves, "total": leaves})


@given(
    split_id=leaves,
    stems=st.dictionaries(st.sampled_from(["vocals", "../x", "/x", ""]) | st.text(max_size=4), entries | leaves)
    | leaves,
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_whatever_a_manifest_says_its_files_are_in_its_folder(tmp_path: Path, split_id: object, stems: object) -> None:
    remember(tmp_path, {"version": 1, "split_id": split_id, "stems": stems})
    manifest = Manifest.load(tmp_path)
    if manifest is None:
        return
    for stem, remembered in manifest.stems.items():
        assert (tmp_path / remembered.file).parent == tmp_path
        assert Path(remembered.file).name == remembered.file
        assert manifest.finished(stem) is None


@posix
def test_saving_follows_no_link(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_bytes(b"mine")
    (tmp_path / f"{MANIFEST_NAME}.new").symlink_to(mine)
    with pytest.raises(DownloadError):
        Manifest(tmp_path, "split_1").save()
    assert mine.read_bytes() == b"mine"


def test_a_disk_that_refuses_the_manifest_is_a_download_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot write"):
        Manifest(tmp_path / "missing", "split_1").save()


def finished(folder: Path, total: int | None = 5, stem: str = "vocals") -> Path | None:
    return Manifest(folder, "split_1", {"vocals": StemRecord(file="vocals.wav", total=total)}).finished(stem)


def test_a_stem_is_finished_when_its_file_is_here_and_as_long_as_promised(tmp_path: Path) -> None:
    assert finished(tmp_path) is None
    target = fetched(tmp_path)
    assert finished(tmp_path) == target
    assert finished(tmp_path, total=6) is None
    assert finished(tmp_path, total=None) is None
    assert finished(tmp_path, stem="drums") is None


def test_a_stem_with_a_part_beside_it_is_not_finished(tmp_path: Path) -> None:
    fetched(tmp_path)
    part_path(tmp_path, "vocals").write_bytes(b"")
    assert finished(tmp_path) is None


@posix
@pytest.mark.parametrize(
    ("part", "durable", "is_finished"),
    [
        (b"", 5, True),  # begun by a process that had looked before the stem was finished
        (b"sound", 5, True),
        (b"sound", None, True),
        (b"other", 5, False),  # perhaps that is the stem, and the file a user's
        (b"", None, False),  # of a manifest that did not keep count
    ],
)
def test_a_part_that_another_process_began_too_late_does_not_hide_a_finished_stem(
    tmp_path: Path, part: bytes, durable: int | None, is_finished: bool
) -> None:
    (tmp_path / "vocals.wav").write_bytes(b"sound")
    part_path(tmp_path, "vocals").write_bytes(part)
    manifest = Manifest(tmp_path, "split_1", {"vocals": StemRecord(file="vocals.wav", total=5, durable=durable)})
    writing = PartFile(part_path(tmp_path, "vocals"), durable=len(part))
    assert (manifest.finished("vocals") is not None) is is_finished
    assert part_path(tmp_path, "vocals").exists()  # somebody writes it
    writing.close()
    assert (manifest.finished("vocals") is not None) is is_finished
    assert part_path(tmp_path, "vocals").exists() is not is_finished


def test_the_part_that_counts_is_the_one_of_the_normalised_name(tmp_path: Path) -> None:
    fetched(tmp_path)
    part_path(tmp_path, "vocals").write_bytes(b"1")
    manifest = Manifest(
        tmp_path, "split_1", {"\uff56\uff4f\uff43\uff41\uff4c\uff53": StemRecord(file="vocals.wav", total=5)}
    )
    assert manifest.finished("\uff56\uff4f\uff43\uff41\uff4c\uff53") is None


@posix
def test_a_crash_in_the_middle_of_publishing_is_finished_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            fetched(tmp_path)
    assert part_path(tmp_path, "vocals").exists(), "the file has both names"
    assert finished(tmp_path) == tmp_path / "vocals.wav"
    assert [path.name for path in tmp_path.iterdir()] == ["vocals.wav"]


@posix
def test_after_such_a_crash_overwriting_never_shows_half_a_file(tmp_path: Path) -> None:
    target = fetched(tmp_path)
    os.link(target, part_path(tmp_path, "vocals"))
    part = PartFile(part_path(tmp_path, "vocals"))
    part.start_at(0)
    part.write(b"new")
    assert target.read_bytes() == b"12345"
    part.write(b"er")
    part.publish(target, overwrite=True)
    part.close()
    assert target.read_bytes() == b"newer"
    assert [path.name for path in tmp_path.iterdir()] == ["vocals.wav"]


@posix
@pytest.mark.parametrize("kind", ["link", "dangling", "folder"])
def test_a_finished_stem_is_a_regular_file_of_its_own(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "vocals.wav"
    if kind == "folder":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "mine")
        if kind == "link":
            (tmp_path / "mine").write_bytes(b"12345")
    assert finished(tmp_path) is None


def test_a_folder_is_made_and_remembers_its_split(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    manifest = prepare_folder(folder, "split_1", {"vocals": "vocals"}, overwrite=False)
    manifest.stems["vocals"] = StemRecord(file="vocals.wav", etag='"v1"', total=5)
    manifest.save()
    part_path(folder, "vocals").write_bytes(b"123")
    assert prepare_folder(folder, "split_1", {"vocals": "vocals"}, overwrite=False) == manifest
    assert part_path(folder, "vocals").exists(), "of the same split: gone on with"


def test_another_splits_stems_are_not_mixed_with_ours(tmp_path: Path) -> None:
    remember(tmp_path, GOOD)
    (tmp_path / "vocals.wav").write_bytes(b"theirs")
    part_path(tmp_path, "vocals").write_bytes(b"theirs")
    with pytest.raises(DownloadError, match="holds the stems of split split_1") as caught:
        prepare_folder(tmp_path, "split_2", {"vocals": "vocals"}, overwrite=False)
    assert caught.value.code == "EXISTS"
    assert part_path(tmp_path, "vocals").exists()
    assert prepare_folder(tmp_path, "split_2", {"vocals": "vocals"}, overwrite=True) == Manifest(tmp_path, "split_2")
    assert not part_path(tmp_path, "vocals").exists(), "another split's part is not gone on with"
    assert (tmp_path / "vocals.wav").read_bytes() == b"theirs", "until ours is whole"


def test_a_folder_that_cannot_be_is_a_download_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DownloadError):
            prepare_folder(folder, "split_1", {}, overwrite=False)


def test_a_part_that_cannot_be_removed_is_a_download_error(tmp_path: Path) -> None:
    remember(tmp_path, GOOD)
    part_path(tmp_path, "vocals").mkdir()
    with pytest.raises(DownloadError):
        prepare_folder(tmp_path, "split_2", {"vocals": "vocals"}, overwrite=True)


def put(folder: Path, split_id: str, *files: str, pattern: str = "{stem}", overwrite: bool = False) -> Manifest:
    """Download `files` ("vocals.wav") of a split the way the downloader does, all but its last step."""
    before, _, after = pattern.partition("{stem}")
    stems = {name.rpartition(".")[0].removeprefix(before).removesuffix(after): name for name in files}
    names = {stem: name.rpartition(".")[0] for stem, name in stems.items()}
    manifest = prepare_folder(folder, split_id, names, overwrite=overwrite, pattern=pattern)
    for stem, name in stems.items():
        manifest.stems[stem] = StemRecord(file=name, total=5)
        manifest.save()
        (folder / name).write_bytes(b"12345")
    return manifest


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_the_files_that_a_split_replaces_go_once_the_new_ones_are_all_there(tmp_path: Path) -> None:
    put(tmp_path, "split_1", "vocals.mp3", "piano.mp3", "bass.wav").remove_replaced()
    manifest = put(tmp_path, "split_2", "vocals.wav", "bass.wav", overwrite=True)
    assert listed(tmp_path) == ["bass.wav", "piano.mp3", "vocals.mp3", "vocals.wav"]
    manifest.remove_replaced()
    assert listed(tmp_path) == ["bass.wav", "vocals.wav"]
    assert Manifest.load(tmp_path) == manifest


def test_what_is_to_be_replaced_is_remembered_through_a_crash_and_a_third_split(tmp_path: Path) -> None:
    put(tmp_path, "split_1", "vocals.mp3", "piano.mp3")
    put(tmp_path, "split_2", "vocals.flac", overwrite=True)
    put(tmp_path, "split_3", "vocals.wav", overwrite=True)
    put(tmp_path, "split_3", "vocals.wav").remove_replaced()
    assert listed(tmp_path) == ["vocals.wav"]


def test_a_file_that_was_changed_since_is_not_ours_to_remove(tmp_path: Path) -> None:
    put(tmp_path, "split_1", "vocals.mp3", "drums.mp3", "piano.mp3", "guitar.mp3")
    manifest = put(tmp_path, "split_2", "vocals.wav", overwrite=True)
    (tmp_path / "vocals.mp3").write_bytes(b"edited since")
    (tmp_path / "drums.mp3").unlink()
    (tmp_path / "piano.mp3").unlink()
    (tmp_path / "piano.mp3").mkdir()
    manifest.remove_replaced()
    assert listed(tmp_path) == ["piano.mp3", "vocals.mp3", "vocals.wav"]


def test_a_new_file_that_differs_from_the_old_in_case_only_is_kept(tmp_path: Path) -> None:
    """Where both names are one file, removing the old would remove the new."""
    put(tmp_path, "split_1", "Lead.wav")
    put(tmp_path, "split_2", "lead.wav", overwrite=True).remove_replaced()
    assert "lead.wav" in listed(tmp_path)
    assert (tmp_path / "Lead.wav").exists()


def test_the_parts_of_the_split_that_is_replaced_go_too(tmp_path: Path) -> None:
    put(tmp_path, "split_1", "vocals.mp3", "piano.mp3")
    part_path(tmp_path, "piano").write_bytes(b"1")
    put(tmp_path, "split_2", "vocals.mp3", overwrite=True)
    assert not part_path(tmp_path, "piano").exists()


def test_splits_that_share_a_folder_have_a_manifest_each(tmp_path: Path) -> None:
    one = put(tmp_path, "split_1", "One - vocals.mp3", pattern="One - {stem}")
    two = put(tmp_path, "split_2", "Two - vocals.mp3", pattern="Two - {stem}")
    own = put(tmp_path, "split_3", "vocals.mp3")
    assert [Manifest.load(tmp_path, manifest.pattern) for manifest in (one, two, own)] == [one, two, own]
    assert one.finished("vocals") == tmp_path / "One - vocals.mp3"
    with pytest.raises(DownloadError, match="holds the stems of split split_1"):
        put(tmp_path, "split_4", "One - drums.mp3", pattern="One - {stem}")
    put(tmp_path, "split_4", "One - drums.mp3", pattern="One - {stem}", overwrite=True).remove_replaced()
    assert listed(tmp_path) == ["One - drums.mp3", "Two - vocals.mp3", "vocals.mp3"]


def test_a_manifest_says_only_what_fits_its_pattern(tmp_path: Path) -> None:
    put(tmp_path, "split_1", "vocals.mp3")
    (tmp_path / MANIFEST_NAME).rename(tmp_path / manifest_name("One - {stem}"))
    assert Manifest.load(tmp_path, "One - {stem}") is None


@pytest.mark.parametrize("pattern", ["{stem}", "Song - {stem}", "{stem} (2)", "a.b {stem}"])
def test_a_manifests_name_contains_its_pattern(pattern: str) -> None:
    assert pattern_of(manifest_name(pattern)) == pattern


@pytest.mark.parametrize(
    "name", ["Song.json", ".Song.json", ".{stem}.json.new", "{stem}.json", ".\u202e{stem}.json", ""]
)
def test_other_names_are_not_those_of_manifests(name: str) -> None:
    assert pattern_of(name) is None


@pytest.mark.parametrize("pattern", ["../{stem}", "/etc/{stem}", "a\\{stem}", "\x00{stem}"])
def test_a_pattern_that_leads_elsewhere_touches_nothing(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UnsafeNameError):
        prepare_folder(tmp_path / "into", "split_1", {}, overwrite=True, pattern=pattern)
    assert list(tmp_path.iterdir()) == []
