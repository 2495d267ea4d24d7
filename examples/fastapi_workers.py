"""A service with FastAPI in several processes: they keep the key's limit together, and a webhook may reach any of them.

    pip install "aistemsplitter-async[postgres]" "fastapi[standard]"
    export AISTEMSPLITTER_API_KEY=ast_... AISTEMSPLITTER_WEBHOOK_SECRET=whsec_... PUBLIC_URL=https://songs.example.com
    uvicorn --app-dir examples fastapi_workers:app --workers 4 --timeout-graceful-shutdown 20

`POST /songs` with a form's `file` answers once the stems are there, and says where; `GET /health` shows who shares the
limit. What the workers share is in files of this machine: it needs no server. With `DATABASE_URL=postgresql://..` it is
in that database: then they may run on several machines, if `STEMS` is one folder for all, and there is a journal too: a
song that was asked for before, of any worker, costs nothing, and what a killed worker had in hand is not lost.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Depends, FastAPI, Request, UploadFile
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from aistemsplitter_async import AIStemSplitterError, AsyncAIStemSplitter, BatchItem, Failed, RateLimit, Station
from aistemsplitter_async.webhooks import PostgresInbox, SQLiteInbox, WebhookReceiver

STEMS = Path(os.environ.get("STEMS", "stems"))
LIMIT = RateLimit.parse(os.environ.get("RATE_LIMIT", "60/min"))  # of the key, whatever the number of workers
DATABASE = os.environ.get("DATABASE_URL")

inbox = PostgresInbox(DATABASE) if DATABASE else SQLiteInbox("webhooks.db")
receiver = WebhookReceiver(url=os.environ.get("PUBLIC_URL", "http://127.0.0.1:8000") + "/webhooks/", inbox=inbox)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Every worker has one client and one station; at its end, what is paid for is finished, or left to the others."""
    async with (
        inbox,
        AsyncAIStemSplitter(shared=DATABASE or "host", rate_limit=LIMIT, webhooks=receiver) as client,
        Station(client, journal=DATABASE, into=STEMS, priority="interactive") as station,
    ):
        yield {"client": client, "station": station}


async def get_station(request: Request) -> Station:
    station: Station = request.state.station
    return station


class Song(BaseModel):
    id: str
    stems: dict[str, str]


STEMS.mkdir(parents=True, exist_ok=True)
app = FastAPI(title="Stems", lifespan=lifespan)
app.mount("/webhooks", receiver.asgi)  # reached at /webhooks/
app.mount("/stems", StaticFiles(directory=STEMS))


@app.exception_handler(AIStemSplitterError)
async def explain(_: Request, error: AIStemSplitterError) -> JSONResponse:
    return JSONResponse(error.to_dict(), 422 if error.code == "NOT_AUDIO" else 502)


@app.get("/health")
async def health(request: Request) -> dict[str, int]:
    return {"worker": os.getpid(), "workers": request.state.client.gate.snapshot().holders}


@app.post("/songs")
async def split(file: UploadFile, station: Annotated[Station, Depends(get_station)]) -> Song:
    item = BatchItem(source=file.file, filename=file.filename, folder=uuid4().hex, timeout=900)
    outcome = await station.split(item)
    if isinstance(outcome, Failed):
        raise outcome.error
    assert outcome.split is not None  # noqa: S101  # of what is done, or was before
    stems = {name: f"/stems/{path.relative_to(STEMS).as_posix()}" for name, path in outcome.files.items()}
    return Song(id=outcome.split.id, stems=stems)
