"""Laws of Whitening: it is the Gaussian of the data, and a flow before it starts there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

import odeflow as of
from odeflow_data import Table
from odeflow_dynamics import MLP
from odeflow_solvers import RK4
from odeflow_tasks import Chain, Density


def sample(count: int = 200) -> Tensor:
    """Correlated rows, in float64."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[2.0, 0, 0], [1.5, 0.3, 0], [-1.0, 0.2, 5.0]], dtype=torch.float64)
    return torch.randn(count, 3, generator=generator, dtype=torch.float64) @ mixing.T + 4


def test_data_become_white() -> None:
    """Mean 0 and covariance the identity; the map is undone, and its determinant is that of its matrix."""
    x, whitening = sample(), of.Whitening(3).double()
    torch.testing.assert_close(whitening.inverse(x)[0], x)
    whitening.fit(x)
    z, log_det = whitening.inverse(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(3).double())
    again, back = whitening(z)
    torch.testing.assert_close(again, x)
    torch.testing.assert_close(back, -log_det)
    covariance: Any = np.cov(x.T.numpy(), bias=True)
    torch.testing.assert_close(back[0], torch.tensor(np.linalg.slogdet(covariance)[1] / 2))


def test_dependent_features_are_refused() -> None:
    """A singular covariance has no density; the message says what to do."""
    x = sample()
    with pytest.raises(of.DataError, match="a feature is a linear function of the others"):
        of.Whitening(4).fit(torch.cat([x, x[:, :1] - x[:, 1:2]], dim=1))
    with pytest.raises(of.DataError, match=r"Whitening needs rows of 2 features; got shape \(200, 3\)"):
        of.Whitening(2).fit(x)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize("marginals", [0, 16])
def test_a_flow_that_does_nothing_is_the_gaussian(tmp_path: Path, marginals: int) -> None:
    """With a zero field the density after `fit` is that of the baseline; after marginals whitening is of their result."""
    columns: Any = dict(zip("abc", sample().numpy().T, strict=True))
    task = Density(MLP(3, [4]), RK4(num_steps=1), chain=Chain(whitening=True, marginals=marginals))
    for parameter in task.parameters():
        torch.nn.init.zeros_(parameter)
    task.configure_optimizers = lambda: torch.optim.SGD(task.parameters(), lr=0.0)
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(default_root_dir=tmp_path, max_steps=1, accelerator="cpu", limit_val_batches=0, **quiet)
    data = Table(columns)
    trainer.fit(task, datamodule=data)
    x = data.train.x
    z, _ = task.cnf.to_base(x)
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(3), atol=1e-4, rtol=0)
    gaussian = task.baselines["gaussian"](x)
    assert torch.allclose(task.eval().log_prob(x), gaussian, atol=1e-3) == (not marginals)


def test_noise_is_for_training_alone() -> None:
    """The loss of a batch varies in training, and does not in evaluation."""
    task, x = Density(MLP(3), RK4(num_steps=1), noise=0.5), sample(20).float()
    losses = {stage: {task.loss(x, stage).item() for _ in range(3)} for stage in ("train", "val", "test")}
    assert [len(found) for found in losses.values()] == [3, 1, 1]


def test_noise_has_the_covariance_of_the_data() -> None:
    """After whitening noise of standard deviation s adds s² of the data's covariance to it."""
    task, x = Density(MLP(3), RK4(num_steps=1), noise=0.5, chain=Chain(whitening=True)).double(), sample()
    whitening = task.cnf.transforms[-1]
    assert isinstance(whitening, of.Whitening)
    whitening.fit(x)
    torch.manual_seed(0)
    drawn: list[Tensor] = []
    task.log_prob = lambda x, condition=None: drawn.append(x) or x.sum(1)
    rows = x.repeat(100, 1)
    task.loss(rows, "train")
    noise = drawn[0] - rows
    torch.testing.assert_close(
        (noise.T @ noise / len(noise)).div(x.T.cov(correction=0)), torch.full((3, 3), 0.25).double(), rtol=0.1, atol=0
    )


def test_images_are_not_whitened() -> None:
    """The message names what is for vectors alone."""
    for options in ({"chain": Chain(whitening=True)}, {"noise": 0.1}):
        with pytest.raises(
            of.SettingError, match="whitening, marginals, noise and a base are for vectors with a density"
        ):
            Density(MLP(12), RK4(num_steps=1), shape=(3, 2, 2), **options)
