# %% [markdown]
# # Stems in a notebook
#
#     pip install aistemsplitter-async jupyterlab jupytext ipywidgets tqdm
#     export AISTEMSPLITTER_API_KEY=ast_...
#     jupyter lab
#
# There, right-click this file: Open With, Notebook. VS Code, PyCharm and Spyder show its cells as it is.
#
# Cells can `await`, since the kernel runs an event loop. The client belongs to it: make one for all cells, and use it
# neither in threads nor with `asyncio.run`.

# %%
from pathlib import Path

from IPython.display import Audio, display
from tqdm.auto import tqdm

from aistemsplitter_async import AsyncAIStemSplitter, Failed, Skipped

client = AsyncAIStemSplitter()
print((await client.get_credits()).balance, "seconds of audio can be split")

# %% [markdown]
# All songs of the folder `songs`. Interrupt this cell, restart the kernel or add songs, and run it again: thanks to the
# journal it goes on where it was, and no song is paid for twice.

# %%
AUDIO = {".mp3", ".flac", ".wav", ".m4a", ".ogg"}
songs = sorted(path for path in Path("songs").iterdir() if path.suffix.lower() in AUDIO)
stems: dict[str, dict[str, Path]] = {}
async with client.split_many(songs, into="stems", journal="stems/songs.journal") as outcomes:
    async for outcome in tqdm(outcomes, total=len(songs), unit="song"):
        song = songs[outcome.position]
        match outcome:
            case Failed():
                tqdm.write(f"{song}: {outcome.error}")
            case Skipped(reason="not begun"):  # after an error that all songs would meet, such as too few credits
                tqdm.write(f"{song}: not begun; run this cell again")
            case _:  # done now, or in an earlier run
                stems[song.stem] = dict(outcome.files)

# %% [markdown]
# The players hold a copy of the audio, so the notebook can be moved without the files, and grows by their size.

# %%
for title, files in stems.items():
    print(title)
    for file in files.values():
        display(Audio(filename=file))

# %%
await client.aclose()
