"""What a solve gives back: the solution, its interpolant, and its events."""
