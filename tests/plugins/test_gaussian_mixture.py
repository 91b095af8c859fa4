"""Laws of the mixture as a base: it is scikit-learn's where it is one mixture, and well weighted where it is several."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.mixture import GaussianMixture as Mixture
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data import Table
from odeflow_dynamics import MLP
from odeflow_solvers import RK4, Dopri5
from odeflow_tasks import Chain, Density, Dequantisation, GaussianMixture
from odeflow_tasks.gaussian_mixture import Gaussians, stacked

FEW: dict[str, Any] = {"components": [1, 3], "ridges": [1e-3, 0.1]}


def clusters(count: int = 240) -> Tensor:
    """Two narrow clusters and a broad one in the plane, in float64."""
    generator = torch.Generator().manual_seed(0)
    centres, widths = torch.tensor([[4.0, 0], [-3, 2], [0, -5]]), torch.tensor([0.3, 0.6, 2.0])
    which = torch.randint(3, (count,), generator=generator)
    x = centres[which] + widths[which, None] * torch.randn(count, 2, generator=generator)
    return x.double()


def fitted(x: Tensor, **options: Any) -> GaussianMixture:
    torch.manual_seed(0)
    base = GaussianMixture(**options).double()
    base.build(x.shape[1])
    base.double().fit(x)
    return base


def density(base: GaussianMixture | None, **options: Any) -> Density:
    """A density whose flow does nothing before it is trained."""
    return Density(MLP(2, [8], zero_init=True), RK4(num_steps=2), base=base, **options)


def trained(task: Density, data: of.DataModule, folder: Path, **options: Any) -> Trainer:
    """The trainer after a fit of the task."""
    task.configure_optimizers = lambda: torch.optim.SGD(task.parameters(), lr=0.0)
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", limit_val_batches=0, **quiet, **options)
    trainer.fit(task, datamodule=data)
    return trainer


def test_before_a_fit_it_is_the_standard_normal() -> None:
    """So a density with a base that was not fitted is one."""
    x = clusters(20)
    torch.testing.assert_close(density(GaussianMixture()).double().log_prob(x), density(None).double().log_prob(x))


@pytest.mark.parametrize("count", [1, 3])
def test_a_mixture_is_that_of_scikit_learn(count: int) -> None:
    """In standardised rows and in whitened ones, and an average of both is the average of their densities."""
    x = clusters() * 50
    found, wanted = [], []
    for frame in (x.std(0, correction=0).diag(), torch.linalg.cholesky(x.T.cov(correction=0))):
        y = torch.linalg.solve(frame, (x - x.mean(0)).T).T.numpy()
        oracle = Mixture(count, reg_covar=1e-2, max_iter=200, random_state=5).fit(y)
        wanted.append(torch.from_numpy(oracle.score_samples(y)) - frame.logdet())
        found.append(Gaussians.fitted(x, count, 1e-2, frame, 5))
        torch.testing.assert_close(found[-1].distribution().log_prob(x), wanted[-1], atol=1e-6, rtol=0)
    shares = torch.tensor([0.3, 0.7]).double()
    average = Gaussians.average(found, shares).distribution().log_prob(x)
    torch.testing.assert_close(average, (torch.stack(wanted, 1) + shares.log()).logsumexp(1), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_flow_that_does_nothing_is_the_mixture_of_the_training_rows(tmp_path: Path) -> None:
    """After `fit` log p is that of the base fitted to them, within the round-off of the float32 of its buffers."""
    columns: Any = dict(zip("ab", (clusters() * 50).numpy().T, strict=True))
    data, task = Table(columns), density(GaussianMixture([1], [1e-3]))
    trained(task, data, tmp_path, max_steps=1)
    rows = data.training_part().double()
    wanted = fitted(rows, components=[1], ridges=[1e-3])().log_prob(rows)
    torch.testing.assert_close(task.double().eval().log_prob(rows), wanted, atol=1e-3, rtol=0)


def test_it_integrates_to_one_before_and_after_a_flow() -> None:
    """∫ p(x) dx = 1 by quadrature, of the average and of what a flow makes of it."""
    base = GaussianMixture(**FEW)
    task = Density(MLP(2, [8]), Dopri5(1e-6, 1e-6), base=base).double().eval()
    base.fit(clusters())
    at = torch.arange(-15, 15, 0.1, dtype=torch.float64) + 0.05
    grid = torch.cartesian_prod(at, at)
    with torch.no_grad():
        for log_prob in (base().log_prob, task.log_prob):
            assert log_prob(grid).exp().sum().item() * 0.01 == pytest.approx(1, abs=1e-4)


def test_samples_have_its_moments() -> None:
    """Mean and covariance of samples are those of the data, but for ridges; each comes with its density."""
    x, base = clusters(2000), GaussianMixture([3], [1e-3])
    torch.manual_seed(0)
    task = density(base).double().eval()
    base.fit(x)
    drawn = task.sample(20_000)
    torch.testing.assert_close(drawn["x"].mean(0), x.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn["x"].T.cov(), x.T.cov(), atol=0.1, rtol=0.03)
    torch.testing.assert_close(task.log_prob(drawn["x"]), drawn["log_prob"])


def test_weights_are_those_of_the_highest_likelihood() -> None:
    """At the maximum the mean of p_m/p is 1 for each density in use and at most 1 for the others."""
    torch.manual_seed(0)
    scales = torch.tensor([0.3, 1.0, 1.1, 5.0], dtype=torch.float64)
    rows = torch.cat([torch.randn(500), 5 * torch.randn(500)]).double()
    log_p = -((rows[:, None] / scales) ** 2) / 2 - scales.log() - math.log(2 * math.pi) / 2
    weights = stacked(log_p)
    assert weights.sum().item() == pytest.approx(1)
    ratios = (log_p - (log_p + weights.log()).logsumexp(1, keepdim=True)).exp().mean(0)
    assert ((ratios - 1).abs() < 0.02)[weights > 0].all()
    assert (ratios < 1.02).all()
    assert weights[0] == 0
    assert log_p.add(weights.log()).logsumexp(1).mean() > log_p.mean(0).max()


def test_scale_and_shift_of_a_feature_do_not_matter() -> None:
    """Log p of a feature in another unit is lower by the log of its scale."""
    x = clusters()
    scale = torch.tensor([100.0, 0.01]).double()
    found, other = fitted(x, **FEW)().log_prob(x), fitted(x * scale + 7, **FEW)().log_prob(x * scale + 7)
    torch.testing.assert_close(other + scale.log().sum(), found, atol=1e-6, rtol=1e-6)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_checkpoint_has_the_mixture(tmp_path: Path) -> None:
    """A loaded density is the fitted one, and a resumed run does not fit again."""
    columns: Any = dict(zip("ab", clusters().numpy().T, strict=True))
    task = density(GaussianMixture(**FEW))
    trainer = trained(task, Table(columns), tmp_path, max_steps=1)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    again, x = of.load(path), clusters(9).float()
    assert torch.equal(again.eval()(x), task.eval()(x))
    base = again.cnf.given_base
    base.fit = lambda z: pytest.fail("fitted again")
    trained(again, Table(columns), tmp_path, max_steps=1)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_it_is_fitted_to_what_whitening_leaves(tmp_path: Path) -> None:
    """With a mixture of one component and whitening it is still the Gaussian of the data, and so is the logged base."""
    columns: Any = dict(zip("ab", clusters().numpy().T, strict=True))
    task = density(GaussianMixture([1], [1e-8]), chain=Chain(whitening=True))
    data = Table(columns)
    trainer = trained(task, data, tmp_path, max_steps=1)
    (logged,) = trainer.test(task, datamodule=data, verbose=False)
    assert logged["test/nll_base"] == pytest.approx(logged["test/nll"], abs=1e-5)
    x = data.train.x
    torch.testing.assert_close(task.eval().log_prob(x), task.baselines["gaussian"](x), atol=1e-3, rtol=0)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_conditions_are_no_part_of_the_base(tmp_path: Path) -> None:
    """A conditional density starts from the mixture of x, whatever c is."""
    columns: Any = dict(zip("abc", torch.cat([clusters(), torch.randn(240, 1).double()], 1).numpy().T, strict=True))
    task = Density(MLP(3, [8], zero_init=True), RK4(num_steps=1), num_conditions=1, base=GaussianMixture(**FEW))
    data = Table(columns, condition=["c"])
    trained(task, data, tmp_path, max_steps=1)
    x, c = data.train.x[:9], torch.randn(9, 1)
    torch.testing.assert_close(task.eval().log_prob(x, c), task.cnf.base.log_prob(x))


@pytest.mark.parametrize("rows", [3, 7])
def test_few_rows_have_few_components(rows: int) -> None:
    """Numbers of components are at most half the rows."""
    assert fitted(clusters(rows))().log_prob(clusters(rows)).isfinite().all()


@pytest.mark.parametrize("time", ["concat", "concat_squash", "sinusoidal"])
def test_a_field_that_starts_at_zero_is_zero(time: Any) -> None:
    """So its flow starts as the identity."""
    assert not MLP(3, [8], time=time, zero_init=True)(torch.tensor(0.3), torch.randn(5, 3)).any()


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_base_is_fitted_to_a_data_module(tmp_path: Path) -> None:
    """Loaders alone do not say which rows train; the message names what is to be fitted."""
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(
        of.DataError, match="whitening, marginals and a base are fitted to a data module's training part"
    ):
        trainer.fit(density(GaussianMixture()), DataLoader(clusters(20).float()))


def test_errors() -> None:
    """What does not fit is refused with the numbers that came."""
    with pytest.raises(of.SettingError, match=r"GaussianMixture: components must be at least 1; got \[0\]"):
        GaussianMixture(components=[0])
    with pytest.raises(of.SettingError, match=r"GaussianMixture: ridges must be at least 1e-08; got \[0.0\]"):
        GaussianMixture(ridges=[0.0])
    with pytest.raises(of.SettingError, match="GaussianMixture: folds must be at least 2; got 1"):
        GaussianMixture(folds=1)
    with pytest.raises(of.SettingError, match="needs at least one number of components and one ridge"):
        GaussianMixture(ridges=[])
    with pytest.raises(of.SettingError, match="whitening, marginals, noise and a base are for vectors with a density"):
        density(GaussianMixture(), dequantisation=Dequantisation(4))
    with pytest.raises(of.DataError, match="GaussianMixture needs at least 3 rows; got 2"):
        fitted(clusters(2))
    with pytest.raises(of.DataError, match="feature 1 is constant in 40 rows and has no density; leave it out"):
        fitted(clusters(40) * torch.tensor([1.0, 0]))
