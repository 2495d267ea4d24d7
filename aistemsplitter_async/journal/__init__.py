"""What survives a kill: one SQLite file that remembers what was sent and what was bought."""
