"""Stochastic differential equations: solvers, fields, tasks and data."""
