"""Finding songs: folders, globs, playlists, tags, and where their stems go."""
