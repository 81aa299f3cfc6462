"""The demonstration: real processes on this machine live through what nights are made of."""
