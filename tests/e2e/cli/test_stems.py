"""`--stems` on every command that downloads, in this process and over sockets, counted by the sandbox's ledger."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from aistemsplitter_async.cli.batch_options import Batching
from aistemsplitter_async.cli.commands import dry_run, lookup, split, status
from aistemsplitter_async.cli.commands.batch import batch
from aistemsplitter_async.cli.options import Common, Selecting, Splitting
from aistemsplitter_async.cli.screen.terminal import Terminal
from aistemsplitter_async.sandbox import Sandbox
from tests.e2e.harness import MakeWav


@attrs.frozen
class Shell:
    """The commands, on one folder and one sandbox."""

    sandbox: Sandbox
    song: Path
    capture: pytest.CaptureFixture[str]

    @property
    def common(self) -> Common:
        return Common(base_url=self.sandbox.base_url, json=True)

    async def batch(self, *stems: str, **options: Any) -> tuple[int, list[Any], str]:
        """Run `batch`; return its exit code, what it printed, and what it said."""
        arguments = Batching(
            into=self.song.parent / "out", selecting=Selecting(stems=stems or None), common=self.common, **options
        )
        run = dry_run.plan_library if arguments.dry_run else batch
        return self.ended(await run([str(self.song)], arguments, Terminal()))

    def ended(self, code: int) -> tuple[int, list[Any], str]:
        out, err = self.capture.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    def downloads(self) -> dict[str, int]:
        """Bytes that left the sandbox, by stem."""
        records = [one for one in self.sandbox.ledger.requests if one.operation == "download"]
        return {one.stem or "?": one.sent_bytes for one in records}


@pytest.fixture
def shell(
    sandbox: Sandbox,
    tmp_path: Path,
    make_wav: MakeWav,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    monkeypatch.setenv("AISTEMSPLITTER_API_KEY", sandbox.api_key)
    song = tmp_path / "song.wav"
    song.write_bytes(make_wav(1.0))
    return Shell(sandbox, song, capsys)


async def test_a_batch_of_vocals_fetches_only_those_and_more_of_them_later(shell: Shell, tmp_path: Path) -> None:
    code, (result,), _ = await shell.batch("vocals")
    assert (code, list(result["stems"])) == (0, ["vocals"])
    assert shell.downloads() == {"vocals": Path(result["stems"]["vocals"]).stat().st_size}
    for stems, plan in (
        (("vocals",), "finished"),
        ((), "paid for; to be fetched"),
        (("bass",), "paid for; to be fetched"),
    ):
        _, (planned, estimate), _ = await shell.batch(*stems, dry_run=True)
        assert (planned["plan"], estimate["credits"]) == (plan, 0)
    code, _, said = await shell.batch("vocals", "piano", dry_run=True)
    assert code == 1
    assert "song.wav: the split does not have a stem 'piano'; it has 'vocals', " in said
    assert shell.sandbox.ledger.count("get") == 1

    code, (failed,), said = await shell.batch("piano", "vocals")
    assert (code, failed["stage"], failed["error"]["code"]) == (1, "download", "NO_SUCH_STEM")
    assert "it is paid for, and other --stems are downloaded without being charged" in said
    assert "same command again" not in said, "that alone changes nothing"
    code, (result,), said = await shell.batch("bass", "vocals", report=tmp_path / "report.html")
    assert (code, set(result["stems"])) == (0, {"bass", "vocals"})
    assert "1 split" in said
    assert set(shell.downloads()) == {"bass", "vocals"}
    page = (tmp_path / "report.html").read_text()
    assert page.count('"name":"vocals"') == page.count('"name":"bass"') == 1
    assert '"name":"drums"' not in page
    assert len(shell.sandbox.ledger.charges) == 1
    code, (result,), said = await shell.batch("vocals")
    assert (result["outcome"], list(result["stems"])) == ("skipped", ["vocals"])
    assert sorted(path.name for path in (tmp_path / "out" / "song").iterdir()) == [
        ".stems.json",
        "bass.mp3",
        "vocals.mp3",
    ]
    await status.show_status(tmp_path / "out" / ".aistemsplitter.journal", Terminal(), as_json=True)
    _, (shown,), _ = shell.ended(0)
    assert shown["tracks"] == {"downloaded": 1}
    ledger = shell.sandbox.ledger
    assert (ledger.count("create"), ledger.count("get"), ledger.count("download")) == (1, 2, 2), "one get for the URLs"


async def test_split_and_download_fetch_what_is_named(shell: Shell, tmp_path: Path) -> None:
    into = tmp_path / "out"
    arguments = Splitting(into=into, selecting=Selecting(stems=("vocals", "drums")), common=shell.common)
    code, (result,), _ = shell.ended(await split.split([str(shell.song)], arguments, Terminal()))
    assert (code, set(result["stems"]), set(shell.downloads())) == (0, {"drums", "vocals"}, {"drums", "vocals"})
    code, (result,), said = shell.ended(await split.split([str(shell.song)], arguments, Terminal()))
    assert "nothing was charged" in said
    fetch = partial(lookup.download, result["id"], shell.common, Terminal(), name="song", overwrite=False, timeout=None)
    code, (result,), _ = shell.ended(await fetch(into=str(into), selecting=Selecting(stems=("bass",))))
    assert (code, list(result["stems"])) == (0, ["bass"])
    code, _, said = shell.ended(await fetch(into=str(into), selecting=Selecting(stems=("piano",))))
    assert code == 1
    assert "does not have a stem 'piano'; it has 'vocals', 'drums', 'bass', 'other'" in said
    assert shell.sandbox.ledger.count("download") == 3
    assert len(shell.sandbox.ledger.charges) == 1
