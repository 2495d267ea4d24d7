"""A service with aiohttp: songs in, stems out. Webhooks notify it when a split is done, so it need not poll.

    pip install aistemsplitter-async
    export AISTEMSPLITTER_API_KEY=ast_... AISTEMSPLITTER_WEBHOOK_SECRET=whsec_...
    PUBLIC_URL=https://songs.example.com python examples/aiohttp_app.py

`POST /songs?name=song.mp3` with the audio as body, `GET /songs/{id}`, `GET /songs/{id}/{stem}`.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from aistemsplitter_async import AIStemSplitterError, AsyncAIStemSplitter, WebhookReceiver

CLIENT = web.AppKey("client", AsyncAIStemSplitter)
RECEIVER = web.AppKey("receiver", WebhookReceiver)
SONGS = web.AppKey("songs", dict[str, asyncio.Task[dict[str, Path]]])


async def with_client(app: web.Application) -> AsyncIterator[None]:
    """One client for the life of the process. Running splits continue after its end; `client.job(id)` finds them."""
    async with AsyncAIStemSplitter(webhooks=app[RECEIVER]) as client:
        app[CLIENT] = client
        yield
        for task in app[SONGS].values():
            task.cancel()
        await asyncio.gather(*app[SONGS].values(), return_exceptions=True)


async def create(request: web.Request) -> web.Response:
    if "name" not in request.query:
        return web.json_response({"error": "the file needs a name: POST /songs?name=song.mp3"}, status=400)
    try:
        job = await request.app[CLIENT].submit(await request.read(), filename=request.query["name"], timeout=300)
    except AIStemSplitterError as error:
        return web.json_response({"error": str(error)}, status=502)
    request.app[SONGS][job.id] = asyncio.create_task(job.download("stems", name=job.id))
    return web.json_response({"id": job.id}, status=202)


async def show(request: web.Request) -> web.Response:
    task = request.app[SONGS].get(request.match_info["id"])
    if task is None:
        raise web.HTTPNotFound
    if not task.done():
        return web.json_response({"status": "processing"})
    if error := task.exception():
        return web.json_response({"status": "failed", "error": str(error)})
    return web.json_response({"status": "done", "stems": sorted(task.result())})


async def fetch(request: web.Request) -> web.FileResponse:
    task = request.app[SONGS].get(request.match_info["id"])
    files = task.result() if task is not None and task.done() and not task.exception() else {}
    if request.match_info["stem"] not in files:
        raise web.HTTPNotFound
    return web.FileResponse(files[request.match_info["stem"]])


def build_app(public_url: str) -> web.Application:
    app = web.Application(client_max_size=200 * 1024 * 1024)
    app[RECEIVER] = WebhookReceiver(url=f"{public_url}/webhooks")
    app[SONGS] = {}
    app.cleanup_ctx.append(with_client)
    app.router.add_post("/webhooks", app[RECEIVER].aiohttp_handler)
    app.router.add_post("/songs", create)
    app.router.add_get("/songs/{id}", show)
    app.router.add_get("/songs/{id}/{stem}", fetch)
    return app


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8080"))
    web.run_app(build_app(os.environ.get("PUBLIC_URL", f"http://127.0.0.1:{port}")), host="127.0.0.1", port=port)
