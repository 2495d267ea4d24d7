"""The parts of `scale.py`: who judges, who works, and the servers between the workers."""
