"""Decisions without I/O: no event loop, no clock read, no global randomness."""
