"""The commands: their names, their options, and the coroutine that each one runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import App, CycloptsError, Parameter, UnknownCommandError

from aistemsplitter_async._files import reason_of
from aistemsplitter_async._version import __version__
from aistemsplitter_async.cli.batch_options import Batching
from aistemsplitter_async.cli.failures import Exit
from aistemsplitter_async.cli.journal_app import journal
from aistemsplitter_async.cli.options import (
    STEMS_FOLDER,
    AsDuration,
    AsPath,
    AsText,
    Common,
    Into,
    Selecting,
    Splitting,
    Switch,
    Verbosity,
)
from aistemsplitter_async.cli.paths import STDIN, expand_source, protect_paths
from aistemsplitter_async.cli.places import find_journal
from aistemsplitter_async.cli.refusals import KEY_IN_SIGHT, explain, print_error, refuse, start
from aistemsplitter_async.cli.screen.render import PROGRAM
from aistemsplitter_async.cli.screen.terminal import discard_output
from aistemsplitter_async.cli.server_options import Listening, Serving
from aistemsplitter_async.cli.values import Duration
from aistemsplitter_async.errors import ConfigurationError

# Each command imports its module only when it runs: --help must not wait for aiohttp.

DEMO_FOLDER = Path("aistemsplitter-demo")

app: App = App(
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
AsSources: Parameter = Parameter(converter=lambda _type, tokens: [expand_source(token.value) for token in tokens])
DEFAULTS = Common()


@app.command
def split(
    sources: Annotated[
        list[str],
        AsSources,
        Parameter(name="SOURCE", help="Audio files, or https URLs that the API fetches.", allow_leading_hyphen=True),
    ],
    /,
    *,
    splitting: Splitting = Splitting(),  # noqa: B008  # frozen
) -> int:
    """Split songs into stems."""
    if (problem := _find_option(sources, "split")) is not None:
        return refuse(problem, "split")
    if splitting.idempotency_key is not None and len(sources) > 1:
        return refuse("--idempotency-key is for one split; give one source with it", "split")
    if splitting.sandbox and splitting.common.names_an_api:
        return refuse(_SANDBOX_CONFLICT, "split")
    if (problem := splitting.selecting.find_problem(splitting.stem_model)) is not None:
        return refuse(problem, "split")
    from aistemsplitter_async.cli.commands import split as module  # noqa: PLC0415

    return start(partial(module.split, sources, splitting), splitting.common.verbosity)


@app.command
def batch(
    paths: Annotated[
        list[str] | None,
        AsSources,
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
        return refuse(_SANDBOX_CONFLICT, "batch")
    if not paths and not batching.status:
        return refuse("give at least one PATH to split, or --status", "batch")
    if (problem := _find_option(paths or [], "batch", batching.common)) is not None:
        return refuse(problem, "batch")
    if (problem := batching.selecting.find_problem(batching.stem_model)) is not None:
        return refuse(problem, "batch")
    try:
        place = find_journal(batching.journal, batching.into, {} if batching.sandbox else os.environ)
    except ConfigurationError as error:
        return refuse(str(error), "batch")
    batching = attrs.evolve(batching, journal=place)
    if batching.on is not None:
        from aistemsplitter_async.cli.commands.cluster import find_problem  # noqa: PLC0415  # one command has it

        if (problem := find_problem(batching)) is not None:
            return refuse(problem, "batch")
    from aistemsplitter_async.cli.commands import batch as module, dry_run as planning, status as reading  # noqa: PLC0415

    if batching.status:
        show_status = partial(reading.show_status, batching.place, as_json=batching.common.json)
        return start(show_status, batching.common.verbosity)
    work = planning.plan_library if batching.dry_run else module.batch
    return start(partial(work, paths or [], batching), batching.common.verbosity)


@app.command
def estimate(
    paths: Annotated[
        list[str],
        AsSources,
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
    if (problem := _find_option(paths, "estimate", common)) is not None:
        return refuse(problem, "estimate")
    from aistemsplitter_async.cli.commands import estimate as module  # noqa: PLC0415
    from aistemsplitter_async.cli.library import Library  # noqa: PLC0415

    return start(partial(module.estimate_library, Library(paths=paths, into=into), common), common.verbosity)


@app.command(name="credits")
def show_credits(*, common: Common = DEFAULTS) -> int:
    """Show how many credits the key has left; one is a second of audio."""
    from aistemsplitter_async.cli.commands import lookup  # noqa: PLC0415

    return start(partial(lookup.show_credits, common), common.verbosity)


@app.command
def get(split_id: SplitId, /, *, common: Common = DEFAULTS) -> int:
    """Show a split as it is now."""
    from aistemsplitter_async.cli.commands import lookup  # noqa: PLC0415

    return start(partial(lookup.show_split, split_id, common), common.verbosity)


@app.command
def wait(split_id: SplitId, /, *, timeout: Timeout = None, common: Common = DEFAULTS) -> int:
    """Wait until a split has ended."""
    from aistemsplitter_async.cli.commands import lookup  # noqa: PLC0415

    return start(partial(lookup.wait, split_id, timeout, common), common.verbosity)


@app.command
def download(
    split_id: SplitId,
    /,
    *,
    into: Into = STEMS_FOLDER,
    name: Annotated[
        str | None, AsText, Parameter(help="Name of the folder inside; the source's name if not given.")
    ] = None,
    selecting: Selecting = Selecting(),  # noqa: B008  # frozen
    overwrite: Annotated[bool, Switch, Parameter(help="Replace existing files.")] = False,
    timeout: Timeout = None,
    common: Common = DEFAULTS,
) -> int:
    """Download the stems of a split, once it has succeeded."""
    if (problem := selecting.find_problem()) is not None:
        return refuse(problem, "download")
    from aistemsplitter_async.cli.commands import lookup  # noqa: PLC0415

    job = partial(lookup.download, split_id, common, into=str(into), name=name, selecting=selecting)
    return start(partial(job, overwrite=overwrite, timeout=timeout), common.verbosity)


@app.command
def sandbox(*, serving: Serving = Serving()) -> int:  # noqa: B008  # frozen
    """Serve the whole API on this machine, until Ctrl-C."""
    from aistemsplitter_async.cli.commands import sandbox as module  # noqa: PLC0415

    return start(partial(module.serve, serving), serving.verbosity, interrupted=Exit.DONE)


@app.command
def listen(*, listening: Listening = Listening()) -> int:  # noqa: B008  # frozen
    """Receive webhooks on this machine, check and show them, until Ctrl-C."""
    if listening.sandbox and listening.secret_file is not None:
        return refuse("--sandbox has a secret of its own; leave out --secret-file", "listen")
    from aistemsplitter_async.cli.commands import listen as module  # noqa: PLC0415

    return start(partial(module.listen, listening), listening.verbosity, interrupted=Exit.DONE)


@app.command
def demo(
    *,
    into: Annotated[Path, AsPath, Parameter(help="Folder for the song and its stems.")] = DEMO_FOLDER,
    verbosity: Verbosity = DEFAULTS.verbosity,
) -> int:
    """Split a demo song on this machine: no key, no network."""
    from aistemsplitter_async.cli.commands import demo as module  # noqa: PLC0415

    return start(partial(module.demo, into), verbosity)


app.command(journal)

_DATABASES = ("postgresql://", "postgres://")
_SANDBOX_CONFLICT = "--sandbox has its own API and key; leave out --base-url, --api-key-file and --shared"


def _find_option(paths: Sequence[str], command: str, common: Common | None = None) -> str | None:
    """Return a complaint about an option that was taken for a path: PATH may begin with a hyphen, as `-` is a path."""
    for path in paths:
        if path.startswith(_DATABASES):
            return "a database is no song; a journal is kept there with: batch --journal URL"
        if path == STDIN and common is None:
            return f"{STDIN}, a list on standard input, is for batch; write a file that is called so as ./{STDIN}"
        if path == STDIN and common is not None and str(common.api_key_file) == STDIN:
            return f"standard input can be read once: for {STDIN} as PATH or for --api-key-file {STDIN}, not for both"
        if path.startswith("-") and path != STDIN:
            option = path.partition("=")[0]
            if option == "--api-key":
                return KEY_IN_SIGHT
            known = [name for one in app[command].assemble_argument_collection() for name in one.names]
            close = [name for name in known if name.startswith(option)] or get_close_matches(option, known, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            return f"there is no option {option}; {hint}write a path like that as ./{path}"
    return None


def run_app(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    code: object = Exit.DONE if arguments else Exit.USAGE
    try:
        if arguments:
            code = app(protect_paths(arguments))
        else:
            app.help_print([])
        sys.stdout.flush()
    except CycloptsError as error:
        chain = error.command_chain or ()
        known = app[chain[0]] if isinstance(error, UnknownCommandError) and chain else app
        commands = [name for name in known if not name.startswith("-")]
        return refuse(explain(error, arguments, commands), *chain)
    except (SystemExit, BrokenPipeError):  # the pipe that help is printed to is closed; rich ends with the former
        discard_output(sys.stdout)
    except OSError as error:  # of the help: a command handles its own
        discard_output(sys.stdout)
        print_error(f"cannot write to standard output: {reason_of(error)}")
        return Exit.FAILED
    return code if isinstance(code, int) else Exit.DONE
