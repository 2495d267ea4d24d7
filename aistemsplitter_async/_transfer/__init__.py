"""Bytes up and down: sources, uploads, downloads, and the files they leave."""
