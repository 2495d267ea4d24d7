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
from aistemsplitter_async.cli.options import AsDuration, Batching, Common, Duration, Serving, Switch, WebhookURL
from aistemsplitter_async.cli.screen.render import PROGRAM, hide_keys, show
from aistemsplitter_async.cli.screen.terminal import discard_output
from aistemsplitter_async.config import WEBHOOK_SECRET_VARIABLE

if TYPE_CHECKING:
    from aistemsplitter_async.cli.run import Work

# Each command imports its module only when it runs: --help must not wait for aiohttp.

DEFAULT_FOLDER = Path("stems")
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

StemModel = Annotated[
    str | None, Parameter(help="4s (vocals, drums, bass, other), 6s (and guitar, piano), or what the API adds later.")
]
OutputFormat = Annotated[str | None, Parameter(help="wav, mp3, or what the API adds later.")]
Into = Annotated[Path, Parameter(help="Folder for the stems; each source gets a folder of its own inside.")]
UseSandbox = Annotated[bool, Switch, Parameter(help="Use a local preview separation; needs no key.")]
SplitId = Annotated[str, Parameter(name="ID", help="The split's id, like split_123.")]
Timeout = Annotated[Duration | None, AsDuration, Parameter(help="Give up waiting after this long; 30m if not given.")]
DEFAULTS = Common()


@app.command
def split(
    sources: Annotated[list[str], Parameter(name="SOURCE", help="Audio files, or https URLs that the API fetches.")],
    /,
    *,
    into: Into = DEFAULT_FOLDER,
    stem_model: StemModel = None,
    output_format: OutputFormat = None,
    sandbox: UseSandbox = False,
    overwrite: Annotated[
        bool, Switch, Parameter(help="Replace existing stems; what was split before is split and paid for again.")
    ] = False,
    timeout: Annotated[
        Duration | None,
        AsDuration,
        Parameter(help="Give up a source after this long, like 30m; if not given, only a wait has a limit, 30m."),
    ] = None,
    webhook_url: WebhookURL | None = None,
    idempotency_key: Annotated[
        str | None, Parameter(help="Create under this key: repeating it is not charged again. One source only.")
    ] = None,
    common: Common = DEFAULTS,
) -> int:
    """Split songs into stems."""
    if idempotency_key is not None and len(sources) > 1:
        return _refuse("--idempotency-key is for one split; give one source with it", "split")
    if sandbox and _names_an_api(common):
        return _refuse(_SANDBOX_CONFLICT, "split")
    from aistemsplitter_async.cli.commands import split as module  # noqa: PLC0415

    arguments = module.SplitArguments(
        sources=sources,
        into=str(into),
        common=common,
        stem_model=stem_model,
        output_format=output_format,
        webhook_url=webhook_url,
        idempotency_key=idempotency_key,
        timeout=timeout,
        overwrite=overwrite,
        sandbox=sandbox,
    )
    return _run(partial(module.split, arguments))


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
    into: Into = DEFAULT_FOLDER,
    batching: Batching = Batching(),  # noqa: B008  # frozen
    stem_model: StemModel = None,
    output_format: OutputFormat = None,
    sandbox: UseSandbox = False,
    webhook_url: WebhookURL | None = None,
    status: Annotated[bool, Switch, Parameter(help="Show the progress of the batch, also while it runs.")] = False,
    dry_run: Annotated[bool, Switch, Parameter(help="Show what would go where, and what it would cost.")] = False,
    common: Common = DEFAULTS,
) -> int:
    """Split a music library; run the same command again and it continues where it stopped."""
    if sandbox and _names_an_api(common):
        return _refuse(_SANDBOX_CONFLICT, "batch")
    if not paths and not status:
        return _refuse("give at least one PATH to split, or --status", "batch")
    if (option := _unknown_option(paths or [])) is not None:
        return _refuse(f"there is no option {option}; write a path like that as ./{option}", "batch")
    from aistemsplitter_async.cli.commands import batch as module, dry_run as planning, status as reading  # noqa: PLC0415
    from aistemsplitter_async.cli.sources import default_journal  # noqa: PLC0415

    journal = batching.journal or default_journal(into)
    if status:
        return _run(partial(reading.show_status, journal, as_json=common.json))
    arguments = module.BatchArguments(
        paths=paths or [],
        into=into,
        common=common,
        journal=journal,
        stem_model=stem_model,
        output_format=output_format,
        webhook_url=webhook_url,
        sandbox=sandbox,
        options=batching,
    )
    return _run(partial(planning.plan_library if dry_run else module.batch, arguments))


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
    into: Into = DEFAULT_FOLDER,
    common: Common = DEFAULTS,
) -> int:
    """Show what splitting a library would cost, in credits and time."""
    if (option := _unknown_option(paths)) is not None:
        return _refuse(f"there is no option {option}; write a path like that as ./{option}", "estimate")
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
def wait(
    split_id: SplitId,
    /,
    *,
    timeout: Timeout = None,
    common: Common = DEFAULTS,
) -> int:
    """Wait until a split has ended."""
    from aistemsplitter_async.cli.commands import lookup  # noqa: PLC0415

    return _run(partial(lookup.wait, split_id, timeout, common))


@app.command
def download(
    split_id: SplitId,
    /,
    *,
    into: Into = DEFAULT_FOLDER,
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
def listen(
    *,
    port: Annotated[int, Parameter(help="Port to listen on; any free one if not given.")] = 0,
    secret_file: Annotated[
        Path | None, Parameter(help=f"File with the signing secret (instead of {WEBHOOK_SECRET_VARIABLE}).")
    ] = None,
    sandbox: Annotated[
        bool, Switch, Parameter(help="Show a whole round trip with a local sandbox; needs no key.")
    ] = False,
    json: Annotated[
        bool,
        Switch,
        Parameter(
            help="JSON on stdout: the address, then one object for each request (event null: repeated, or not about a "
            "split; error not null: refused), and for each step of --sandbox."
        ),
    ] = False,
) -> int:
    """Receive webhooks on this machine, check and show them, until Ctrl-C."""
    if sandbox and secret_file is not None:
        return _refuse("--sandbox has a secret of its own; leave out --secret-file", "listen")
    from aistemsplitter_async.cli.commands import listen as module  # noqa: PLC0415

    arguments = module.ListenArguments(port=port, secret_file=secret_file, sandbox=sandbox, json=json)
    return _run(partial(module.listen, arguments), interrupted=Exit.DONE)


@app.command
def demo(*, into: Annotated[Path, Parameter(help="Folder for the song and its stems.")] = DEMO_FOLDER) -> int:
    """Split a demo song on this machine: no key, no network."""
    from aistemsplitter_async.cli.commands import demo as module  # noqa: PLC0415

    return _run(partial(module.demo, into))


_SANDBOX_CONFLICT = "--sandbox has its own API and key; leave out --base-url and --api-key-file"


def _names_an_api(common: Common) -> bool:
    return common.base_url is not None or common.api_key_file is not None


def _run(work: Work, *, interrupted: Exit = Exit.INTERRUPTED) -> int:
    from aistemsplitter_async.cli.run import run  # noqa: PLC0415

    return run(work, interrupted=interrupted)


def _unknown_option(paths: Sequence[str]) -> str | None:
    """Return an option that was taken for a path: PATH may begin with a hyphen, because `-` is a path."""
    return next((path for path in paths if path.startswith("-") and path != "-"), None)


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
