"""The options of `batch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import attrs
from cyclopts import Parameter

from aistemsplitter_async.cli.options import (
    EARLIER,
    STEMS_FOLDER,
    AsDuration,
    AsJournal,
    AsPath,
    AsText,
    Common,
    Into,
    JournalPlace,
    NewKey,
    OutputFormat,
    Resend,
    RetryFailed,
    Selecting,
    StemModel,
    Switch,
    UseSandbox,
    WebhookURL,
    WhatChanged,
)
from aistemsplitter_async.cli.places import Place, default_journal
from aistemsplitter_async.cli.values import Duration
from aistemsplitter_async.config import DOWNLOADS, JOURNAL_VARIABLE, UPLOADS
from aistemsplitter_async.journal.record import Variant


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Batching:
    """The options of `batch`."""

    into: Into = STEMS_FOLDER
    journal: Annotated[
        JournalPlace | None,
        AsJournal,
        Parameter(
            help="File that records all progress, or postgresql://host/database?schema=name for the workers of several "
            f"machines; if not given, what {JOURNAL_VARIABLE} says, or else a hidden file in the --into folder.",
        ),
    ] = None
    template: Annotated[
        str | None,
        AsText,
        Parameter(help="Where stems go, like {artist}/{album}/{title}/{stem}.{ext}, filled from tags."),
    ] = None
    in_flight: Annotated[
        int | None, Parameter(help="Splits processed at a time; as many as the key's limit allows if not given.")
    ] = None
    uploads: Annotated[int, Parameter(help="Uploads at a time.")] = UPLOADS
    downloads: Annotated[int, Parameter(help="Tracks whose stems are downloaded at a time.")] = DOWNLOADS
    max_credits: Annotated[
        float | None,
        Parameter(
            help="Stop before this run costs more, on a shared journal all its workers together; what can have any "
            "length is not split."
        ),
    ] = None
    priority: Annotated[
        Literal["bulk", "interactive"], Parameter(help="Whether other requests of the key go first.")
    ] = "bulk"
    key_age: Annotated[
        Duration | None,
        AsDuration,
        Parameter(
            group=EARLIER,
            help="How old an unanswered create may be to be sent again without confirmation; 23h if not given.",
        ),
    ] = None
    retry_failed: RetryFailed = False
    new_key: NewKey = False
    resend: Resend = False
    changed: WhatChanged = "refuse"
    report: Annotated[Path | None, AsPath, Parameter(help="Write an HTML report about all tracks at the end.")] = None
    stem_model: StemModel = None
    output_format: OutputFormat = None
    selecting: Selecting = Selecting()  # noqa: RUF009  # frozen
    sandbox: UseSandbox = False
    webhook_url: WebhookURL = None
    on: Annotated[
        str | None,
        AsText,
        Parameter(help="Hand the songs to a Dask cluster, like tcp://scheduler:8786, or local:4 for four processes."),
    ] = None
    status: Annotated[
        bool,
        Switch,
        Parameter(help="Show the progress of the batch, also while it runs; on a shared journal, of all its workers."),
    ] = False
    dry_run: Annotated[bool, Switch, Parameter(help="Show what would go where, and what it would cost.")] = False
    common: Common = Common()  # noqa: RUF009  # frozen

    @property
    def wanted(self) -> Variant:
        """Return what is asked of every source."""
        return Variant(self.stem_model, self.output_format)

    @property
    def place(self) -> Place:
        """Return where the journal is: the given one, or that of the folder of stems."""
        return self.journal or default_journal(self.into)

    @property
    def journal_path(self) -> Path:
        """Return the path of the journal, or if it is no file, of the one that the folder of stems would have."""
        return self.place if isinstance(self.place, Path) else default_journal(self.into)

    @property
    def sandbox_path(self) -> Path:
        """Return the folder where the sandbox of such a batch keeps its state, beside the journal."""
        return self.journal_path.with_name(f"{self.journal_path.name}.sandbox")
