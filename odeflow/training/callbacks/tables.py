"""Tables: writes the tables of a task at the end of training."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng

from odeflow.training.callbacks.run_folder import run_folder
from odeflow.training.table import write_table
from odeflow.training.task import Task

SHOWN = 40
"""Maximum number of rows that are printed."""


class Tables(Callback):
    """Writes `Task.tables` to `<name>.csv` in the run's folder at the end of training, and prints them."""

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, Task):
            return
        import polars as pl

        training = pl_module.training
        pl_module.eval()
        with isolate_rng():  # tables must not affect the run
            tables = pl_module.tables()
        pl_module.train(training)
        for name, table in tables.items():
            write_table(table, run_folder(trainer) / f"{name}.csv")
            with pl.Config(tbl_rows=SHOWN, tbl_cols=-1, tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True):
                rank_zero_info(f"{name}:\n{table}")
