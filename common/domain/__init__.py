"""Pure values and rules: the standard library only, no clock, no network, no Redis."""
