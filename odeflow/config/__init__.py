"""Configuration: recipes, their merging, and the parsed command line."""
