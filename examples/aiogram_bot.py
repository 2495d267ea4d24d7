"""A Telegram bot with aiogram: send it a song, watch the progress, get the stems.

    pip install aistemsplitter-async aiogram
    export AISTEMSPLITTER_API_KEY=ast_... BOT_TOKEN=123:abc
    python examples/aiogram_bot.py

The audio is streamed from Telegram to the upload worker, without being held on disk or in memory. Telegram serves files
of up to 20 MB. So does your own Bot API server (TELEGRAM_API_URL=http://127.0.0.1:8081), unless it runs with `--local`:
then there is no limit, but it returns the path of a file on its disk instead of serving the file. For that, pass
`is_local=True` to `TelegramAPIServer.from_base`, and `submit` the path instead of `build_source(..)`.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from tempfile import TemporaryDirectory

from aiogram import Bot, Dispatcher, F, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
from aiogram.exceptions import TelegramAPIError
from aiogram.types import Audio, FSInputFile, Message

from aistemsplitter_async import AIStemSplitterError, AsyncAIStemSplitter, AudioSource, stream_source

router = Router()


@router.message(F.audio)
async def on_audio(message: Message, bot: Bot, client: AsyncAIStemSplitter) -> None:
    assert message.audio is not None  # noqa: S101  # because of the filter
    name = message.audio.file_name or "song.mp3"
    progress, shown = await message.answer(f"{name}: uploading"), ""
    try:
        job = await client.submit(build_source(bot, message.audio, name))
        async for split in job.updates():
            if split.status != shown:  # other fields change too, and Telegram rejects an edit that changes nothing
                shown = split.status
                await show(progress, f"{name}: {shown}")
        with TemporaryDirectory() as folder:
            for stem, file in (await job.download(folder)).items():
                await message.answer_audio(FSInputFile(file), title=f"{stem} of {name}")
    except AIStemSplitterError as error:
        await show(progress, f"{name}: {error}")


async def show(progress: Message, text: str) -> None:
    """Edit the progress message. If that fails, the stems, which are paid for, are still delivered."""
    with suppress(TelegramAPIError):
        await progress.edit_text(text)


@router.message()
async def on_anything_else(message: Message) -> None:
    await message.answer("Send me a song as audio, and I will send you its stems.")


def build_source(bot: Bot, audio: Audio, name: str) -> AudioSource:
    """Return Telegram's file as a source that is read while it is uploaded, and again if the upload must start over."""

    async def read() -> AsyncIterator[bytes]:
        file = await bot.get_file(audio.file_id)
        url = bot.session.api.file_url(bot.token, str(file.file_path))
        async for chunk in bot.session.stream_content(url):
            yield chunk

    return stream_source(read, content_length=audio.file_size or 0, filename=name)


async def main() -> None:
    local = os.environ.get("TELEGRAM_API_URL")
    session = AiohttpSession(api=TelegramAPIServer.from_base(local) if local else PRODUCTION)
    # Left before the loop ends, the client waits for creates under way, so that no split is paid for and lost.
    async with AsyncAIStemSplitter() as client, Bot(os.environ["BOT_TOKEN"], session=session) as bot:
        dispatcher = Dispatcher(client=client)  # passed to handlers that have a parameter `client`
        dispatcher.include_router(router)
        await dispatcher.start_polling(bot)


if __name__ == "__main__":
    asyncio.run(main())
