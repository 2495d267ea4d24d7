"""The parts of `power_cut.py` and `power_cut_disk.py`."""
