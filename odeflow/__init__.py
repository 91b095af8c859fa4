"""odeflow: a plugin-based modelling framework for neural differential equations on PyTorch Lightning.

The public names are listed in `__init__.pyi`. Each is imported on first use, so that `import odeflow` is fast.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
