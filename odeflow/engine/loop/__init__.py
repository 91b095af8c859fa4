"""The integration loop, step size control, and compiled solves."""
