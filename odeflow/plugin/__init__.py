"""Plugins: objects that store their constructor arguments, and the registry that finds them."""
