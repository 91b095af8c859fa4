"""Plugins: how they remember what they were built with, and how they are found."""
