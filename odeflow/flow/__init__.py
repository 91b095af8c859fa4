"""Flow, the layer, and its parts."""
