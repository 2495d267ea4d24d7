"""The options of the commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import attrs
from cyclopts import Group, Parameter

from aistemsplitter_async._transfer.selection import Selection
from aistemsplitter_async.cli.paths import expand_path
from aistemsplitter_async.cli.places import parse_place
from aistemsplitter_async.cli.values import (
    NO_STEMS,
    Duration,
    parse_duration,
    parse_mixes,
    parse_port,
    parse_rate_limit,
    parse_shared,
    parse_stems,
    parse_text,
    parse_webhook_url,
)
from aistemsplitter_async.config import API_KEY_VARIABLE, BASE_URL_VARIABLE, SHARED_VARIABLE, RateLimit
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.journal.place import JournalURL


def _read_by(parse: Callable[[str], object]) -> Parameter:
    """Return the declaration of an option whose one word is read with `parse`."""
    return Parameter(converter=lambda _type, tokens: parse(tokens[0].value), n_tokens=1, accepts_keys=False)


AsPath: Parameter = _read_by(expand_path)  # of every option that is a path
AsJournal: Parameter = _read_by(parse_place)
JournalPlace = Path | Annotated[JournalURL, Parameter(n_tokens=1)]  # cyclopts 4 wants a word for each field otherwise
AsText: Parameter = _read_by(parse_text)  # of those that are sent, that the journal keeps, or that become names
AsPort: Parameter = _read_by(parse_port)
AsDuration: Parameter = _read_by(lambda text: Duration(parse_duration(text)))
Switch: Parameter = Parameter(negative=(), show_default=False)  # no --no-json: leaving a switch out turns it off

# The panels of --help, below the one of what is a command's own.
STEMS: Group = Group("Stems", sort_key=1)
EARLIER: Group = Group("After an earlier run", sort_key=2)
CONNECTION: Group = Group("Connection", sort_key=3)
OUTPUT: Group = Group("Output", sort_key=4)

StemModel = Annotated[
    str | None,
    AsText,
    Parameter(
        group=STEMS,
        help="4s (vocals, drums, bass, other), 6s (and guitar, piano), or what the API adds later. "
        "Without it, a song is not bought again whatever it was split into.",
    ),
]
OutputFormat = Annotated[str | None, AsText, Parameter(group=STEMS, help="wav, mp3, or what the API adds later.")]
Into = Annotated[Path, AsPath, Parameter(help="Folder for the stems; each source gets a folder of its own inside.")]
UseSandbox = Annotated[bool, Switch, Parameter(help="Use a local preview separation; needs no key.")]
WebhookURL = Annotated[
    str | None, _read_by(parse_webhook_url), Parameter(help="URL that the API calls when a split has ended.")
]

RetryFailed = Annotated[
    bool,
    Switch,
    Parameter(
        group=EARLIER, help="Try again what failed for good in an earlier run; a split that failed is paid for again."
    ),
]
WhatChanged = Annotated[
    Literal["refuse", "same", "new"],
    Parameter(
        group=EARLIER,
        help="A file that was bought with other bytes, if nothing shows that only its tags changed: refuse it, take it "
        "for the same song, or buy it as a new one.",
    ),
]

NewKey = Annotated[
    bool,
    Switch,
    Parameter(
        group=EARLIER,
        help="The API key was replaced by another of the same account: go on with it, if it sees a split that the "
        "journal paid for.",
    ),
]
Resend = Annotated[
    bool,
    Switch,
    Parameter(
        group=EARLIER,
        help="Send creates of these sources again that are left for review, once you have checked that their splits do "
        "not exist; otherwise they may be paid for twice.",
    ),
]

STEMS_FOLDER = Path("stems")


@Parameter(name="*", group=OUTPUT)
@attrs.frozen(kw_only=True)
class Verbosity:
    """The options of every command: how much it says on stderr."""

    verbose: Annotated[
        int,
        Parameter(
            name=("--verbose", "-v"),
            count=True,
            negative=(),
            show_default=False,
            help="Log on stderr what is created, finished, repeated and held back; -vv: every request.",
        ),
    ] = 0
    quiet: Annotated[bool, Switch, Parameter(name=("--quiet", "-q"), help="Show no progress, but every error.")] = False


@Parameter(name="*", group=CONNECTION)
@attrs.frozen(kw_only=True)
class Common:
    """The options of every command that uses the API."""

    base_url: Annotated[
        str | None, AsText, Parameter(help=f"Base URL of another API, such as a sandbox (or {BASE_URL_VARIABLE}).")
    ] = None
    rate_limit: Annotated[
        RateLimit | None,
        _read_by(parse_rate_limit),
        Parameter(help="The key's limit, like 60/min or 60/min,1000/day, if you know it: then no request is refused."),
    ] = None
    shared: Annotated[
        str | None,
        _read_by(parse_shared),
        Parameter(
            help="Keep the limit together with other processes that use the key: host (those of this user on this "
            f"machine), sqlite:///PATH, redis://.. or postgresql://.. (or {SHARED_VARIABLE}, where others do not see a "
            "password).",
        ),
    ] = attrs.field(default=None, repr=False)
    api_key_file: Annotated[
        Path | None,
        AsPath,
        Parameter(
            help=f"File with the API key, - for standard input (instead of {API_KEY_VARIABLE}).",
            allow_leading_hyphen=True,
        ),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        Parameter(
            help="Host (or host:port) that may be private, or plain http, like nas.local; can be given several times.",
            negative_iterable=(),
            allow_leading_hyphen=False,
        ),
    ] = None
    proxy: Annotated[
        str | None,
        AsText,
        Parameter(
            help="URL of an HTTP proxy for everything, like http://proxy.example.com:3128; or env: what HTTPS_PROXY, "
            "HTTP_PROXY, ALL_PROXY and NO_PROXY say, where others do not see a password."
        ),
    ] = attrs.field(default=None, repr=False)
    ca_file: Annotated[
        Path | None,
        AsPath,
        Parameter(help="PEM file of certificates to trust beside the system's, as of a proxy that reads along."),
    ] = None
    json: Annotated[bool, Switch, Parameter(group=OUTPUT, help="One JSON object per result on stdout.")] = False
    verbosity: Verbosity = Verbosity()

    @property
    def connection(self) -> dict[str, object]:
        """Return the options that another command needs to reach the same API in the same way; no password."""
        proxy = self.proxy
        if proxy is not None and "@" in proxy:
            proxy = f"{proxy.partition('://')[0]}://USER:PASSWORD@{proxy.rpartition('@')[2]}"
        return {
            "--base-url": self.base_url,
            "--shared": self.shared,
            "--api-key-file": self.api_key_file,
            "--proxy": proxy,
            "--ca-file": self.ca_file,
            "--allow-host": self.allow_host,
        }

    @property
    def names_an_api(self) -> bool:
        """Return whether another API or key was given, or with whom it is shared; a sandbox has its own."""
        return self.base_url is not None or self.api_key_file is not None or self.shared is not None


@Parameter(name="*", group=STEMS)
@attrs.frozen(kw_only=True)
class Selecting:
    """The options of what is downloaded."""

    stems: Annotated[
        tuple[str, ...] | None,
        Parameter(
            converter=lambda _type, tokens: parse_stems([token.value for token in tokens]),
            n_tokens=1,
            accepts_keys=False,
            negative_iterable=(),
            help="Download only these, like vocals,drums; all if not given. A split costs the same, and the others can "
            "be downloaded later without being paid for again.",
        ),
    ] = None

    instrumental: Annotated[
        bool,
        Switch,
        Parameter(help="Make the mix without vocals too, like --mix instrumental=-vocals."),
    ] = False
    mix: Annotated[
        Sequence[str],
        Parameter(
            converter=lambda _type, tokens: tuple(parse_text(token.value) for token in tokens),
            n_tokens=1,
            accepts_keys=False,
            negative_iterable=(),
            show_default=False,
            help="Make a file of the sum of stems, like rhythm=drums,bass, or of all but some, like karaoke=-vocals. "
            "With --stems none, only the mix is kept. Needs the extra audio.",
        ),
    ] = ()

    @property
    def mixes(self) -> dict[str, tuple[str, ...]]:
        """Return the stems of each mix, as they are written.

        Raises:
            ConfigurationError: one is written wrongly.
        """
        return parse_mixes([*(["instrumental=-vocals"] if self.instrumental else []), *self.mix])

    @property
    def selection(self) -> Selection:
        """Return what is downloaded.

        Raises:
            ConfigurationError: one is written wrongly.
        """
        return Selection.parse(self.stems, self.mixes)

    @property
    def given(self) -> dict[str, object]:
        """Return the options as another command needs them to download the same."""
        stems = None if self.stems is None else ",".join(self.stems) or NO_STEMS
        return {"--stems": stems, "--mix": [f"{name}={','.join(summed)}" for name, summed in self.mixes.items()]}

    def find_problem(self, stem_model: str | None = None) -> str | None:
        """Return why this cannot be downloaded of a split by that model, `None` if it perhaps can."""
        try:
            self.selection.check_model(stem_model)
        except ConfigurationError as error:
            return str(error)
        return None


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Splitting:
    """The options of `split`."""

    into: Into = STEMS_FOLDER
    stem_model: StemModel = None
    output_format: OutputFormat = None
    selecting: Selecting = Selecting()
    sandbox: UseSandbox = False
    overwrite: Annotated[
        bool,
        Switch,
        Parameter(group=EARLIER, help="Replace existing stems; what was split before is split and paid for again."),
    ] = False
    retry_failed: RetryFailed = False
    new_key: NewKey = False
    resend: Resend = False
    changed: WhatChanged = "refuse"
    timeout: Annotated[
        Duration | None,
        AsDuration,
        Parameter(help="Give up a source after this long, like 30m; if not given, only a wait has a limit, 30m."),
    ] = None
    webhook_url: WebhookURL = None
    idempotency_key: Annotated[
        str | None, AsText, Parameter(help="Create under this key: repeating it is not charged again. One source only.")
    ] = None
    common: Common = Common()
