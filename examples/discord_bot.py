"""A Discord bot with discord.py: `/stems` with a song attached is answered with the song's stems.

    pip install aistemsplitter-async discord.py
    export AISTEMSPLITTER_API_KEY=ast_... DISCORD_TOKEN=...
    python examples/discord_bot.py

No audio is kept: the API fetches the attachment, and a stem is in memory while it is sent. Of one that is larger than
files may be there (10 MiB without boosts) the link is sent. After 15 minutes, or a restart, `/collect` brings stems.
"""

import asyncio
import io
import os
from contextlib import suppress

import discord
from discord import app_commands

from aistemsplitter_async import AIStemSplitterError, AsyncAIStemSplitter, Job


class StemBot(discord.Client):
    def __init__(self, splitter: AsyncAIStemSplitter) -> None:
        # A song called @everyone.mp3 must not ring every phone.
        super().__init__(intents=discord.Intents(guilds=True), allowed_mentions=discord.AllowedMentions.none())
        self.splitter = splitter
        self.tree = app_commands.CommandTree(self)
        self.tree.add_command(stems)
        self.tree.add_command(collect)

    async def setup_hook(self) -> None:
        await self.tree.sync()


@app_commands.command(description="Split a song into vocals, drums, bass and the rest")
async def stems(interaction: discord.Interaction[StemBot], song: discord.Attachment) -> None:
    await interaction.response.defer(thinking=True)  # Discord waits three seconds for a first answer
    key = f"discord {interaction.id}"
    try:
        job = await interaction.client.splitter.submit(song.url, idempotency_key=key, timeout=300)
    except AIStemSplitterError as error:
        await show(interaction, f"{song.filename}: {error}")
    else:
        await answer(interaction, job, song.filename)


@app_commands.command(description="Bring the stems of a song that was split before")
async def collect(interaction: discord.Interaction[StemBot], split: str) -> None:
    await interaction.response.defer(thinking=True)
    await answer(interaction, interaction.client.splitter.job(split), "Your song")


async def answer(interaction: discord.Interaction[StemBot], job: Job, name: str) -> None:
    shown, again = "", f"\n-# If no stems come: `/collect split:{job.id}`"
    try:
        async with asyncio.timeout((interaction.expires_at - discord.utils.utcnow()).total_seconds() - 30):
            async for split in job.updates():
                if split.status != shown:  # other fields change too, and there is a limit of edits
                    shown = split.status
                    await show(interaction, f"{name}: {shown}{again}")
            split = await job.wait()  # raises if it failed
            for stem in split.stems:
                async with interaction.client.splitter.open_stem(split, stem) as audio:
                    if audio.length is None or audio.length > interaction.filesize_limit:
                        await interaction.followup.send(f"{stem} is too large for this chat: <{split.stems[stem]}>")
                        continue
                    file = discord.File(io.BytesIO(await audio.read()), audio.filename)
                    await interaction.followup.send(f"{stem} of {name}", file=file)
        await show(interaction, f"{name}: done")
    except (AIStemSplitterError, discord.HTTPException, TimeoutError) as error:
        await show(interaction, f"{name}: {str(error)[:1000] or 'not done yet'}{again * (shown != 'failed')}")


async def show(interaction: discord.Interaction[StemBot], text: str) -> None:
    """Edit the answer. If that fails, the stems, which are paid for, are still delivered."""
    with suppress(discord.HTTPException):
        await interaction.edit_original_response(content=text[:2000])  # Discord refuses more


async def main() -> None:
    # Left before the loop ends, the client waits for creates under way, so that no split is paid for and lost.
    async with AsyncAIStemSplitter() as splitter, StemBot(splitter) as bot:
        await bot.start(os.environ["DISCORD_TOKEN"])


if __name__ == "__main__":
    discord.utils.setup_logging()
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
