"""What survives a power cut, told from hand-written traces: the judge of `benchmarks/power_cut.py`."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.power_cuts.disk import Disk, File
from benchmarks.power_cuts.program import Place
from benchmarks.power_cuts.promises import Report, Watcher
from benchmarks.power_cuts.strace import Act, read_trace

TRUNCATED = "O_WRONLY|O_CREAT|O_TRUNC"


def hexed(data: bytes) -> str:
    """Return data as the trace shows it."""
    return "".join(f"\\x{byte:02x}" for byte in data)


def read(lines: str) -> list[Act]:
    """Read a trace whose names and data may be written as they are."""

    def show(found: re.Match[str]) -> str:
        text = found[0][1:-1]
        return found[0] if text.startswith("\\x") else f"{found[0][0]}{hexed(text.encode())}{found[0][-1]}"

    shown = re.sub(r'"[^"]*"|</[^>]*>', show, lines)
    return read_trace([line.strip() for line in shown.strip().splitlines()])


def follow(disk: Disk, lines: str) -> None:
    for act in read(lines):
        disk.do(act)


def content(disk: Disk, name: str, *, synced: bool = True) -> bytes | None:
    """Return the bytes that survive below a name that survives; with `synced=False`, those of now."""
    file = disk.find(disk.root / name, synced=synced)
    return None if not isinstance(file, File) else file.content if synced else file.now


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "old").write_bytes(b"old bytes")
    return Disk(tmp_path)


# ------------------------------------------------------------------------------------------------------- the traces


def test_a_call_in_two_lines_is_certain_at_the_second_and_thread_numbers_may_be_padded() -> None:
    acts = read("""
        101   write(3</d/a>, "one", 3 <unfinished ...>
        10234 fsync(4</d>) = 0
        101   <... write resumed>) = 3
    """)
    assert [(act.what, act.path, act.began, act.ended) for act in acts] == [
        ("sync", Path("/d"), 1, 1),
        ("write", Path("/d/a"), 0, 2),
    ]


def test_what_is_sent_counts_from_its_begin() -> None:
    acts = read("""
        1 sendto(5<socket:[7]>, "POST /", 6, 0, NULL, 0 <unfinished ...>
        2 fsync(3</d/a>) = 0
        1 <... sendto resumed>) = 6
    """)
    assert [(act.what, act.data) for act in acts] == [("send", b"POST /"), ("sync", b"")]


def test_failed_calls_and_calls_that_change_nothing_are_left_out() -> None:
    assert not read("""
        1 mkdir("/d/new", 0777) = -1 EEXIST (File exists)
        1 openat(AT_FDCWD</>, "/d/a", O_RDONLY|O_CLOEXEC) = 3</d/a>
        1 +++ exited with 0 +++
    """)


def test_writes_go_where_the_descriptor_was_moved_to() -> None:
    acts = read("""
        1 openat(AT_FDCWD</>, "/d/a", O_RDWR|O_CREAT, 0600) = 3</d/a>
        1 write(3</d/a>, "abc", 3) = 3
        1 write(3</d/a>, "defg", 4) = 2
        1 lseek(3</d/a>, 40, SEEK_SET) = 40
        1 write(3</d/a>, "h", 1) = 1
        1 pwrite64(3</d/a>, "i", 1, 7) = 1
        1 write(3</d/a>, "j", 1) = 1
    """)
    assert [(act.offset, act.data, act.size) for act in acts[1:]] == [
        (0, b"abc", 3),
        (3, b"de", 2),
        (40, b"h", 1),
        (7, b"i", 1),
        (41, b"j", 1),
    ]


def test_names_are_made_removed_and_moved() -> None:
    acts = read("""
        1 mkdirat(3</d>, "new", 0777) = 0
        1 openat(AT_FDCWD</>, "/d/a", O_WRONLY|O_CREAT|O_TRUNC, 0600) = 3</d/a>
        1 linkat(AT_FDCWD</>, "/d/a", AT_FDCWD</>, "/d/b", 0) = 0
        1 unlink("/d/a") = 0
        1 renameat2(3</d>, "b", 3</d>, "c", RENAME_NOREPLACE) = 0
        1 ftruncate(3</d/c>, 9) = 0
    """)
    assert [(act.what, str(act.path), str(act.to), act.offset) for act in acts] == [
        ("folder", "/d/new", ".", 0),
        ("create", "/d/a", ".", 0),
        ("truncate", "/d/a", ".", 0),
        ("link", "/d/a", "/d/b", 0),
        ("unlink", "/d/a", ".", 0),
        ("rename", "/d/b", "/d/c", 0),
        ("truncate", "/d/c", ".", 9),
    ]


def test_what_a_kill_interrupted_is_left_to_the_folders_to_tell() -> None:
    lines = [f'1 rename("{hexed(b"/d/a")}", "{hexed(b"/d/b")}" <unfinished ...>', "1 +++ killed by SIGKILL +++"]
    assert not read_trace(lines)
    assert [act.what for act in read_trace(lines, lambda _: True)] == ["rename"]


def test_a_call_that_is_not_understood_is_refused_on_the_disk_and_only_there(disk: Disk) -> None:
    lines = '1 writev(3<{}>, [{{iov_base="a", iov_len=1}}], 1) = 1'
    follow(disk, lines.format("/elsewhere/a"))
    with pytest.raises(ValueError, match="unknown"):
        follow(disk, lines.format(disk.root / "old"))


# --------------------------------------------------------------------------------------------------------- the disk


def test_only_what_was_synced_survives(disk: Disk) -> None:
    old = disk.root / "old"
    lines = f"""
        1 pwrite64(3<{old}>, "O", 1, 0) = 1
        1 fdatasync(3<{old}>) = 0
        1 pwrite64(3<{old}>, "NEW", 3, 0) = 3
    """
    follow(disk, lines)
    assert content(disk, "old", synced=False) == b"NEW bytes"
    assert content(disk, "old") == b"Old bytes"


def test_a_sync_covers_what_ended_before_it_began(disk: Disk) -> None:
    old = disk.root / "old"
    follow(
        disk,
        f"""
        1 pwrite64(3<{old}>, "A", 1, 0) = 1
        1 fsync(3<{old}> <unfinished ...>
        2 pwrite64(3<{old}>, "B", 1, 1) = 1
        1 <... fsync resumed>) = 0
        """,
    )
    file = disk.find(old)
    assert isinstance(file, File)
    assert file.content == b"Ald bytes"
    assert file.survives(1)
    assert not file.survives(2)


def test_bytes_behind_a_truncation_do_not_survive(disk: Disk) -> None:
    follow(disk, f'1 ftruncate(3<{disk.root / "old"}>, 4) = 0\n1 pwrite64(3<{disk.root / "old"}>, "x", 1, 4) = 1')
    file = disk.find(disk.root / "old")
    assert isinstance(file, File)
    assert file.now == b"old x"
    assert file.survives(4)
    assert not file.survives(5)


def test_a_name_survives_once_its_folder_is_synced_and_a_new_folder_with_its_parent(disk: Disk) -> None:
    root, path = disk.root, disk.root / "new" / "a"
    lines = [
        f'1 mkdir("{root / "new"}", 0777) = 0',
        f'1 openat(AT_FDCWD</>, "{path}", O_RDWR|O_CREAT, 0600) = 3<{path}>',
        f'1 write(3<{path}>, "a", 1) = 1',
        f"1 fsync(3<{path}>) = 0",
        f"1 fsync(4<{root / 'new'}>) = 0",
        f"1 fsync(5<{root}>) = 0",
    ]
    for missing, lost in ((5, "new"), (4, "new/a")):
        other = Disk(root)
        follow(other, "\n".join(line for number, line in enumerate(lines) if number != missing))
        assert other.first_lost(path) == root / lost
        assert content(other, "new/a") is None
    follow(disk, "\n".join(lines))
    assert disk.first_lost(path) is None
    assert content(disk, "new/a") == b"a"


def test_a_replaced_file_comes_back_until_its_folder_is_synced(disk: Disk) -> None:
    root = disk.root
    lines = f"""
        1 openat(AT_FDCWD</>, "{root}/old.new", {TRUNCATED}, 0600) = 3<{root}/old.new>
        1 write(3<{root}/old.new>, "new", 3) = 3
        1 fsync(3<{root}/old.new>) = 0
        1 rename("{root}/old.new", "{root}/old") = 0
    """
    other = Disk(root)
    follow(other, lines)
    assert content(other, "old", synced=False) == b"new"
    assert content(other, "old") == b"old bytes"
    follow(disk, f"{lines.rstrip()}\n1 fsync(4<{root}>) = 0")
    assert content(disk, "old") == b"new"


# ----------------------------------------------------------------------------------------------------- the promises


def journal_of(state: str) -> bytes:
    files = {"vocals": {"path": "song/vocals.mp3", "size": 5, "sha256": ""}}
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE tracks (id INTEGER, state TEXT, idempotency_key TEXT, pattern TEXT, files TEXT)")
        db.execute("INSERT INTO tracks VALUES (1, ?, 'key 1', '{stem}', ?)", (state, json.dumps(files)))
        db.commit()
        return db.serialize()


def download(disk: Path, key: str = "key 1") -> list[str]:
    """Return the trace of a batch that syncs what it must, and nothing else."""
    place = Place(disk)
    journal, undo, folder = place.journal, f"{place.journal}-journal", place.stems / "song"
    part, new = folder / ".vocals.part", folder / ".stems.json.new"
    post = f"POST /v1/audio/splits HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {key}\r\n\r\n".encode()
    manifest = json.dumps({"stems": {"vocals": {"file": "vocals.mp3", "total": 5, "durable": 5}}}).encode()
    lines = [
        f'mkdir("{journal.parent.parent}", 0777) = 0',
        f"fsync(3<{disk}>) = 0",
        f'mkdir("{journal.parent}", 0777) = 0',
        f"fsync(3<{journal.parent.parent}>) = 0",
        f'openat(AT_FDCWD</>, "{journal}", O_RDWR|O_CREAT, 0600) = 4<{journal}>',
        f'openat(AT_FDCWD</>, "{undo}", O_RDWR|O_CREAT, 0600) = 5<{undo}>',
        f'pwrite64(4<{journal}>, "{hexed(journal_of("intent"))}", 8192, 0) = 8192',
        f"fdatasync(4<{journal}>) = 0",
        f"fsync(3<{journal.parent}>) = 0",
        f'sendto(9<socket:[7]>, "{hexed(post)}", 90, 0, NULL, 0) = 90',
        f'mkdir("{place.stems.parent}", 0777) = 0',
        f"fsync(3<{disk}>) = 0",
        f'mkdir("{place.stems}", 0777) = 0',
        f"fsync(3<{place.stems.parent}>) = 0",
        f'mkdir("{folder}", 0777) = 0',
        f"fsync(3<{place.stems}>) = 0",
        f'openat(AT_FDCWD</>, "{part}", O_RDWR|O_CREAT, 0600) = 6<{part}>',
        f'write(6<{part}>, "audio", 5) = 5',
        f"fsync(6<{part}>) = 0",
        f'openat(AT_FDCWD</>, "{new}", {TRUNCATED}, 0600) = 7<{new}>',
        f'write(7<{new}>, "{hexed(manifest)}", {len(manifest)}) = {len(manifest)}',
        f"fsync(7<{new}>) = 0",
        f'rename("{new}", "{folder}/.stems.json") = 0',
        f'linkat(AT_FDCWD</>, "{part}", AT_FDCWD</>, "{folder}/vocals.mp3", 0) = 0',
        f'unlink("{part}") = 0',
        f"fsync(3<{folder}>) = 0",
        f'pwrite64(4<{journal}>, "{hexed(journal_of("downloaded"))}", 8192, 0) = 8192',
        f'pwrite64(5<{undo}>, "{hexed(bytes(28))}", 28, 0) = 28',
    ]
    return [f"1 {line}" for line in lines]


def judge(disk: Path, lines: list[str], *later: list[str]) -> Report:
    watcher = Watcher(Disk(disk), Place(disk))
    for trace in (lines, *later):
        watcher.follow(read("\n".join(trace)))
    return watcher.report


def syncs() -> list[int]:
    return [number for number, line in enumerate(download(Path("/"))) if "sync(" in line]


def test_a_batch_that_syncs_everything_in_time_keeps_its_promises(tmp_path: Path) -> None:
    assert judge(tmp_path, download(tmp_path)) == Report(creates=1, downloaded=1)


@pytest.mark.parametrize("missing", syncs())
def test_each_sync_that_is_missing_breaks_a_promise(tmp_path: Path, missing: int) -> None:
    lines = download(tmp_path)
    assert judge(tmp_path, lines[:missing] + lines[missing + 1 :]).broken


@pytest.mark.parametrize("late", syncs())
def test_each_sync_that_only_begins_in_time_breaks_a_promise(tmp_path: Path, late: int) -> None:
    lines = download(tmp_path)
    begun = lines[late].replace("1 ", "2 ", 1).replace(") = 0", " <unfinished ...>")
    report = judge(tmp_path, [*lines[:late], begun, *lines[late + 1 :], "2 <... fsync resumed>) = 0"])
    assert report.broken


def test_the_post_is_compared_with_the_key_in_the_journal(tmp_path: Path) -> None:
    report = judge(tmp_path, download(tmp_path, key="another key"))
    assert report.broken == ["a create left while a power cut would have taken its intent from the journal"]


def test_a_process_may_keep_of_anothers_part_only_what_was_synced(tmp_path: Path) -> None:
    lines = download(tmp_path)
    part = Place(tmp_path).stems / "song" / ".vocals.part"
    written = next(number for number, line in enumerate(lines) if "audio" in line and "write(6" in line)
    first = [*lines[: written + 2], f'1 write(6<{part}>, "more", 4) = 4']
    good, bad = ([f"1 ftruncate(3<{part}>, {kept}) = 0"] for kept in (5, 9))
    assert judge(tmp_path, first, good).kept == 1
    assert not judge(tmp_path, first, good).broken
    (broken,) = judge(tmp_path, first, bad).broken
    assert broken.startswith("9 bytes of music/stems/song/.vocals.part were kept")


def test_a_manifest_may_not_call_durable_what_is_overwritten(tmp_path: Path) -> None:
    lines = download(tmp_path)
    part = Place(tmp_path).stems / "song" / ".vocals.part"
    renamed = next(number for number, line in enumerate(lines) if "rename(" in line)
    report = judge(tmp_path, [*lines[: renamed + 1], f"1 ftruncate(6<{part}>, 3) = 0"])
    assert report.broken == ["5 bytes of music/stems/song/.vocals.part are not as durable as the manifest says"]
