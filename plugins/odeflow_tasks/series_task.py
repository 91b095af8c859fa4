"""SeriesTask: decoder, likelihood, classifier, regressor and metrics of all models of irregular time series."""

from abc import ABC, abstractmethod
from typing import Any

import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import MeanMetric, MeanSquaredError, Metric
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy, MulticlassConfusionMatrix

import odeflow as of
from odeflow_tasks import classification_figures, covariates, series_baselines, series_figures
from odeflow_tasks.absolute_errors import log_absolute_errors
from odeflow_tasks.agreement import Agreement
from odeflow_tasks.batch import floating, labels, outcomes, require_finite, series
from odeflow_tasks.file_units import FileUnits
from odeflow_tasks.fitted_baselines import classifications, ridge_regressions
from odeflow_tasks.head import Perceptron
from odeflow_tasks.likelihood import Gaussian
from odeflow_tasks.masking import Masking
from odeflow_tasks.occasional import log_occasional
from odeflow_tasks.readout import Readout
from odeflow_tasks.series_features import features

KINDS = ("", "interpolation_", "extrapolation_")
"""Groups of targets whose errors are logged: all, and the unseen ones within and outside the observed span."""
COVERAGES = (50, 90)
"""Levels of the central intervals whose coverages are logged, in percent."""
CLASSIFIERS, REGRESSORS = ("majority", "logistic"), ("constant", "linear")
"""Names of the fitted baselines of classes and of outcomes."""
SHOWN = ("rmse", "auroc", "accuracy", "outcome_rmse")
"""Metrics that the progress bar shows."""


