"""Densities made of flows and bijections."""
