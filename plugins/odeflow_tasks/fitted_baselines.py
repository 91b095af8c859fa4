"""Fitted baselines: simple models of rows, fitted to the training part of the data in closed form or by scikit-learn.

Each is a function of inputs (B, d), in the units of batches, as the model is.
"""

import warnings
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import odeflow as of

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

MOST_ROWS, MOST_COLUMNS = 20_000, 4096
"""Maximum number of rows that a model of scikit-learn is fitted to, and of columns at which there is one."""


def regressions(x: Tensor, y: Tensor) -> dict[str, of.Baseline]:
    """The mean of the targets, and the linear model of least squares; x ↦ the prediction (B, k).

    Args:
        x: (N, d), the inputs.
        y: (N, k), the targets.
    """
    solution = torch.linalg.lstsq(_with_one(x.double()).cpu(), y.double().cpu(), driver="gelsd").solution
    return {"mean": partial(_constant, y.double().mean(0)), "linear": partial(_linear, solution)}


def ridge_regressions(x: Tensor, y: Tensor) -> dict[str, of.Baseline]:
    """The mean of the targets, and ridge regression; x ↦ the prediction (B, k).

    Ridge regression is that of scikit-learn on standardised inputs, with the penalty α‖w‖², α from 10⁻³ to 10³, of the
    least leave-one-out error; there is none of very long inputs, or of a single row.

    Args:
        x: (N, d), the inputs.
        y: (N, k), the targets.
    """
    found: dict[str, of.Baseline] = {"constant": partial(_constant, y.double().mean(0))}
    if len(x) < 2 or x.shape[1] > MOST_COLUMNS:
        return found
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(torch.logspace(-3, 3, 13).tolist())
    return found | {"linear": partial(_ridge, _fitted(model, x, y.double()))}


def classifications(x: Tensor, label: Tensor, num_classes: int) -> dict[str, of.Baseline]:
    """The frequencies of the classes, and logistic regression; x ↦ the log-probabilities of the classes (B, C).

    Frequencies are (n + 1)/(N + C), so that no class is impossible. Logistic regression is that of scikit-learn on
    standardised inputs, with its default penalty ½‖w‖²; there is none of very long inputs, such as large images.

    Args:
        x: (N, d), the inputs.
        label: (N,), the classes.
        num_classes: Number C of classes.
    """
    counts = torch.bincount(label, minlength=num_classes) + 1.0
    found: dict[str, of.Baseline] = {"majority": partial(_constant, (counts / counts.sum()).log())}
    if counts.max() > len(x) or x.shape[1] > MOST_COLUMNS:
        return found
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000)
    return found | {"logistic": partial(_logistic, _fitted(model, x, label), num_classes)}


def densities(x: Tensor, condition: Tensor | None = None) -> dict[str, of.Baseline]:
    """The Gaussian of maximum likelihood, none if its covariance is singular; [x, c] ↦ log p(x | c) in nats (B,).

    Its mean is linear in the condition, its covariance does not depend on it.

    Args:
        x: (N, d), the data.
        condition: (N, c), the conditions, if any.
    """
    if dependent_column(x, condition) is not None:
        return {}
    mean, covariance = _moments(x, condition)
    return {"gaussian": partial(_gaussian, mean, torch.linalg.cholesky(covariance))}


def dependent_column(x: Tensor, condition: Tensor | None = None) -> int | None:
    """The first column that is a linear function of those before it and of the condition, up to 1e-6 of its variance.

    Args:
        x: (N, d), the data.
        condition: (N, c), the conditions, if any.
    """
    _, covariance = _moments(x, condition)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed):
        return int(failed) - 1
    rest = factor.diagonal().square() / covariance.diagonal()  # of the variance, left by the columns before
    (found,) = (rest <= 1e-6).nonzero(as_tuple=True)
    return int(found[0]) if len(found) else None


def _moments(x: Tensor, condition: Tensor | None) -> tuple[of.Baseline, Tensor]:
    """The mean, a function of the condition, and the covariance (d, d) around it, in float64."""
    features = x.new_zeros(len(x), 0) if condition is None else condition
    mean = regressions(features, x)["linear"]
    rest = x.double() - mean(features.double())
    return mean, rest.T @ rest / len(x)


def _constant(value: Tensor, x: Tensor) -> Tensor:
    return value.to(x).expand(len(x), -1)


def _linear(solution: Tensor, x: Tensor) -> Tensor:
    return _with_one(x) @ solution.to(x)


def _ridge(fitted: "Pipeline", x: Tensor) -> Tensor:
    return torch.from_numpy(fitted.predict(x.double().cpu().numpy())).to(x).reshape(len(x), -1)


def _logistic(fitted: "Pipeline", num_classes: int, x: Tensor) -> Tensor:
    known = torch.from_numpy(fitted.predict_log_proba(x.double().cpu().numpy())).to(x)
    impossible = x.new_full((len(x), num_classes), -torch.inf)  # classes without a training row
    return impossible.index_copy(1, torch.from_numpy(fitted.classes_).to(x.device), known)


def _gaussian(mean: of.Baseline, factor: Tensor, row: Tensor) -> Tensor:
    x, condition = row.double().tensor_split([len(factor)], dim=1)
    return MultivariateNormal(mean(condition), scale_tril=factor.to(x), validate_args=False).log_prob(x).to(row)


def _fitted(model: "BaseEstimator", x: Tensor, y: Tensor) -> "Pipeline":
    """A model of scikit-learn, of standardised inputs."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = slice(None, None, -(-len(x) // MOST_ROWS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # good enough for a baseline
        pipeline = make_pipeline(StandardScaler(), model)
        return pipeline.fit(x[rows].double().cpu().numpy(), y[rows].cpu().numpy())


def _with_one(x: Tensor) -> Tensor:
    """(B, d + 1), the inputs beside the constant 1."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)
