"""The engine: equations, steps, the loop over them, and gradients. Tensors and callables only."""
