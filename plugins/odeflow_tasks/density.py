"""Density: maximum-likelihood training of a continuous normalizing flow."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import one_hot

import odeflow as of
from odeflow.density.cnf import FlowDistribution
from odeflow_tasks import density_figures
from odeflow_tasks.base import Base
from odeflow_tasks.batch import floating, inputs, labels, pair
from odeflow_tasks.chain import Chain
from odeflow_tasks.dequantisation import Dequantisation
from odeflow_tasks.file_units import FileUnits
from odeflow_tasks.fitted_baselines import densities, dependent_column
from odeflow_tasks.standard_error import StandardError

SHAPE = "a density needs a state of its input's shape"
"""Why augmentation is not supported."""


class Density(of.Task):
    """Learns the density of vectors or images: the loss is the mean of −log p(x) in nats, with p as of `CNF`.

    One or several flows, each with its own parameters, transport the base at t₀, by default a standard normal, to the
    data at t₁. Figures show images and two-dimensional data; for other data the marginals.

    With `num_conditions` it is a conditional density p(x | c): the fields of all flows are called with [y, c], so that
    their width is that of both, and batches are pairs (x, c). With `by_class` the second entry is a label, and c a unit
    vector as long as there are classes. Beside images c has a channel of equal pixels for each condition.

    Discrete values, such as those of pixels, need `Dequantisation`. The loss is then an upper bound of the negative
    log-likelihood of the discrete values, and is also logged in bits per dimension, in evaluation with its standard
    error over the data, which includes the noise of `Hutchinson`.

    Losses and log-densities are in the units of the batches; for standardised data, nats per standardised unit. Those
    written by `odeflow predict` and `odeflow sample` are per unit of the file, lower by Σ log σ. Validation and test
    also log the loss in that unit, as `nll`. If the data offer their training part, they log both also for the Gaussian
    of maximum likelihood, whose mean is linear in c, as `loss_gaussian` and `nll_gaussian`. The base behind fitted
    bijections, without the flows, is logged as `loss_base` and `nll_base`, if either was fitted: what it lacks is what
    the flows add. If the data know their true density, as `ToyDensity`, the estimate log p_true(x) − log p(x) of the
    divergence KL(p_true‖p) is logged as `kl`, its standard error as `kl_error`, and the baselines' as `kl_gaussian`. It
    has less noise than the loss, since both densities are taken at the same points.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 4; Grathwohl et al. (2019), "FFJORD".

    Args:
        dynamics: The vector field of the first flow; the others are built from its spec.
        solver: The solver.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of each flow; augmentation is not supported.
        shape: Shape of x, (d,) or (C, H, W); the command line takes it from the data. By default a vector of the
            dynamics' width. A field of width C acts on images, one of width CHW on vectors.
        num_conditions: Number of values of a condition c; the command line takes it from the data.
        by_class: Whether the class is the condition.
        num_classes: Number of classes, for `by_class`; the command line takes it from the data.
        divergence: The divergence in training; `Exact()` by default.
        eval_divergence: The divergence in evaluation; `Exact()` by default, so that results are free of noise.
        chain: The number of flows and the bijections around them. `Whitening` and `Marginals` are fitted to the
            training data at the start of `fit`.
        dequantisation: The number of levels of discrete data.
        noise: Standard deviation of normal noise that training adds to the data, after whitening and marginals. It
            keeps a flow from peaks at single rows of a small table, or at the steps of rounded values (Rothfuss et al.
            2019, "Noise Regularization for Conditional Density Estimation").
        base: The distribution of z, the same for all conditions; the standard normal by default. It is fitted to the
            training data, behind whitening and marginals, at the start of `fit`.

    Raises:
        SettingError: An option is out of range, or the dynamics do not match the data.
    """

    carries_data = True

    def __init__(
        self,
        dynamics: of.Dynamics,
        solver: of.Solver,
        gradient: of.Gradient | None = None,
        flow: of.FlowOptions = of.FlowOptions(),
        shape: Sequence[int] | None = None,
        num_conditions: int = 0,
        by_class: bool = False,
        num_classes: int = 0,
        divergence: of.Divergence | None = None,
        eval_divergence: of.Divergence | None = None,
        chain: Chain = Chain(),
        dequantisation: Dequantisation = Dequantisation(),
        noise: float = 0.0,
        base: Base | None = None,
    ) -> None:
        super().__init__()
        flow.refuse("Density", augment=SHAPE, lift=SHAPE)
        of.check_least(self, 0, num_conditions=num_conditions, noise=noise)
        if by_class:
            if num_classes < 2:
                raise of.SettingError(f"Density: by_class needs two classes at least; the data have {num_classes}")
            num_conditions = num_classes
        width = dynamics.width - num_conditions
        self.shape, seen = _shapes(width, shape, num_conditions)
        fitted = chain.marginals or chain.whitening or noise or base
        if fitted and (dequantisation.levels or len(self.shape) > 1):
            raise of.SettingError(
                "Density: whitening, marginals, noise and a base are for vectors with a density; leave out levels and "
                "images"
            )
        transforms = [*chain.transforms(width, dynamics, solver, gradient, flow), *dequantisation.transforms()]
        if base is not None:
            base.build(width)
        self.cnf, self.noise = of.CNF(transforms, seen, base), noise
        self.dequantisation, self.num_conditions, self.by_class = dequantisation, num_conditions, by_class
        self.divergence, self.eval_divergence = divergence or of.Exact(), eval_divergence or of.Exact()
        self.kl_error, self.bits_error = (
            nn.ModuleDict({stage: StandardError() for stage in ("val_", "test_")}) for _ in range(2)
        )

    def on_fit_start(self) -> None:
        """Fits `Whitening`, `Marginals` and the base, if any, to the training data; a resumed run has them already.

        Raises:
            DataError: There is no data module.
        """
        parts = self._fitted_parts()
        if all(each.fitted for each in parts):
            return
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise of.DataError(
                "whitening, marginals and a base are fitted to a data module's training part; there is none: fit them "
                "yourself"
            )
        x = torch.cat([self._data_of(batch) for batch in data.train_dataloader()])
        for part in parts:  # no flow lies between them and the data
            part.fit(x)
            if isinstance(part, of.FittedBijection):
                x, _ = part.inverse(x)

    def _fitted_parts(self) -> list[of.FittedBijection | Base]:
        """Whatever is fitted before training, from the data to the base."""
        transforms = [each for each in self.cnf.transforms if isinstance(each, of.FittedBijection)]
        base = self.cnf.given_base
        return [*reversed(transforms), *([base] if isinstance(base, Base) else [])]

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """As `log_prob`."""
        return self.log_prob(x, condition)

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The log-density in nats, with `divergence` in training mode and `eval_divergence` otherwise.

        Args:
            x: (B, *shape); with levels, in [0, 1].
            condition: (B, num_conditions), if there are any.

        Returns:
            (B,).

        Raises:
            DataError: x or the condition has the wrong shape.
        """
        if x.shape[1:] != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise of.DataError(f"Density expects data of shape (B, {wanted}); got {tuple(x.shape)}")
        return self._distribution(condition, len(x)).log_prob(x.reshape(-1, *self.cnf.shape))

    def sample(self, count: int, condition: Tensor | None = None) -> dict[str, Tensor]:
        """Samples "x", (count, *shape), and their log-densities "log_prob", (count,), in nats.

        Args:
            count: Number of samples.
            condition: (count, num_conditions), that of each sample, if there are any.

        Raises:
            DataError: The condition has the wrong shape.
        """
        size = () if self.num_conditions else (count,)
        x, log_prob = self._distribution(condition, count).sample_and_log_prob(size)
        return {"x": x.view(count, *self.shape), "log_prob": log_prob}

    def usual_conditions(self, count: int) -> Tensor | None:
        """Each class in turn, if classes are the conditions."""
        if not self.by_class:
            return None
        return one_hot(torch.arange(count) % self.num_conditions, self.num_conditions).to(self.cnf.zero)

    def _distribution(self, condition: Tensor | None, count: int) -> FlowDistribution:
        """The density, or one for each of `count` conditions."""
        self._choose_divergence()
        self.check_condition(condition, count)
        return self.cnf(condition)

    def check_condition(self, condition: Tensor | None, count: int) -> None:
        """Checks that there are conditions for `count` samples if the density has some, and none if it has none.

        Raises:
            DataError: The condition has the wrong shape.
        """
        came = None if condition is None else tuple(condition.shape)
        if came != ((count, self.num_conditions) if self.num_conditions else None):
            wanted = f"conditions of shape ({count}, {self.num_conditions})" if self.num_conditions else "no conditions"
            raise of.DataError(f"Density(num_conditions={self.num_conditions}) expects {wanted}; got {came or 'none'}")

    def _choose_divergence(self) -> None:
        self.cnf.divergence = self.divergence if self.training else self.eval_divergence

    def loss(self, batch: Any, stage: str) -> Tensor:
        """The mean of −log p(x) in nats; with levels, bits per dimension are logged too."""
        x, condition = self.dequantisation(self._data_of(batch)), self._condition_of(batch)
        if stage == "train":
            return self.training_loss(x, condition)
        log_prob = self.log_prob(x, condition)
        loss = -log_prob.mean()
        self._log_bits(log_prob, stage)
        self._log_nll(loss, len(x), f"{stage}/nll")
        self._log_kl(x, log_prob, stage)
        return loss

    def training_loss(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """(), what training minimises: the mean of −log p(x) in nats.

        Args:
            x: (B, *shape), data, dequantised.
            condition: (B, num_conditions), if there are any.
        """
        log_prob = self.log_prob(self._noisy(x) if self.noise else x, condition)
        self._log_bits(log_prob, "train")
        return -log_prob.mean()

    def _log_bits(self, log_prob: Tensor, stage: str) -> None:
        """Logs bits per dimension of data with levels, in evaluation with the standard error of their mean."""
        count, size = len(log_prob), math.prod(self.shape)
        bits = self.dequantisation.bits_per_dim(-log_prob.detach(), size)
        if bits is None:
            return
        self.log_mean(f"{stage}/bits_per_dim", bits.mean(), count, prog_bar=True)
        if stage != "train":
            error = self.bits_error[f"{stage}_"]
            error(bits)
            self.log(f"{stage}/bits_per_dim_error", error, on_step=False, on_epoch=True)  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def _noisy(self, x: Tensor) -> Tensor:
        """The data with noise, added where the flows end."""
        transforms = [each for each in self.cnf.transforms if isinstance(each, of.FittedBijection)]
        for transform in reversed(transforms):
            x, _ = transform.inverse(x)
        x = x + self.noise * torch.randn_like(x)
        for transform in transforms:
            x, _ = transform(x)
        return x

    @torch.no_grad()
    def flow_end(self, x: Tensor) -> Tensor:
        """Data where the flows end, before the bijections behind them: (B, *shape) ↦ (B, *state)."""
        x = x.reshape(-1, *self.cnf.shape)
        for transform in reversed(self.cnf.transforms):
            if isinstance(transform, of.Flow):
                break
            assert isinstance(transform, of.Bijection)
            x, _ = transform.inverse(x)
        return x

    def _log_nll(self, loss: Tensor, count: int, name: str) -> None:
        """Logs a mean of −log p in the units of the file, if they are others."""
        if self.units is not None and not self.units.same:
            nll = loss.detach() + self.units.log_volume(math.prod(self.shape))
            self.log_mean(name, nll, count)

    def _log_kl(self, x: Tensor, log_prob: Tensor, stage: str, end: str = "") -> None:
        """Logs the divergence from the true density, if it is known; of the model with the estimate's standard error.

        A point to which a density gives no mass makes it infinite.
        """
        truth = None if self._data is None or len(self.shape) > 1 else self._data.log_density(x)
        if truth is None:
            return
        differences = truth - log_prob.detach()
        self.log_mean(f"{stage}/kl{end}", differences.mean(), len(x))
        if not end:
            error = self.kl_error[f"{stage}_"]
            error(differences)
            self.log(f"{stage}/kl_error", error, on_step=False, on_epoch=True)  # pyright: ignore[reportArgumentType]

    def fit_baselines(self, part: Any) -> dict[str, of.Baseline]:
        """The Gaussian of maximum likelihood, for vectors without levels."""
        if len(self.shape) > 1 or self.dequantisation.levels is not None:
            return {}
        x, condition = self._data_of(part), self._condition_of(part)
        place = dependent_column(x, condition)
        if place is None:
            return densities(x, condition)
        if not self.noise:
            names = self.units.features if self.units is not None else ()
            warnings.warn(
                f"column {names[place] if names else place + 1} follows from those before it in all {len(x):,} "
                "training rows, which lie in a plane: a density grows there without bound, and its training fails. "
                "Leave the column out, or set --model.noise",
                stacklevel=2,
            )
        return {}

    def log_baselines(self, batch: Any, stage: str) -> None:
        """Logs the mean of −log p of the baselines: the Gaussian, and a fitted base without the flows."""
        x, condition = self._data_of(batch), self._condition_of(batch)
        row = x if condition is None or not self.baselines else torch.cat([x, condition], dim=1)
        found = {name: log_prob(row) for name, log_prob in self.baselines.items()}
        if self._fitted_parts():
            found["base"] = self._without_flows(x)
        for name, log_prob in found.items():
            loss = -log_prob.mean()
            self.log_mean(f"{stage}/loss_{name}", loss, len(x))
            self._log_nll(loss, len(x), f"{stage}/nll_{name}")
            self._log_kl(x, log_prob, stage, f"_{name}")

    def _without_flows(self, x: Tensor) -> Tensor:
        """(B,), log p(x) of the base behind the fitted bijections."""
        total = x.new_zeros(len(x))
        for transform in reversed(self.cnf.transforms):
            if isinstance(transform, of.FittedBijection):
                x, log_det = transform.inverse(x)
                total = total + log_det
        return self.cnf.base.log_prob(x) + total

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(B,), log p(x) in nats."""
        return self.log_prob(self.dequantisation(self._data_of(batch)), self._condition_of(batch))

    def restored(self, prediction: Tensor, units: of.Units) -> Tensor:
        """Log-densities with respect to the units of the file instead of the standardised ones."""
        return prediction - units.log_volume(math.prod(self.shape))

    def figures(self, batch: Any) -> dict[str, Figure]:
        """Samples beside data; in the plane also the density, its evolution from base to data, and flow lines.

        With conditions, samples given those of the data, beside the data.
        """
        x, condition = self._data_of(batch), self._condition_of(batch)
        self._choose_divergence()
        with torch.random.fork_rng([x.device] if x.is_cuda else []):  # figures must not affect the run
            torch.manual_seed(0)
            return density_figures.draw(self.cnf, x, FileUnits.known(self.units, self._data), condition)

    def _data_of(self, batch: Any) -> Tensor:
        """The data of a batch, without labels."""
        x = floating("Density", "data", inputs(batch), self)
        self.dequantisation.check(x)
        return x

    def _condition_of(self, batch: Any) -> Tensor | None:
        """(B, num_conditions), the conditions of a batch, if there are any."""
        if not self.num_conditions:
            return None
        x, condition = pair("Density", "data, conditions", batch)
        if self.by_class:
            classes = labels("Density", condition, len(x), self.num_conditions)
            return one_hot(classes, self.num_conditions).to(self.cnf.zero)
        return floating("Density", "conditions", condition, self)


def _shapes(width: int, shape: Sequence[int] | None, num_conditions: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of the data, and their shape as the input of dynamics of this width beside conditions.

    Raises:
        SettingError: The width does not match the shape of the data.
    """
    beside = f" and {num_conditions} more, that of the conditions" if num_conditions else ""
    if width < 1:
        raise of.SettingError(f"dynamics of width {width + num_conditions} have no room for data beside conditions")
    shape = (width,) if shape is None else tuple(shape)
    if width == shape[0]:
        return shape, shape
    if width == math.prod(shape):
        return shape, (width,)
    images = f", that of their channels, or {math.prod(shape)}, for vectors of all their values"
    raise of.SettingError(
        f"data of shape {shape} need dynamics of width {shape[0]}{images if len(shape) > 1 else ''}{beside}; got "
        f"{width + num_conditions}"
    )
