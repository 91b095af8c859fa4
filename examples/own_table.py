"""A regression on a data frame: fit, save, load, and predict another data frame. Run: python examples/own_table.py."""

from pathlib import Path
from tempfile import TemporaryDirectory

import lightning as L
import polars as pl

import odeflow as of
from odeflow_data import Table
from odeflow_dynamics import MLP
from odeflow_solvers import RK4
from odeflow_tasks import Regression


def houses(first: int, last: int) -> pl.DataFrame:
    """Houses of different sizes and ages with their prices, in thousands."""
    number = range(first, last)
    size, age = [60 + 7 * each % 90 for each in number], [13 * each % 50 for each in number]
    price = [100 + 3 * one - 0.02 * one * other for one, other in zip(size, age, strict=True)]
    return pl.DataFrame({"size": size, "age": age, "price": price})


def main(epochs: int = 40) -> pl.DataFrame:
    """The prices that are predicted for twenty new houses, beside the true ones."""
    L.seed_everything(0, verbose=False)
    task = Regression(MLP(dim=3, hidden=(32,)), RK4(num_steps=4), flow=of.FlowOptions(augment=1))
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(task, datamodule=Table(houses(0, 400), target="price", batch_size=16))
    with TemporaryDirectory() as folder:
        trainer.save_checkpoint(Path(folder, "houses.ckpt"))
        later = of.load(Path(folder, "houses.ckpt"))
    return of.predict(later, houses(400, 420))


if __name__ == "__main__":
    print(main())
