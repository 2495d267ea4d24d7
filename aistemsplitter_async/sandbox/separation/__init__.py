"""Signal processing: runs as a process of its own."""
