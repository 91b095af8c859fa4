"""Tasks, data, checkpoints and callbacks: everything that needs Lightning."""
