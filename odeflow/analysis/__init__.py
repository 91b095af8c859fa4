"""Cost and accuracy of flows, and figures of them."""
