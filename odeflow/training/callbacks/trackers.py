"""What experiment trackers get beside metrics: configurations, figures and tables, through one interface for all.

Each function is chosen by the class of the logger. For a logger of your own, register one:

    @log_figure.register(MyLogger)
    def _(logger: MyLogger, name: str, figure: Figure, file: Path, step: int) -> None: …
"""

from collections.abc import Mapping
from functools import singledispatch
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from PIL import Image

if TYPE_CHECKING:
    import polars as pl

MOST_ROWS = 10_000
"""Maximum number of rows of a table that is logged."""
READABLE_ROWS = 100
"""Maximum number of rows of a table that is logged as text."""


@singledispatch
def log_configuration(logger: Logger, config: dict[str, Any], goals: Mapping[str, str]) -> None:
    """Logs the configuration of a run.

    Args:
        logger: The logger.
        config: The configuration, nested.
        goals: "min" or "max" by the name of each monitored metric, whose best value summarises the run.
    """
    logger.log_hyperparams(config)


@log_configuration.register(CSVLogger)
def _(logger: CSVLogger, config: dict[str, Any], goals: Mapping[str, str]) -> None:
    """It is in the run's folder already."""


@log_configuration.register(WandbLogger)
def _(logger: WandbLogger, config: dict[str, Any], goals: Mapping[str, str]) -> None:
    logger.experiment.config.update(config, allow_val_change=True)
    for metric, mode in goals.items():
        logger.experiment.define_metric(metric, summary=mode)


@singledispatch
def log_figure(logger: Logger, name: str, figure: Figure, file: Path, step: int) -> None:
    """Logs a figure. Loggers without pictures ignore it.

    Args:
        logger: The logger.
        name: The name of the figure, the same at each moment.
        figure: The figure.
        file: The file to which it was written.
        step: The number of steps of training.
    """


@log_figure.register(WandbLogger)
def _(logger: WandbLogger, name: str, figure: Figure, file: Path, step: int) -> None:
    if file.suffix == ".png":
        logger.log_image(f"figures/{name}", [str(file)])
        return
    pixels = BytesIO()
    figure.savefig(pixels, format="png")
    logger.log_image(f"figures/{name}", [Image.open(pixels)])


@log_figure.register(TensorBoardLogger)
def _(logger: TensorBoardLogger, name: str, figure: Figure, file: Path, step: int) -> None:
    logger.experiment.add_figure(f"figures/{name}", figure, step, close=False)


@log_figure.register(MLFlowLogger)
def _(logger: MLFlowLogger, name: str, figure: Figure, file: Path, step: int) -> None:
    logger.experiment.log_artifact(str(logger.run_id), str(file), "figures")


@singledispatch
def log_table(logger: Logger, name: str, table: "pl.DataFrame") -> None:
    """Logs a table. Loggers without tables ignore it.

    Args:
        logger: The logger.
        name: The name of the table.
        table: Its first rows, `MOST_ROWS` at most.
    """


@log_table.register(WandbLogger)
def _(logger: WandbLogger, name: str, table: "pl.DataFrame") -> None:
    logger.log_table(name, columns=table.columns, data=[list(row) for row in table.rows()])


@log_table.register(TensorBoardLogger)
def _(logger: TensorBoardLogger, name: str, table: "pl.DataFrame") -> None:
    rows = [table.columns, ["---"] * table.width, *table.head(READABLE_ROWS).rows()]
    logger.experiment.add_text(name, "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows))


@log_table.register(MLFlowLogger)
def _(logger: MLFlowLogger, name: str, table: "pl.DataFrame") -> None:
    logger.experiment.log_text(str(logger.run_id), table.write_csv(), f"{name}.csv")
