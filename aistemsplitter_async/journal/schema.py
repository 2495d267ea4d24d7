"""The tables of a journal, from its first version on."""

from __future__ import annotations

from typing import Final

# One script per version; a journal of version n runs those from n on, all in one transaction.
MIGRATIONS: Final = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE sources (  -- what is known of files: they are read again only if any of this changed
        path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER, identity TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE tracks (
        id INTEGER PRIMARY KEY,
        identity TEXT NOT NULL,  -- of the audio: its SHA-256 or its URL
        variant TEXT NOT NULL,   -- stem model and output format, as they were asked for
        run INTEGER NOT NULL,    -- the newest run that came across it
        source TEXT NOT NULL,
        state TEXT NOT NULL,
        folder TEXT NOT NULL,
        pattern TEXT NOT NULL,
        place TEXT NOT NULL UNIQUE,  -- folder and pattern as a file system that ignores case sees them
        input TEXT, expires_at REAL,
        idempotency_key TEXT UNIQUE, body BLOB, intended_at REAL,
        split_id TEXT, credits_used REAL, created_at REAL,
        split TEXT, files TEXT, failure TEXT
    );
    CREATE INDEX tracks_by_identity ON tracks (identity, variant);
    CREATE INDEX tracks_by_state ON tracks (state, failure IS NULL);
    """,
    # What was called identity was the SHA-256 of all bytes, which another tag changes. The audio of old rows is unknown
    # until a file with the same bytes is read, so their identity, and that of known files, may be NULL.
    """
    CREATE TABLE old_sources AS SELECT * FROM sources;
    DROP TABLE sources;
    CREATE TABLE sources (  -- what is known of files: they are read again only if any of this changed
        path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER,
        content TEXT NOT NULL,  -- the SHA-256 of all bytes
        identity TEXT           -- of the audio alone
    ) WITHOUT ROWID;
    INSERT INTO sources SELECT path, size, mtime_ns, ctime_ns, inode, identity, NULL FROM old_sources;
    DROP TABLE old_sources;
    CREATE TABLE new_tracks (
        id INTEGER PRIMARY KEY,
        content TEXT,            -- the SHA-256 of all bytes; NULL for a URL
        identity TEXT,           -- of the audio alone, or the URL
        variant TEXT NOT NULL,   -- stem model and output format, as they were asked for
        run INTEGER NOT NULL,    -- the newest run that came across it
        source TEXT NOT NULL,
        state TEXT NOT NULL,
        folder TEXT NOT NULL,
        pattern TEXT NOT NULL,
        place TEXT NOT NULL UNIQUE,  -- folder and pattern as a file system that ignores case sees them
        input TEXT, expires_at REAL,
        idempotency_key TEXT UNIQUE, body BLOB, intended_at REAL,
        split_id TEXT, credits_used REAL, created_at REAL,
        split TEXT, files TEXT, failure TEXT
    );
    INSERT INTO new_tracks
        SELECT id, iif(identity LIKE 'sha256:%', identity, NULL), iif(identity LIKE 'sha256:%', NULL, identity),
            variant, run, source, state, folder, pattern, place, input, expires_at, idempotency_key, body, intended_at,
            split_id, credits_used, created_at, split, files, failure
        FROM tracks;
    DROP TABLE tracks;
    ALTER TABLE new_tracks RENAME TO tracks;
    CREATE INDEX tracks_by_identity ON tracks (identity);
    CREATE INDEX tracks_by_content ON tracks (content);
    CREATE INDEX tracks_by_state ON tracks (state, failure IS NULL);
    CREATE INDEX tracks_by_split ON tracks (split_id);
    CREATE TABLE aliases (  -- what a person said is the song of a track, though nothing else shows it
        identity TEXT PRIMARY KEY, track INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    # The sender is the fingerprint of the API key that a create was sent with. An account may change its API key, and
    # it is not documented whether its idempotency keys are known under another one.
    """
    ALTER TABLE tracks ADD COLUMN sender TEXT;
    UPDATE tracks SET sender = (SELECT value FROM meta WHERE name = 'key') WHERE body IS NOT NULL;
    """,
)
