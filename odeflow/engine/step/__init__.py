"""A single step: coefficients, stages, and steps with history."""
