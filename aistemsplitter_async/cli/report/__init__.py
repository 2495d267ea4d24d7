"""The report of a batch: one HTML file."""
