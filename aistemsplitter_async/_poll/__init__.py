"""Decides when to poll which split: the model of processing times, the plan, and the poller that follows it."""
