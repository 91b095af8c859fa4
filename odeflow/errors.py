"""Every error that odeflow raises on purpose. Messages say what was wanted, what came, and what to do."""


class OdeflowError(Exception):
    """Root of odeflow's errors: catch it to catch them all."""


class PluginError(OdeflowError, LookupError):
    """A plugin is unknown, ambiguous, badly specified, or could not be imported."""


class RecipeError(OdeflowError, LookupError):
    """A recipe is unknown or cannot be read."""


class CheckpointError(OdeflowError, ValueError):
    """A checkpoint lacks what is needed to rebuild its model."""


class DataError(OdeflowError, ValueError):
    """Data are missing, damaged or of the wrong form."""


class TableauError(OdeflowError, ValueError):
    """The coefficients of a Runge–Kutta method contradict themselves or the order they claim."""


class StateError(OdeflowError, ValueError):
    """A state, or what a field made of it, has the wrong shape, dtype or structure."""


class SettingError(OdeflowError, ValueError):
    """An option has a value that makes no sense."""


class GradientError(OdeflowError, RuntimeError):
    """A gradient was asked for that the chosen method cannot give."""


class ConformanceError(OdeflowError, AssertionError):
    """A plugin breaks a law that all plugins of its kind keep."""
