"""The options of the commands that serve: `sandbox` and `listen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import attrs
from cyclopts import Parameter

from aistemsplitter_async.cli.options import OUTPUT, AsPath, AsPort, AsText, Switch, Verbosity
from aistemsplitter_async.config import WEBHOOK_SECRET_VARIABLE


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Serving:
    """The options of `sandbox`. For those not given, the sandbox has its own defaults."""

    port: Annotated[int, AsPort, Parameter(help="Port of the API; any free one if not given.")] = 0
    api_key: Annotated[
        str | None, AsText, Parameter(help="Key to accept, starting with ast_; a random one if not given.")
    ] = None
    credits_given: Annotated[int | None, Parameter(name="--credits", help="Opening balance in seconds.")] = None
    requests_per_minute: Annotated[int | None, Parameter(help="The key's limit; 0 for none.")] = None
    minute: Annotated[float | None, Parameter(help="Length of that minute in seconds.")] = None
    window: Annotated[
        Literal["fixed", "sliding", "counter", "bucket"] | None, Parameter(help="How requests are counted.")
    ] = None
    burst: Annotated[int | None, Parameter(help="Requests that a bucket holds; the limit if not given.")] = None
    rate_headers: Annotated[
        str | None,
        Parameter(help="What replies say about the limit: none, or retry-after, ratelimit, x-ratelimit with commas."),
    ] = None
    separation: Annotated[
        Literal["real", "silent"] | None, Parameter(help="Real stems, or silent ones at once; real if not given.")
    ] = None
    progression: Annotated[
        Literal["instant", "timed", "manual"] | None,
        Parameter(help="A split ends at once, takes its time, or waits for POST /control/step."),
    ] = None
    data: Annotated[Path | None, AsPath, Parameter(help="Folder to keep everything in, also for the next start.")] = (
        None
    )
    fault: Annotated[
        list[str] | None,
        Parameter(
            help="A fault to inject, like create:status:status=503,times=2; can be given several times.",
            negative_iterable=(),
            allow_leading_hyphen=False,
        ),
    ] = None
    seed: Annotated[int | None, Parameter(help="Seed of all randomness, to make it repeatable.")] = None
    no_control: Annotated[bool, Switch, Parameter(help="Serve no control endpoint at /control/.")] = False
    json: Annotated[bool, Switch, Parameter(group=OUTPUT, help="Print base_url and api_key as one JSON line.")] = False
    verbosity: Verbosity = Verbosity()  # noqa: RUF009  # frozen


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Listening:
    """The options of `listen`."""

    port: Annotated[int, AsPort, Parameter(help="Port to listen on; any free one if not given.")] = 0
    secret_file: Annotated[
        Path | None,
        AsPath,
        Parameter(help=f"File with the signing secret (instead of {WEBHOOK_SECRET_VARIABLE})."),
    ] = None
    sandbox: Annotated[bool, Switch, Parameter(help="Show a whole round trip with a local sandbox; needs no key.")] = (
        False
    )
    json: Annotated[
        bool,
        Switch,
        Parameter(
            group=OUTPUT,
            help="JSON on stdout: the address, then one object for each request (event null: repeated, or not about a "
            "split; error not null: refused), and for each step of --sandbox.",
        ),
    ] = False
    verbosity: Verbosity = Verbosity()  # noqa: RUF009  # frozen
