"""Families of methods, to which a concrete one adds its coefficients."""
