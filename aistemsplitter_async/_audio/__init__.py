"""What of a file is audio, and how long that audio is; by content, never by name."""
