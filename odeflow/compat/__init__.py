"""Interfaces of other libraries on this engine."""
