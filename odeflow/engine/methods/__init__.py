"""Families of methods. Concrete methods add their coefficients."""
