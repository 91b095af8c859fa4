"""Per-sample stepping: each sample of a batch has its own clock, step sizes, output times, dense output and events."""
