"""Mean absolute errors of numbers that are predicted, in the units of the data file."""

from torch import Tensor

import odeflow as of


def log_absolute_errors(task: of.Task, name: str, prediction: Tensor, targets: Tensor, baseline: str = "") -> None:
    """Logs the mean absolute error of each target, by its name where there are several; nothing without their units.

    Args:
        task: The task that logs.
        name: The name of the metric, such as "test/mae".
        prediction: (B, k), in the units of batches.
        targets: (B, k).
        baseline: The name of the baseline that predicts; by default the model does.
    """
    units = None if task.units is None else task.units.target
    if units is None:
        return
    errors = (units.restored(prediction) - units.restored(targets)).abs().mean(dim=0)
    names = units.features or [str(number) for number in range(len(errors))]
    for target, error in zip(names, errors, strict=True):
        whole = "_".join(part for part in (name, target if len(errors) > 1 else "", baseline) if part)
        task.log_mean(whole, error.float(), len(targets))
