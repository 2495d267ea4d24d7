"""A worker dies between its create and the answer: who takes over sends the same again, which is charged once."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Any

import pytest

from aistemsplitter_async import AsyncAIStemSplitter, Submission
from aistemsplitter_async.journal.place import JournalURL
from aistemsplitter_async.journal.record import State
from aistemsplitter_async.journal.store import JournalStore
from tests.e2e.harness import BareAPI, MakeWav
from tests.e2e.stores.journals import at, bury, claiming, do


async def die_amid_a_create(place: JournalURL, client: AsyncAIStemSplitter, audio: bytes) -> None:
    """Send a create, and never write its answer down."""
    store = JournalStore(place)
    track = do(store, claiming("a")).record.id
    upload = await client.upload_audio(audio, filename="a.wav")

    async def intend(submission: Submission) -> None:
        do(store, lambda store: store.intend(track, submission, 1e9))

    await client.create_split(upload.input, before_send=intend)
    bury(store)
    store.close()


@pytest.mark.parametrize("starts_over", [False, True])
async def test_a_taken_over_create_is_charged_once_and_one_begun_again_twice(
    postgres_dsn: str, api: BareAPI, make_wav: MakeWav, starts_over: bool
) -> None:
    """The second is the negative control: a task queue alone would do that."""
    place, sandbox = at(postgres_dsn), api.sandbox
    async with AsyncAIStemSplitter(sandbox.api_key, base_url=sandbox.base_url) as client:
        await die_amid_a_create(place, client, make_wav(2.0))
        with closing(JournalStore(place)) as other:
            if starts_over:
                claim: Any = do(other, claiming("a"))
                assert claim.record.state is State.INTENT
                upload = await client.upload_audio(make_wav(2.0), filename="a.wav")
                await client.create_split(upload.input)
            else:
                (record,) = do(other, JournalStore.open_creates)
                created = (await client.resubmit(record.submission)).created
                assert created is not None
                do(other, partial(JournalStore.created, track=record.id, created=created, at=1e9))
    assert len(sandbox.ledger.charges) == (2 if starts_over else 1)
