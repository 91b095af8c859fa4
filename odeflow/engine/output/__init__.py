"""The result of a solve: the solution, its interpolant, and its events."""
