"""A single step: coefficients, stages, compiled steps, and steps with history."""