class SeriesTask(of.Task, ABC):
    """Predicts series, and their class or outcomes, from their seen values. Subclasses implement `loss` and `predict`.

    The metrics of validation and test, with the prefixes "val/" and "test/", are in the units of the batches, hence
    standardised if the data are:

    - `mse`, `rmse`: over all targets;
    - `interpolation_mse`, `interpolation_rmse`: over unseen targets between the series' first and last observation;
      `extrapolation_mse`, `extrapolation_rmse`: over unseen targets before and after;
    - `feature_mse`: the mean over series and features of the mean square error of the feature in the series, which is 0
      without targets (as in the code of Rubanova et al. 2019);
    - `coverage_50`, `coverage_90`: the share of unseen targets within the central interval of that probability of the
      predictive distribution, noise included; 0.5 and 0.9 if it is calibrated. `path_coverage_50` and
      `path_coverage_90`, of models with a posterior: within that of the noiseless path, for targets without noise;
    - `auroc` for two classes, `accuracy` for more. Where the data offer their training part, beside them
      `accuracy_majority`, of its most frequent class, and `accuracy_logistic`, of logistic regression on `features`,
      such as mean and spread; `auroc` likewise;
    - `outcome_mse`, `outcome_rmse`: of the outcomes. Where the data offer their training part, beside them
      `outcome_mse_constant`, of the mean of the training series, and `outcome_mse_linear`, of ridge regression on
      `features`; `outcome_rmse` likewise. `outcome_mae`, of several `outcome_mae_<name>`: the mean absolute error, in
      the units of the data file.

    With a `target_weight` of 0 only these of classes and outcomes are logged.

    Beside each mean square error are those of the baselines on the same targets, such as `mse_persistence`,
    `mse_linear`, `mse_mean` and, where the data have a period, `mse_seasonal`: see `series_baselines`.

    Args:
        width: Length of a state, which decoder, classifier and regressor read.
        dim: Length d of an observation.
        readout: Decoder, likelihood, classifier and regressor.
        num_classes: Number of classes of the series.
        masking: The values hidden in training.
        num_outputs: Number of outcomes of a series.

    Raises:
        SettingError: An option is missing or out of range.
    """

    def __init__(
        self,
        width: int,
        dim: int | None,
        readout: Readout,
        num_classes: int | None,
        masking: Masking,
        num_outputs: int | None = None,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, width=width, dim=dim, num_classes=num_classes, num_outputs=num_outputs)
        if dim is None:
            raise of.SettingError(f"{type(self).__name__} needs dim, the number of values of an observation")
        classifier, regressor = readout.classifier, readout.regressor
        if classifier is not None and (num_classes is None or num_classes < 2):
            raise of.SettingError(
                f"{type(self).__name__}: a classifier needs num_classes, at least 2; got {num_classes}"
            )
        if regressor is not None and num_outputs is None:
            raise of.SettingError(
                f"{type(self).__name__}: a regressor needs num_outputs, the number of outcomes of a series; name their "
                "columns by --data.outcome"
            )
        if regressor is None and num_outputs is not None:
            raise of.SettingError(
                f"{type(self).__name__}: the series have num_outputs={num_outputs}, numbers to predict of each as a "
                "whole; give readout.regressor, such as Perceptron(), or leave --data.outcome out"
            )
        self.dim, self.num_classes, self.num_outputs = dim, num_classes or 0, num_outputs or 0
        self.masking, self.target_weight = masking, readout.target_weight
        self.class_weight, self.outcome_weight = readout.class_weight, readout.outcome_weight
        self.likelihood, self.classifier, self.regressor = readout.likelihood or Gaussian(), classifier, regressor
        self.likelihood.build(dim)
        if self.target_weight:
            decoder = readout.decoder or Perceptron()
            decoder.build(width, dim)
            self.decoder: nn.Module = decoder
        else:
            self.decoder = _Zeros(dim)
        if classifier is not None:
            classifier.build(width, self.num_classes)
        if regressor is not None:
            regressor.build(width, self.num_outputs)
        self.confusion = MulticlassConfusionMatrix(self.num_classes) if classifier is not None else None
        self.tested = Agreement(self.num_outputs, "series") if regressor is not None else None
        self.metrics = nn.ModuleDict(
            {
                f"{stage}_": _metrics(num_classes if classifier else None, regressor is not None)
                for stage in ("val", "test")
            }
        )

    @abstractmethod
    def predict(self, batch: of.Series) -> Tensor:
        """(B, T, d), the predictions at the batch's times."""

    @abstractmethod
    def whole_state(self, batch: of.Series) -> Tensor:
        """(B, width), the state that classifier and regressor read, given the seen values of a checked batch."""

    def classify(self, batch: of.Series) -> Tensor:
        """(B, num_classes), the probabilities of the classes, given the seen values."""
        assert self.classifier is not None
        return self.classifier(self.whole_state(self.checked(batch))).softmax(1)

    def regress(self, batch: of.Series) -> Tensor:
        """(B, num_outputs), the predicted outcomes, given the seen values."""
        assert self.regressor is not None
        return self.regressor(self.whole_state(self.checked(batch)))

    def log_likelihood(self, prediction: Tensor, batch: of.Series) -> Tensor:
        """(…, B), the log-density of the targets in nats, given predictions (…, B, T, d)."""
        require_finite(type(self).__name__, "targets", batch.y.where(batch.target, 0.0))
        return self.likelihood(prediction, batch)

    def whole_loss(self, features: Tensor, batch: of.Series, stage: str) -> Tensor | float:
        """The weighted cross-entropy of the classes and mean square error of the outcomes. Updates their metrics.

        Args:
            features: (…, B, width), the states that classifier and regressor read; averaged over the leading
                dimensions.
            batch: The series.
            stage: "train", "val" or "test".

        Returns:
            (), or 0 with neither a classifier nor a regressor.
        """
        return self._class_loss(features, batch, stage) + self._outcome_loss(features, batch, stage)

    def _class_loss(self, features: Tensor, batch: of.Series, stage: str) -> Tensor | float:
        """The weighted cross-entropy of the classes; 0 without a classifier."""
        if self.classifier is None:
            return 0.0
        labels = batch.label
        if labels is None:
            raise of.DataError(f"{type(self).__name__}: the classifier needs series with labels; these have none")
        logits = self.classifier(features)
        if stage != "train":
            probabilities = _averaged(logits.softmax(-1))
            self._note_classes(probabilities, batch, stage)
            if stage == "test" and self.confusion is not None:
                self.confusion.update(probabilities, labels)
        flat = logits.reshape(-1, logits.shape[-1])
        return self.class_weight * F.cross_entropy(flat, labels.repeat(len(flat) // len(labels)))

    def _outcome_loss(self, features: Tensor, batch: of.Series, stage: str) -> Tensor | float:
        """The weighted mean square error of the outcomes; 0 without a regressor."""
        if self.regressor is None:
            return 0.0
        if batch.outcome is None:
            raise of.DataError(
                f"{type(self).__name__}: the regressor needs series with outcomes; these have none. Name their columns "
                "by --data.outcome"
            )
        prediction = self.regressor(features)
        if stage != "train":
            mean = _averaged(prediction)
            self._note_outcomes(mean, batch, stage)
            if stage == "test" and self.tested is not None:
                self.tested.update(mean, batch.outcome)
        return self.outcome_weight * F.mse_loss(prediction, batch.outcome.expand_as(prediction))

    def note_errors(self, prediction: Tensor, batch: of.Series, stage: str) -> None:
        """Updates the metrics of predictions (B, T, d)."""
        self._note_errors(prediction, batch, stage)

    def note_coverage(self, prediction: Tensor, batch: of.Series, stage: str) -> None:
        """Updates the coverages of intervals at unseen targets.

        Args:
            prediction: (S, B, T, d), samples of the prediction; a single one if it is certain.
            batch: The series.
            stage: "val" or "test".
        """
        unseen = batch.target & ~batch.seen
        if not bool(unseen.any()):
            return
        places: dict[str, Tensor] = {}
        predictive = self.likelihood.predictive(prediction, batch)
        if predictive is not None:
            places[""] = predictive.cdf(batch.y.where(unseen, 0.0)).mean(0)
        if len(prediction) > 1:
            below = (prediction < batch.y).sum(0)
            places["path_"] = (below + 0.5) / (len(prediction) + 1)
        for kind, place in places.items():
            for percent in COVERAGES:
                inside = (place[unseen] - 0.5).abs() < percent / 200
                self._note(stage, f"{kind}coverage_{percent}", inside.to(prediction))

    def log_baselines(self, batch: Any, stage: str) -> None:
        """Logs the mean square errors of the baselines, and how well they predict classes and outcomes."""
        batch = self.checked(batch)
        for name, baseline in self.baselines.items():
            found = baseline(features(batch))
            if name in CLASSIFIERS:
                self._note_classes(found.exp(), batch, stage, f"_{name}")
            else:
                self._note_outcomes(found, batch, stage, name)
        if not self.target_weight:
            return
        for name, prediction in series_baselines.predictions(batch, self._period).items():
            self._note_errors(prediction, batch, stage, f"_{name}")

    def fit_baselines(self, part: Any) -> dict[str, of.Baseline]:
        """Frequencies of the classes and mean of the outcomes; logistic and ridge regression on simple features."""
        if self.classifier is None and self.regressor is None:
            return {}
        batch = self.checked(part)
        found: dict[str, of.Baseline] = {}
        if self.classifier is not None and batch.label is not None:
            found |= classifications(features(batch), batch.label, self.num_classes)
        if self.regressor is not None and batch.outcome is not None:
            found |= ridge_regressions(features(batch), batch.outcome)
        return found

    def on_test_epoch_start(self) -> None:
        for metric in (self.confusion, self.tested):
            if metric is not None:
                metric.reset()

    def test_figures(self) -> dict[str, Figure]:
        """Of the test: the confusion matrix, if there are classes, and predictions over outcomes, if there are any."""
        found: dict[str, Figure] = {}
        if self.confusion is not None:
            names = () if self.units is None else self.units.classes
            counts = self.confusion.compute().cpu().numpy()
            found["confusion_matrix"] = classification_figures.confusion(counts, names)
        if self.tested is not None:
            found["outcomes"] = self.tested.figure(FileUnits.known(self.units, self._data))
        return found

    def _note_classes(self, probabilities: Tensor, batch: of.Series, stage: str, end: str = "") -> None:
        """Updates the metrics of probabilities (B, num_classes), those whose names have this end."""
        assert batch.label is not None
        self._note(stage, f"auroc{end}", probabilities[:, -1], batch.label)
        self._note(stage, f"accuracy{end}", probabilities, batch.label)

    def _note_outcomes(self, prediction: Tensor, batch: of.Series, stage: str, baseline: str = "") -> None:
        """Updates the metrics of outcomes (B, num_outputs) as the model or a baseline predicts them."""
        assert batch.outcome is not None
        end = f"_{baseline}" if baseline else ""
        for name in ("mse", "rmse"):
            self._note(stage, f"outcome_{name}{end}", prediction.flatten(), batch.outcome.flatten())
        log_absolute_errors(self, f"{stage}/outcome_mae", prediction, batch.outcome, baseline)

    def _note_errors(self, prediction: Tensor, batch: of.Series, stage: str, end: str = "") -> None:
        """As `note_errors`, of metrics whose names have this end."""
        square = (prediction - batch.y).where(batch.target, 0.0).square()
        counts = batch.target.sum(1)
        self._note(stage, f"feature_mse{end}", square.sum(1) / counts.clamp(min=1))
        unseen = batch.target & ~batch.seen
        inside = _observed_time(batch)[..., None]
        masks = (batch.target, unseen & inside, unseen & ~inside)
        for kind, mask in zip(KINDS, masks, strict=True):
            if bool(mask.any()):
                for name in ("mse", "rmse"):
                    self._note(stage, kind + name + end, prediction[mask], batch.y[mask])

    @property
    def _period(self) -> float | None:
        """The period of the data in the time of batches, if they have one."""
        period = None if self._data is None else self._data.period
        return None if period is None else period / (self.units or of.Units()).unit

    def on_validation_epoch_end(self) -> None:
        log_occasional(self, self.metrics["val_"], "val", SHOWN)

    def on_test_epoch_end(self) -> None:
        log_occasional(self, self.metrics["test_"], "test", SHOWN)

    def _note(self, stage: str, name: str, *values: Tensor) -> None:
        """Updates a metric, if it exists; it is logged at the end of the epoch."""
        metrics = self.metrics[f"{stage}_"]
        assert isinstance(metrics, nn.ModuleDict)
        if name in metrics:
            metric = metrics[name]
            assert isinstance(metric, Metric)
            metric.update(*values)

    def sample_count(self, batch: of.Series) -> int:
        return len(batch.t)

    def predict_values(self, batch: of.Series) -> dict[str, Tensor]:
        """What is predicted of the values of a checked batch by name, (B, T, d) each; `mean` is the prediction."""
        return {"mean": self.predict(batch)}

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """(B, T, d), the predictions at the batch's times.

        A classifier adds `classes`, (B, num_classes), their probabilities, and a regressor `outcomes`,
        (B, num_outputs). Several predictions are a mapping by name, in which that of the values is `mean`.
        """
        batch = self.checked(batch)
        found = self.predict_values(batch) if self.target_weight else {}
        if self.classifier is not None:
            found["classes"] = self.classify(batch)
        if self.regressor is not None:
            found["outcomes"] = self.regress(batch)
        return found if len(found) > 1 else next(iter(found.values()))

    def restored(self, prediction: Any, units: of.Units) -> Any:
        """The prediction, or each of several by name, in the units of the file. Probabilities have none."""
        if not isinstance(prediction, dict):
            alone = "mean" if self.target_weight else "outcomes" if self.classifier is None else "classes"
            return self.restored({alone: prediction}, units)[alone]
        named: dict[str, Tensor] = prediction
        others = {"classes": of.Units(), "outcomes": units.target or of.Units()}
        return {name: others.get(name, units).restored(values) for name, values in named.items()}

    def figures(self, batch: Any) -> dict[str, Figure]:
        """Truth, observations and prediction of the first series."""
        batch = series_figures.few(self.checked(batch))
        curve = series_figures.Curve("prediction", batch.t, self.predict(batch))
        return series_figures.draw(batch, [curve], FileUnits.known(self.units, self._data), self._period)

    def checked(self, batch: Any) -> of.Series:
        """The checked batch.

        Raises:
            DataError: The batch is not a `Series` of the task's dimension and number of covariates.
        """
        name = type(self).__name__
        batch = series(name, batch, self.dim)
        t, y = self._times(batch.t), batch.y
        y = y.to(floating(name, "seen values", y.where(batch.seen, 0), self))  # others may be unknown
        if not bool((t.diff(dim=1) >= 0).all()):
            raise of.DataError(
                f"{name}: the times of each series must rise, padded at the end by the last; they do not"
            )
        if batch.jump is not None:
            raise of.DataError(f"{name} does not support jumps of the values, such as doses; use Trajectory")
        label = batch.label
        if self.classifier is not None and label is not None:
            label = labels(name, label, len(t), self.num_classes)
        outcome = batch.outcome
        if outcome is not None:
            outcome = outcomes(name, outcome, len(t), self.num_outputs, self)
        batch = batch._replace(t=t, y=y, label=label, outcome=outcome)
        return covariates.checked(name, batch, self.num_covariates, y.dtype)

    def _times(self, t: Tensor) -> Tensor:
        """The times in the model's dtype, which must resolve them."""
        name, dtype = type(self).__name__, next(self.parameters()).dtype
        require_finite(name, "times", t, "Pad the end of a shorter series by its last time")
        if t.dtype == dtype:
            return t
        cast = t.to(dtype)
        lost = (t.diff(dim=1) != 0) & (cast.diff(dim=1) == 0)
        if bool(lost.any()):
            raise of.DataError(
                f"{name}: {int(lost.sum()):,} steps of time vanish in {dtype}, of times up to "
                f"{float(t.abs().max()):g}. Count times from the first one, and in a larger unit"
            )
        return cast


class _Zeros(nn.Module):
    """The decoder of a classifier or regressor alone, whose predictions of values are 0.

    Args:
        dim: Length of an observation.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, z: Tensor) -> Tensor:
        """(…, width) ↦ (…, d)."""
        return z.new_zeros(*z.shape[:-1], self.dim)


def _averaged(found: Tensor) -> Tensor:
    """(…, B, n) ↦ (B, n), the mean over the leading dimensions."""
    return found.reshape(-1, *found.shape[-2:]).mean(0)


def _observed_time(batch: of.Series) -> Tensor:
    """(B, T), bool: the times between the first and the last observation of the series."""
    present = batch.seen.any(-1)
    return (present.cumsum(1) > 0) & (present.flip(1).cumsum(1).flip(1) > 0)


def _metrics(num_classes: int | None, outcomes: bool) -> nn.ModuleDict:
    """The metrics of a stage by name, those of classes and of outcomes if there are any."""
    found: dict[str, nn.Module] = {f"{kind}rmse": MeanSquaredError(squared=False) for kind in KINDS}
    for end in ("", *(f"_{name}" for name in series_baselines.NAMES)):
        found[f"feature_mse{end}"] = MeanMetric()
        found |= {f"{kind}mse{end}": MeanSquaredError() for kind in KINDS}
    found |= {f"{kind}coverage_{percent}": MeanMetric() for kind in ("", "path_") for percent in COVERAGES}
    for end in ("", *(f"_{name}" for name in CLASSIFIERS)) if num_classes is not None else ():
        if num_classes == 2:
            found[f"auroc{end}"] = BinaryAUROC()
        else:
            found[f"accuracy{end}"] = MulticlassAccuracy(num_classes, average="micro")
    for end in ("", *(f"_{name}" for name in REGRESSORS)) if outcomes else ():
        found |= {f"outcome_mse{end}": MeanSquaredError(), f"outcome_rmse{end}": MeanSquaredError(squared=False)}
    return nn.ModuleDict(found)
