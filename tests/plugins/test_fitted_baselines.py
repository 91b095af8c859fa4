"""Laws of fitted baselines: what they are, and that tasks measure them on the rows that they are measured on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from scipy.stats import multivariate_normal
from sklearn.linear_model import LinearRegression, LogisticRegression

import odeflow as of
from odeflow_data import Digits, Table, ToyDensity
from odeflow_data.split import Split
from odeflow_dynamics import MLP
from odeflow_solvers import RK4
from odeflow_tasks import Chain, Classification, Density, FlatStem, Regression
from odeflow_tasks.fitted_baselines import MOST_COLUMNS, classifications, densities, dependent_column, regressions
from odeflow_tasks.standard_error import StandardError

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
Y = torch.stack([X[:, 0] - 2 * X[:, 1] ** 2, X[:, 2].exp()], dim=1)
NEW = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))


def test_the_linear_model_is_that_of_least_squares() -> None:
    """Predictions are those of scikit-learn's LinearRegression; the mean is that of the targets."""
    found = regressions(X, Y)
    wanted = LinearRegression().fit(X.numpy(), Y.numpy()).predict(NEW.numpy())
    np.testing.assert_allclose(found["linear"](NEW).numpy(), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["mean"](NEW), Y.mean(0).expand(7, -1))


def test_repeated_columns_do_not_matter() -> None:
    """Where inputs are collinear the predictions are the same."""
    doubled, found = regressions(torch.cat([X, X], 1), Y)["linear"], regressions(X, Y)["linear"]
    torch.testing.assert_close(doubled(torch.cat([NEW, NEW], 1)), found(NEW), rtol=1e-4, atol=1e-5)


def test_logistic_regression_is_that_of_standardised_inputs() -> None:
    """Log-probabilities are scikit-learn's, in any unit of the inputs; a class without a row has none."""
    label = 2 * (X[:, 0] > 0.3).long()
    standard = ((each - X.mean(0)) / X.std(0, correction=0) for each in (X, NEW))
    rows, new = (each.double().numpy() for each in standard)
    wanted = LogisticRegression().fit(rows, label.numpy()).predict_log_proba(new)
    for scale in (1.0, 1000.0):
        found = classifications(scale * X, label, 3)["logistic"](scale * NEW)
        np.testing.assert_allclose(found[:, [0, 2]].numpy(), wanted, atol=1e-3)
        assert (found[:, 1] == -torch.inf).all()


def test_the_majority_is_the_most_frequent_class() -> None:
    """Its log-probabilities sum to one and are the same everywhere; of one class alone there is no logistic model."""
    found = classifications(X, torch.tensor([0] * 10 + [1] * 50), 2)["majority"](NEW)
    torch.testing.assert_close(found.exp(), torch.tensor([11 / 62, 51 / 62]).expand(7, -1))
    assert classifications(X, torch.zeros(60, dtype=torch.int64), 2).keys() == {"majority"}


def test_the_gaussian_is_that_of_maximum_likelihood() -> None:
    """Its log-density is that of scipy with mean and covariance of the data; of dependent columns there is none."""
    (found,) = densities(X).values()
    covariance: Any = np.cov(X.T.numpy(), bias=True)
    wanted = multivariate_normal(X.mean(0).numpy(), covariance).logpdf(NEW.numpy())
    np.testing.assert_allclose(found(NEW).numpy(), wanted, rtol=1e-5)
    assert densities(torch.cat([X, X[:, :1]], 1)) == {}
    assert dependent_column(torch.cat([X, X[:, :1]], 1)) == X.shape[1]
    assert dependent_column(X) is None


