"""Controlled differential equations: fields, paths and tasks."""
