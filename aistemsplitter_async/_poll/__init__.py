"""When to poll which split: the processing-time model, the plan, and the poller that follows it."""
