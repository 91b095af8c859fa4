"""`predict`: the predictions of a task for a table, as a table."""

from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device

from odeflow.errors import DataError
from odeflow.plugin import registry
from odeflow.training.data import DataModule
from odeflow.training.task import Task
from odeflow.training.units import Units


def predict(task: Task, source: Any) -> Any:
    """Predictions for a table, as `odeflow predict --output` writes them: in the units and by the names of the file.

    Args:
        task: A trained task, such as from `load`.
        source: A table as it was trained on: a data frame of polars, pandas or any library that exports Arrow, columns
            by name, an array, or the path of a file.

    Returns:
        A data frame of pandas if `source` is one, otherwise of polars.

    Raises:
        DataError: The task was not trained on a table, or `source` cannot be read like that table.
    """
    data = trained_on(task, source)
    units = task.units or Units()
    data.adopt(units)
    data.setup("predict")
    training = task.training
    task.eval()
    with torch.no_grad():
        found: list[Any] = []
        for number, batch in enumerate(data.predict_dataloader()):
            prediction = task.predict_step(move_data_to_device(batch, task.device), number)
            found.append(task.restored(move_data_to_device(prediction, "cpu"), units))
    task.train(training)
    table = data.table(found)
    if type(source).__module__.partition(".")[0] == "pandas":
        return type(source)({column.name: column.to_numpy() for column in table})
    return table


def trained_on(task: Task, source: Any | None = None) -> DataModule:
    """The data plugin of the task's training, of another table, or of the same.

    Raises:
        DataError: The task was not trained on a table, or `source` cannot be read like that table.
    """
    name, spec = type(task).__name__, task.data_spec
    if spec is None:
        raise DataError(
            f"this {name} does not say how its data were read: load it from a checkpoint of a run on a table, or fit it"
            " on one"
        )
    cls = registry.class_of(spec["class_path"])
    if not (issubclass(cls, DataModule) and cls.tabular):
        raise DataError(f"this {name} was trained on {cls.__name__}, which is no table")
    options = spec["init_args"] if source is None else {**spec["init_args"], "path": source}
    return registry.build({**spec, "init_args": options})
