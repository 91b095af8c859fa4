"""Laws of the figure of predicted numbers over true ones."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.metrics import r2_score
from torch.utils.data import DataLoader, TensorDataset

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_solvers import Euler
from odeflow_tasks import Regression
from odeflow_tasks.agreement import Agreement
from odeflow_tasks.file_units import FileUnits

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec:FutureWarning", "ignore:.*:UserWarning:lightning.*"
)
UNITS = of.Units(target=of.Units((10.0, -1.0), (2.0, 3.0), features=("price", "net")))


def test_all_batches_are_shown_in_the_units_of_the_file() -> None:
    """Each target has a panel with its name, its points and the R² of scikit-learn."""
    torch.manual_seed(0)
    prediction, true = torch.randn(30, 2), torch.randn(30, 2)
    prediction += true
    metric = Agreement(2, "samples")
    for part in (slice(0, 12), slice(12, 30)):
        metric.update(prediction[part], true[part])
    assert UNITS.target is not None
    wanted = [UNITS.target.restored(each).numpy() for each in (true, prediction)]
    for number, axes in enumerate(metric.figure(FileUnits(UNITS)).axes):
        name = UNITS.target.features[number]
        assert (axes.get_xlabel(), axes.get_ylabel()) == (f"{name}, true", f"{name}, predicted")
        x, y = (each[:, number] for each in wanted)
        (points,) = [line for line in axes.lines if len(line.get_xdata()) == 30]
        np.testing.assert_allclose(points.get_xdata(), x, rtol=1e-6)
        np.testing.assert_allclose(points.get_ydata(), y, rtol=1e-6)
        assert axes.get_title() == f"30 samples, $R^2$ = {r2_score(x, y):.3f}"


@pytest.mark.parametrize(("count", "title"), [(1, "1 samples"), (3, "3 samples")])
def test_without_a_spread_there_is_no_r2(count: int, title: str) -> None:
    metric = Agreement(1, "samples")
    metric.update(torch.rand(count, 1), torch.ones(count, 1))
    (axes,) = metric.figure(FileUnits(of.Units())).axes
    assert axes.get_title() == title
    assert axes.get_xlabel() == "target, true"


def test_what_is_not_finite_is_left_out() -> None:
    """With its target, so that all others keep theirs."""
    metric = Agreement(2, "samples")
    metric.update(
        torch.tensor([[1.0, 2.0], [torch.nan, 3.0], [5.0, 6.0]]), torch.tensor([[1.5, 2.5], [0.0, 0.0], [5.5, 6.5]])
    )
    axes = metric.figure(FileUnits(of.Units())).axes
    assert [line.get_xdata().tolist() for line in (each.lines[1] for each in axes)] == [[1.5, 5.5], [2.5, 6.5]]
    assert [line.get_ydata().tolist() for line in (each.lines[1] for each in axes)] == [[1.0, 5.0], [2.0, 6.0]]


def test_a_test_is_shown_alone() -> None:
    """A second test replaces the points of the first; validation adds none."""
    torch.manual_seed(0)
    task = Regression(MLP(2, [4]), Euler(num_steps=1), num_outputs=1)
    batches = DataLoader(TensorDataset(torch.randn(9, 2), torch.randn(9, 1)), batch_size=4)
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    for _ in range(2):
        trainer.validate(task, batches, verbose=False)
        trainer.test(task, batches, verbose=False)
    (axes,) = task.test_figures()["predicted"].axes
    assert axes.get_title().startswith("9 samples, ")
