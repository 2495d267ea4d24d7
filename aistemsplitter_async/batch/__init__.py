"""Many splits, as fast as the key allows."""
