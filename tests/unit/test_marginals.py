"""Laws of Marginals: an invertible map that makes each feature of the data standard normal."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.rows import RowData, batches
from odeflow_dynamics import MLP
from odeflow_solvers import RK4
from odeflow_tasks import Chain, Density

DOUBLE = torch.float64


def sample(count: int = 20_000) -> Tensor:
    """(N, 2): one feature with two sharp peaks, one with a sharp edge; independent."""
    torch.manual_seed(0)
    peaks = 0.01 * torch.randn(count, dtype=DOUBLE) + torch.randint(2, (count,)) * 3.0
    return torch.stack([peaks, torch.rand(count, dtype=DOUBLE) ** 2 - 5], dim=1)


def fitted(knots: int = 200) -> of.Marginals:
    marginals = of.Marginals(2, knots).double()
    marginals.fit(sample())
    return marginals


def test_data_become_normal() -> None:
    """Moments and quantiles of each feature are those of the standard normal distribution."""
    z, _ = fitted().inverse(sample())
    assert torch.allclose(z.mean(0), torch.zeros(2, dtype=DOUBLE), atol=0.01)
    assert torch.allclose(z.std(0), torch.ones(2, dtype=DOUBLE), atol=0.02)
    levels = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=DOUBLE)
    assert torch.allclose(z.quantile(levels, dim=0), torch.special.ndtri(levels)[:, None].expand(4, 2), atol=0.03)


def test_both_directions_are_inverse_with_the_determinant_of_the_jacobian() -> None:
    """Inside the data's range and far outside of it."""
    marginals, z = fitted(), torch.tensor([[0.1, -0.7], [9.0, -20.0], [-3.0, 2.5]], dtype=DOUBLE)
    x, log_det = marginals(z)
    again, back = marginals.inverse(x)
    assert torch.allclose(again, z, atol=1e-9)
    assert torch.allclose(back, -log_det, atol=1e-9)
    for number, point in enumerate(z):
        jacobian = torch.autograd.functional.jacobian(lambda y: marginals(y[None])[0][0], point)
        assert isinstance(jacobian, Tensor)
        assert torch.allclose(torch.linalg.slogdet(jacobian)[1], log_det[number], atol=1e-9)


def test_the_density_of_marginals_alone_is_near_the_entropy() -> None:
    """Of independent features nothing is left to learn: −log p under the normal base is their entropy, to 0.05 nats."""
    x = sample()
    z, log_det = fitted().inverse(x)
    loss = -(torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + log_det).mean().item()
    entropy = 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e * 0.01**2)) + torch.log(torch.tensor(2.0))
    entropy = entropy + torch.log(torch.tensor(2.0)) - 1  # of u², u uniform: log 2 − 1
    assert abs(loss - entropy.item()) < 0.05


def test_before_the_fit_it_is_the_identity() -> None:
    """With determinant one."""
    x = torch.randn(10, 3)
    z, log_det = of.Marginals(3, 8).inverse(x)
    assert torch.allclose(z, x, atol=1e-6)
    assert torch.allclose(log_det, torch.zeros(10), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: of.Marginals(2, 1), of.SettingError, "knots must be at least 2; got 1"),
        (lambda: of.Marginals(2, 50).fit(torch.randn(49, 2)), of.DataError, r"at least 50 rows .* got shape \(49, 2\)"),
        (lambda: of.Marginals(2, 50).fit(torch.randn(90, 3)), of.DataError, r"of 2 features; got shape \(90, 3\)"),
        (
            lambda: of.Marginals(2, 50).fit(torch.stack([torch.randn(900), torch.ones(900)], 1)),
            of.DataError,
            r"feature 1 repeats one value in at least one row of 50.*dequantisation",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(make: object, error: type[Exception], message: str) -> None:
    """The message says what was wanted and what to do."""
    assert callable(make)
    with pytest.raises(error, match=message):
        make()


class Peaks(RowData):
    """`sample()`, as a data module."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.batch_size = 2, 100

    def setup(self, stage: str) -> None:
        self.train = sample(1000).float()
        self.val = self.test = sample(100).float()

    def train_dataloader(self) -> DataLoader[Tensor]:
        return batches(self.train, batch_size=self.batch_size, shuffle=True)


def _loader() -> DataLoader[Tensor]:
    return DataLoader(sample(64).float(), batch_size=32)  # pyright: ignore[reportArgumentType]


def trainer(folder: Path, steps: int) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    return Trainer(default_root_dir=folder, max_steps=steps, accelerator="cpu", **quiet)


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning", "ignore:.*:UserWarning:lightning.*")
def test_the_task_fits_marginals_once_and_keeps_them(tmp_path: Path) -> None:
    """When `fit` begins; a checkpoint holds them, and a run that goes on does not fit them again."""
    task = Density(MLP(2, hidden=(8,)), RK4(num_steps=1), chain=Chain(marginals=64))
    trainer(tmp_path, 1).fit(task, datamodule=Peaks())
    marginals = task.cnf.transforms[-1]
    assert isinstance(marginals, of.Marginals)
    assert marginals.fitted
    kept = marginals.at_data.clone()
    trainer(tmp_path, 2).fit(task, _loader(), _loader())
    assert torch.equal(marginals.at_data, kept)


def test_without_a_data_module_there_is_nothing_to_fit_to(tmp_path: Path) -> None:
    """The error says so."""
    task = Density(MLP(2, hidden=(8,)), RK4(num_steps=1), chain=Chain(marginals=64))
    with pytest.raises(of.DataError, match="fit them yourself"):
        trainer(tmp_path, 1).fit(task, _loader(), _loader())
