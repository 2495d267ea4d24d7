"""The commands: their names, their options, and the coroutine that each one runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter

from aistemsplitter_async._version import __version__
from aistemsplitter_async.cli.failures import Exit
from aistemsplitter_async.cli.options import (
    STEMS_FOLDER,
    AsDuration,
    Batching,
    Common,
    Duration,
    Into,
    Listening,
    Serving,
    Splitting,
    Switch,
)
from aistemsplitter_async.cli.screen.render import PROGRAM, hide_keys, show
from aistemsplitter_async.cli.screen.terminal import discard_output

if TYPE_CHECKING:
    from aistemsplitter_async.cli.run import Work

# Each command imports its module only when it runs: --help must not wait for aiohttp.

DEMO_FOLDER = Path("aistemsplitter-demo")

app = App(
    name=PROGRAM,
    version=__version__,
    help=(
        "Split songs into stems with the AIStemSplitter API.\n\n"
        "The API key comes from AISTEMSPLITTER_API_KEY or a file, never from the command line. "
        "Without a key, begin with: aistemsplitter-async demo"
    ),
    help_epilogue=(
        "Exit codes: 0 done, 1 some failed, 2 usage, 3 no key or a wrong one, 4 credits, "
        "5 a split may have been created, 75 try again later, 130 interrupted."
    ),
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)

SplitId = Annotated[str, Parameter(name="ID", help="The split's id, like split_123.")]
Timeout = Annotated[Duration | None, AsDuration, Parameter(help="Give up waiting after this long; 30m if not given.")]
DEFAULTS = Common()


@app.command
def split(
    sources: Annotated[list[str], Parameter(name="SOURCE", help="Audio files, or https URLs that the API fetches.")],
    /,
    *,
    splitting: Splitting = Splitting(),  # noqa: B008  # frozen
) -> int:
    """Split songs into stems."""
    if splitting.idempotency_key is not None and len(sources) > 1:
        return _refuse("--idempotency-key is for one split; give one source with it", "split")
    if splitting.sandbox and splitting.common.names_an_api:
        return _refuse(_SANDBOX_CONFLICT, "split")
    from aistemsplitter_async.cli.commands import split as module  # noqa: PLC0415

    return _run(partial(module.split, sources, splitting))


@app.command
def batch(
    paths: Annotated[
        list[str] | None,
        Parameter(
            name="PATH",
            help="Folders, globs, playlists, lists of URLs, files, URLs; - for a list on stdin.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    /,
    *,
    batching: Batching = Batching(),  # noqa: B008  # frozen
) -> int:
    """Split a music library; run the same command again and it continues where it stopped."""
    if batching.sandbox and batching.common.names_an_api:
        return _refuse(_SANDBOX_CONFLICT, "batch")
    if not paths and not batching.status:
        return _refuse("give at least one PATH to split, or --status", "batch")
    if (problem := _find_option(paths or [])) is not None:
        return _refuse(problem, "batch")
    from aistemsplitter_async.cli.commands import batch as module, dry_run as planning, status as reading  # noqa: PLC0415

    if batching.status:
        return _run(partial(reading.show_status, batching.journal_path, as_json=batching.common.json))
    return _run(partial(planning.plan_library if batching.dry_run else module.batch, paths or [], batching))


@app.command
def estimate(
    paths: Annotated[
        list[str],
        Parameter(
            name="PATH",
            help="Folders, globs, playlists, lists of URLs, files; - for a list on stdin.",
            allow_leading_hyphen=True,
        ),
    ],
    /,
    *,
    into: Into = STEMS_FOLDER,
    common: Common = DEFAULTS,
) -> int:
    """Show what splitting a library would cost, in credits and time."""
    if (problem := _find_option(paths)) is not None:
        return _refuse(problem, "estimate")
    from aistemsplitter_async.cli.commands import estimate as module  # noqa: PLC0415
    from aistemsplitter_async.cli.library import Library  # noqa: PLC0415

    return _run(partial(module.estimate_library, Library(paths=paths, into=into), common))


@app.command(name="credits")
def show_credits(*, common: Common = DEFAULTS) -> int:
    """Show how many credits the key has left; one is a second of audio."""
    from aistemsplitter_async.cli.commands import lookup  # noqa: PLC0415

    return _run(partial(lookup.show_credits, common))


@app.command
def get(split_id: SplitId, /, *, common: Common = DEFAULTS) -> int:
    """Show a split as it is now."""
    from aistemsplitter_async.cli.commands import lookup  # noqa: PLC0415

    return _run(partial(lookup.show_split, split_id, common))


@app.command
def wait(split_id: SplitId, /, *, timeout: Timeout = None, common: Common = DEFAULTS) -> int:
    """Wait until a split has ended."""
    from aistemsplitter_async.cli.commands import lookup  # noqa: PLC0415

    return _run(partial(lookup.wait, split_id, timeout, common))


@app.command
def download(
    split_id: SplitId,
    /,
    *,
    into: Into = STEMS_FOLDER,
    name: Annotated[str | None, Parameter(help="Name of the folder inside; the source's name if not given.")] = None,
    overwrite: Annotated[bool, Switch, Parameter(help="Replace existing files.")] = False,
    timeout: Timeout = None,
    common: Common = DEFAULTS,
) -> int:
    """Download the stems of a split, once it has succeeded."""
    from aistemsplitter_async.cli.commands import lookup  # noqa: PLC0415

    job = partial(lookup.download, into=str(into), name=name, overwrite=overwrite, timeout=timeout)
    return _run(partial(job, split_id, common))


@app.command
def sandbox(*, serving: Serving = Serving()) -> int:  # noqa: B008  # frozen
    """Serve the whole API on this machine, until Ctrl-C."""
    from aistemsplitter_async.cli.commands import sandbox as module  # noqa: PLC0415

    return _run(partial(module.serve, serving), interrupted=Exit.DONE)


@app.command
def listen(*, listening: Listening = Listening()) -> int:  # noqa: B008  # frozen
    """Receive webhooks on this machine, check and show them, until Ctrl-C."""
    if listening.sandbox and listening.secret_file is not None:
        return _refuse("--sandbox has a secret of its own; leave out --secret-file", "listen")
    from aistemsplitter_async.cli.commands import listen as module  # noqa: PLC0415

    return _run(partial(module.listen, listening), interrupted=Exit.DONE)


@app.command
def demo(*, into: Annotated[Path, Parameter(help="Folder for the song and its stems.")] = DEMO_FOLDER) -> int:
    """Split a demo song on this machine: no key, no network."""
    from aistemsplitter_async.cli.commands import demo as module  # noqa: PLC0415

    return _run(partial(module.demo, into))


_SANDBOX_CONFLICT = "--sandbox has its own API and key; leave out --base-url and --api-key-file"


def _run(work: Work, *, interrupted: Exit = Exit.INTERRUPTED) -> int:
    from aistemsplitter_async.cli.run import run  # noqa: PLC0415

    return run(work, interrupted=interrupted)


def _find_option(paths: Sequence[str]) -> str | None:
    """Return a complaint about an option that was taken for a path: PATH may begin with a hyphen, as `-` is a path."""
    option = next((path for path in paths if path.startswith("-") and path != "-"), None)
    return None if option is None else f"there is no option {option}; write a path like that as ./{option}"


def run_app(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    if not arguments:
        app.help_print([])
        return Exit.USAGE
    try:
        code = app(list(arguments))
    except CycloptsError as error:
        return _refuse(_explain(error, arguments), *(error.command_chain or ()))
    except SystemExit:  # how rich ends when the pipe it prints help to is closed
        return Exit.DONE
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output(sys.stdout)
    return code if isinstance(code, int) else Exit.DONE


def _explain(error: CycloptsError, arguments: Sequence[str]) -> str:
    if any(argument.startswith("--api-key") and not argument.startswith("--api-key-file") for argument in arguments):
        return "every user can see a key on a command line; set AISTEMSPLITTER_API_KEY or give --api-key-file FILE"
    error.verbose = False
    return hide_keys(" ".join(str(error).split()))


def _refuse(problem: str, *chain: str) -> int:
    usage = " ".join((PROGRAM, *chain, "--help"))
    sys.stderr.write(f"error: {show(problem.rstrip('.'))}; see {usage}\n")
    return Exit.USAGE
