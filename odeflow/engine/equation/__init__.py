"""The equation: the state, the vector field, and its derivatives."""
