"""Flows trained by matching: interpolants, couplings and tasks."""
