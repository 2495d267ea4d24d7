"""The budget of one key: windows, the limit and how it is learned, lanes, and the gate that admits requests."""
