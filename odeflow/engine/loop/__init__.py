"""The loop over steps, and what controls them."""
