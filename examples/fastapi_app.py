"""A service with FastAPI: songs in, stems out. Webhooks notify it when a split is done, so it need not poll.

    export AISTEMSPLITTER_API_KEY=ast_... AISTEMSPLITTER_WEBHOOK_SECRET=whsec_...
    PUBLIC_URL=https://songs.example.com python examples/fastapi_app.py

`POST /songs?name=song.mp3` with the audio as body, `GET /songs/{id}`, `GET /songs/{id}/{stem}`. It runs in one process:
several workers would have to share an inbox, `WebhookReceiver(..., inbox=SQLiteInbox("webhooks.db"))`, and the songs.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse

from aistemsplitter_async import AIStemSplitterError, AsyncAIStemSplitter, Job, WebhookReceiver

PORT = int(os.environ.get("PORT", "8080"))
receiver = WebhookReceiver(url=os.environ.get("PUBLIC_URL", f"http://127.0.0.1:{PORT}") + "/webhooks/")
songs: dict[str, asyncio.Task[dict[str, Path]]] = {}


@asynccontextmanager
async def with_client(app: FastAPI) -> AsyncIterator[None]:
    """One client for the life of the process. Running splits continue after its end; `client.job(id)` finds them."""
    async with AsyncAIStemSplitter(webhooks=receiver) as client:
        app.state.client = client
        yield
        for task in songs.values():
            task.cancel()
        await asyncio.gather(*songs.values(), return_exceptions=True)


app = FastAPI(lifespan=with_client)
app.mount("/webhooks", receiver.asgi)  # reached at /webhooks/


@app.post("/songs", status_code=202)
async def create(request: Request, name: str) -> dict[str, str]:
    try:
        job: Job = await app.state.client.submit(await request.body(), filename=name, timeout=300)
    except AIStemSplitterError as error:
        raise HTTPException(502, str(error)) from error
    songs[job.id] = asyncio.create_task(job.download("stems", name=job.id))
    return {"id": job.id}


@app.get("/songs/{song}")
async def show(song: str) -> dict[str, str | list[str]]:
    task = songs.get(song)
    if task is None:
        raise HTTPException(404)
    if not task.done():
        return {"status": "processing"}
    if error := task.exception():
        return {"status": "failed", "error": str(error)}
    return {"status": "done", "stems": sorted(task.result())}


@app.get("/songs/{song}/{stem}")
async def fetch(song: str, stem: str) -> FileResponse:
    task = songs.get(song)
    files = task.result() if task is not None and task.done() and not task.exception() else {}
    if stem not in files:
        raise HTTPException(404)
    return FileResponse(files[stem])


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT)
