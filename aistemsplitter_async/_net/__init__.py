"""The shell around aiohttp, as thin as it can be."""
