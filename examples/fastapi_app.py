"""A service with FastAPI: songs in, stems out. It keeps nothing, neither on disk nor in memory.

    pip install aistemsplitter-async "fastapi[standard]"
    export AISTEMSPLITTER_API_KEY=ast_... AISTEMSPLITTER_WEBHOOK_SECRET=whsec_... PUBLIC_URL=https://songs.example.com
    uvicorn --app-dir examples fastapi_app:app --port 8000

`POST /songs` with a form's `file`, `GET /songs/{id}?wait=30`, `GET /songs/{id}/{stem}`; `/docs` shows them. Webhooks
end a wait when the split is done, so that it need not poll. Several workers (`--workers 4`) need a common inbox for
that: `WebhookReceiver(..., inbox=SQLiteInbox("webhooks.db"))`. How large files may be, the proxy in front says.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Request, UploadFile
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from aistemsplitter_async import AIStemSplitterError, AsyncAIStemSplitter, StemStream, WaitTimeoutError, WebhookReceiver

STATUS = {404: 404, 422: 422, 429: 503, "NO_SUCH_STEM": 404, "NOT_AUDIO": 422}  # others are no fault of the caller: 502
receiver = WebhookReceiver(url=os.environ.get("PUBLIC_URL", "http://127.0.0.1:8000") + "/webhooks/")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, AsyncAIStemSplitter]]:
    """One client for the life of the process. At its end, creates under way are answered before it closes."""
    async with AsyncAIStemSplitter(webhooks=receiver) as client:
        yield {"client": client}


async def get_client(request: Request) -> AsyncAIStemSplitter:
    client: AsyncAIStemSplitter = request.state.client
    return client


Client = Annotated[AsyncAIStemSplitter, Depends(get_client)]  # a test can replace it: app.dependency_overrides


async def open_stem(song: str, stem: str, client: Client) -> AsyncIterator[StemStream]:
    """Open a stem, and close it when the response was sent or the browser has left."""
    split = await client.get_split(song)
    if split.status != "succeeded":
        raise HTTPException(409, f"the song is {split.status}")
    async with client.open_stem(split, stem) as stream:
        yield stream


class Song(BaseModel):
    id: str
    status: str
    stems: list[str] = []
    error: str | None = None


app = FastAPI(title="Stems", lifespan=lifespan)
app.mount("/webhooks", receiver.asgi)  # reached at /webhooks/


@app.exception_handler(AIStemSplitterError)
async def explain(_: Request, error: AIStemSplitterError) -> JSONResponse:
    return JSONResponse(error.to_dict(), STATUS.get(error.code) or STATUS.get(error.status_code, 502))


@app.post("/songs", status_code=202)
async def create(file: UploadFile, client: Client) -> Song:
    if not file.size:
        raise HTTPException(422, "the file is empty")
    job = await client.submit(file.file, filename=file.filename, timeout=300)
    return Song(id=job.id, status="queued")


@app.get("/songs/{song}")
async def show(song: str, client: Client, wait: Annotated[float, Query(ge=0, le=60)] = 0) -> Song:
    """Return the song's state, with `wait` once it is done or as many seconds are over."""
    split = await client.get_split(song)
    if wait and not split.is_terminal:
        with suppress(WaitTimeoutError):
            split = await client.wait_for_split(song, timeout=wait, raise_on_failed=False)
    error = split.error.message if split.error else None
    return Song(id=song, status=split.status, stems=sorted(split.stems), error=error)


@app.get("/songs/{song}/{stem}")
async def fetch(stream: Annotated[StemStream, Depends(open_stem)]) -> StreamingResponse:
    length = {} if stream.length is None else {"Content-Length": str(stream.length)}
    return StreamingResponse(stream, media_type=stream.content_type, headers=length)
