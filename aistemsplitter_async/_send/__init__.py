"""One attempt, and the loop that retries."""
