"""What a flow costs and needs, and pictures of it."""
