"""Asyncio-first SDK for the AIStemSplitter API."""

__version__ = "0.1.0"
