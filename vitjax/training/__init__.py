"""Training: what is learned, on which data, how fast, and how a run survives what happens to it."""
