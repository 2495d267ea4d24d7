"""Reading and changing a running sandbox over HTTP, and its page. Only `origins` imports this room."""
