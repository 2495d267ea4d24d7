"""The sandbox's control endpoint and its page."""
