"""Configuration: recipes, how they merge, and what a command line asks for."""
