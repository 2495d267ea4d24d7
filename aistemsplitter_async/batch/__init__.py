"""Many splits at the speed of the key."""