def measured(task: of.Task, data: of.DataModule, folder: Path) -> dict[str, float]:
    """The metrics of a test."""
    trainer = Trainer(logger=False, enable_progress_bar=False, default_root_dir=folder, accelerator="cpu")
    return dict(trainer.test(task, datamodule=data, verbose=False)[0])


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize("targets", ["u", ["u", "v"]])
def test_regression_measures_baselines_as_itself(tmp_path: Path, targets: Any) -> None:
    """Losses and mean absolute errors are those of the same models fitted and tested by hand."""
    columns: Any = dict(zip("abcuv", torch.cat([X, 30 * Y + 7], 1).double().numpy().T, strict=True))
    data = Table(columns, columns=["a", "b", "c"], target=targets, split=Split(test=0.3))
    names = [targets] if isinstance(targets, str) else targets
    found = measured(Regression(MLP(3), RK4(num_steps=1), num_outputs=len(names), head=None), data, tmp_path)
    train, rows = data.train, data.test
    assert data.units is not None
    assert data.units.target is not None
    for end, model in (("linear", LinearRegression().fit(train.x, train.beside)), ("mean", None)):
        values = torch.zeros_like(rows.beside) if model is None else torch.from_numpy(model.predict(rows.x))
        errors = (values - rows.beside).abs().mean(0) * torch.tensor(data.units.target.scale)
        assert found[f"test/loss_{end}"] == pytest.approx(float((values - rows.beside).square().mean()), rel=1e-4)
        for name, error in zip(names, errors.tolist(), strict=True):
            label = "test/mae" if len(names) == 1 else f"test/mae_{name}"
            assert found[f"{label}_{end}"] == pytest.approx(error, rel=1e-4)
            assert label in found


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_classification_measures_baselines_as_itself(tmp_path: Path) -> None:
    """Accuracies and cross-entropies are those of the same models fitted and tested by hand."""
    columns: Any = {"a": X[:, 0].numpy(), "b": X[:, 1].numpy(), "kind": (X[:, 0] + X[:, 1] > 0.5).long().numpy()}
    data = Table(columns, label="kind", split=Split(test=0.3))
    task = Classification(MLP(2), RK4(num_steps=1), stem=FlatStem(), shape=(2,), num_classes=2)
    found = measured(task, data, tmp_path)
    train, rows = data.train, data.test
    assert train.label is not None
    assert rows.label is not None
    wanted = LogisticRegression().fit(train.x.double(), train.label)
    assert found["test/accuracy_logistic"] == pytest.approx(wanted.score(rows.x.double(), rows.label))
    loss = -wanted.predict_log_proba(rows.x.double())[range(len(rows.x)), rows.label].mean()
    assert found["test/loss_logistic"] == pytest.approx(loss, rel=1e-3)
    most = int(train.label.bincount().argmax())
    assert found["test/accuracy_majority"] == pytest.approx(float((rows.label == most).float().mean()))


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_density_measures_the_gaussian_in_the_units_of_the_file(tmp_path: Path) -> None:
    """−log p of the Gaussian of the file's training rows, per unit of the file, is `nll_gaussian`."""
    columns: Any = dict(zip("abc", (X * torch.tensor([1.0, 20.0, 0.1]) + 7).double().numpy().T, strict=True))
    data = Table(columns, split=Split(test=0.3))
    found = measured(Density(MLP(3), RK4(num_steps=1)), data, tmp_path)
    assert data.units is not None
    train, rows = (data.units.restored(part.x).numpy() for part in (data.train, data.test))
    covariance: Any = np.cov(train.T, bias=True)
    wanted = -multivariate_normal(train.mean(0), covariance).logpdf(rows).mean()
    assert found["test/nll_gaussian"] == pytest.approx(wanted, rel=1e-4)
    assert found["test/nll"] - found["test/loss"] == pytest.approx(
        found["test/nll_gaussian"] - found["test/loss_gaussian"], rel=1e-4
    )


def test_long_inputs_have_no_logistic_regression() -> None:
    """Of large images only the frequencies of the classes are left."""
    assert classifications(torch.ones(4, MOST_COLUMNS + 1), torch.tensor([0, 1, 0, 1]), 2).keys() == {"majority"}


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_images_are_classified_by_their_pixels(tmp_path: Path) -> None:
    """The baselines of images are those of the vectors of their pixels."""
    data = Digits()
    found = measured(Classification(stem=FlatStem(width=4), shape=(1, 8, 8)), data, tmp_path)
    (x, label), (new, wanted) = data.train[:], data.test[:]
    models = classifications(x.flatten(1), label, 10)
    assert models.keys() == {"majority", "logistic"}
    for name, model in models.items():
        right = (model(new.flatten(1)).argmax(1) == wanted).float().mean()
        assert found[f"test/accuracy_{name}"] == pytest.approx(float(right))
    assert found["test/accuracy_logistic"] > 0.9 > 0.2 > found["test/accuracy_majority"]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_known_density_is_compared_with(tmp_path: Path) -> None:
    """`kl` is the mean of log p_true − log p over the test, `kl_error` its standard error; base and Gaussian alike."""
    data = ToyDensity("8gaussians", samples=500, test_size=300, val_size=50, batch_size=128)
    task = Density(MLP(2), RK4(num_steps=1), chain=Chain(whitening=True))
    data.setup("fit")
    (whitening,) = (each for each in task.cnf.transforms if isinstance(each, of.FittedBijection))
    whitening.fit(data.training_part())
    found = measured(task, data, tmp_path)
    with torch.no_grad():
        differences = data.log_density(data.test) - task.log_prob(data.test)
    assert found["test/kl"] == pytest.approx(float(differences.mean()), rel=1e-4)
    assert found["test/kl_error"] == pytest.approx(float(differences.std()) / 300**0.5, rel=1e-4)
    entropy = found["test/loss"] - found["test/kl"]
    for name in ("gaussian", "base"):  # a whitened standard normal is the Gaussian of maximum likelihood
        assert found[f"test/loss_{name}"] - found[f"test/kl_{name}"] == pytest.approx(entropy, rel=1e-4)
    assert found["test/kl_base"] == pytest.approx(found["test/kl_gaussian"], abs=0.02)


def test_the_standard_error_does_not_depend_on_batches() -> None:
    """s/√n of all samples, also far from 0."""
    metric = StandardError()
    for batch in (1e3 + NEW[:, 0]).split(3):
        metric.update(batch)
    torch.testing.assert_close(metric.compute().float(), NEW[:, 0].std() / 7**0.5, rtol=1e-3, atol=0)
