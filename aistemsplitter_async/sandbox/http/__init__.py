"""The service over HTTP: three origins, decoding and encoding, faults in effect."""
