"""What one step is: coefficients, stages, compiled steps, and steps that carry history."""
