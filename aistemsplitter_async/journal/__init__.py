"""The journal: one SQLite file that records what was sent and paid for, and survives a kill."""
