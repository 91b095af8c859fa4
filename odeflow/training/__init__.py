"""Tasks, data, checkpoints and callbacks: everything that depends on Lightning."""
