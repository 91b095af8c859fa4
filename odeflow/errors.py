"""The exceptions of odeflow. Messages say what was expected, what was given, and what to do."""


class OdeflowError(Exception):
    """Base of all odeflow errors."""


class PluginError(OdeflowError, LookupError):
    """A plugin is unknown, ambiguous or badly specified, or its import failed."""


class RecipeError(OdeflowError, LookupError):
    """A recipe is unknown or cannot be read."""


class CheckpointError(OdeflowError, ValueError):
    """A checkpoint is missing, damaged, or lacks what is needed to rebuild its model."""


class DataError(OdeflowError, ValueError):
    """Data are missing, damaged or malformed."""


class TableauError(OdeflowError, ValueError):
    """The coefficients of a Runge–Kutta method are inconsistent, or do not have the declared order."""


class StateError(OdeflowError, ValueError):
    """A state, or the vector field's output, has the wrong shape, dtype or structure."""


class SettingError(OdeflowError, ValueError):
    """Invalid argument."""


class GradientError(OdeflowError, RuntimeError):
    """The gradient method does not support the requested gradient."""


class TrainingError(OdeflowError, RuntimeError):
    """A training step failed: its loss or gradient is not finite, or it exceeds its budget of evaluations."""


class ConformanceError(OdeflowError, AssertionError):
    """A plugin violates a law that holds for all plugins of its kind."""
