"""The parts of `torture.py`: what a seed draws, the service it is tried on, how it runs, and what is checked."""
