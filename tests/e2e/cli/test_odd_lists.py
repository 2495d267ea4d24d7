"""Lists with lines that are neither files nor URLs: each is an error that counts; the songs among them are split."""

from __future__ import annotations

import pytest

from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.harness import CLI, build_wav

ODD = {
    b"http://[::1": "is not a URL",
    "https://exa\u2100mple.com/a.wav".encode(): "is not a URL",
    b"https://example.com:99999999/a": "not a URL",
    b"\xff\xfe.wav": "no such file",
    b"/dev/zero": "not a regular file",
    b"\x1b[31mred.wav": "no such file",
    b"None": "no such file",
    b"--help": "no such file",
    b"*": "patterns in lists are not read",
    "\u202e.wav".encode(): "no such file",
}


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry run"])
async def test_odd_lines_are_counted_and_the_songs_among_them_are_split(cli: CLI, dry: tuple[str, ...]) -> None:
    async with Sandbox(separation="silent") as sandbox:
        for name, seconds in (("first.wav", 1.0), ("last.wav", 2.0)):
            (cli.folder / name).write_bytes(build_wav(seconds))
        lines = [b"first.wav", b"", b"   ", *ODD, b"last.wav"]
        (cli.folder / "list.txt").write_bytes(b"\n".join(lines))
        ended = await cli.using(sandbox).run("batch", "list.txt", "--into", "out", *dry)
    assert ended.code == 1
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    for line, problem in ODD.items():
        assert any(problem in error for error in errors), line
    if not dry:
        assert len(errors) == len(ODD)
        assert sorted(path.name for path in (cli.folder / "out").iterdir() if path.is_dir()) == ["first", "last"]
