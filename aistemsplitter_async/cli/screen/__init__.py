"""The terminal while a command runs."""
