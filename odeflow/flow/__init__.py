"""Flow, the layer, and what it is made of."""
