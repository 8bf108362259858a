//! Pure: observation in, decision out. No clock, no I/O, no randomness.
