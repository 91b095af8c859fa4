"""Density: maximum-likelihood training of a continuous normalizing flow."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow.plugin import registry
from odeflow_tasks import density_figures
from odeflow_tasks.batch import floating, inputs

SHAPE = "a density needs a state of its input's shape"
"""Why augmentation is not supported."""


class Density(of.Task):
    """Learns the density of vectors or images: the loss is the mean of −log p(x) in nats, with p as of `CNF`.

    One or several flows, each with its own parameters, transport the base, a standard normal at t₀, to the data at t₁.
    Figures show images and two-dimensional data; for other data the marginals.

    Discrete pixel values need dequantisation: x ↦ (kx + u)/(k + 1) with k + 1 `levels` and u uniform. A `Logit` then
    maps the flow's space to [0, 1]. The loss is then an upper bound of the negative log-likelihood of the discrete
    values, and is also logged in bits per dimension.

    Losses and log-densities are in the units of the batches; for standardised data, nats per standardised unit. Those
    written by `odeflow predict` and `odeflow sample` are per unit of the file, lower by Σ log σ. Validation and test
    also log the loss in that unit, as `nll`.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 4; Grathwohl et al. (2019), "FFJORD";
    levels: Theis, van den Oord & Bethge (2016), "A note on the evaluation of generative models", section 3.1.

    Args:
        dynamics: The vector field of the first flow; the others are built from its spec.
        solver: The solver.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of each flow; augmentation is not supported.
        dim: Length d of a vector; the command line takes it from the data. By default the dynamics' width.
        shape: Shape (C, H, W) of an image; the command line takes it from the data. A field of width C acts on images,
            one of width CHW on vectors.
        divergence: The divergence in training; `Exact()` by default.
        eval_divergence: The divergence in evaluation; `Exact()` by default, so that results are free of noise.
        num_flows: Number of flows in sequence.
        batch_norm: Whether to insert a `MovingBatchNorm` before, between and after the flows.
        marginals: Number of knots with which `Marginals` makes each feature standard normal before the flows; fitted to
            the training data at the start of `fit`. 0, the default: none.
        levels: Number of discrete values 0, 1/k, …, 1 of the data, such as 256; by default the data are continuous.
        alpha: α of the `Logit`, used with levels.

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
        dim: int | None = None,
        shape: Sequence[int] | None = None,
        divergence: of.Divergence | None = None,
        eval_divergence: of.Divergence | None = None,
        num_flows: int = 1,
        batch_norm: bool = False,
        marginals: int = 0,
        levels: int | None = None,
        alpha: float = 1e-6,
    ) -> None:
        super().__init__()
        flow.refuse("Density", augment=SHAPE, lift=SHAPE)
        if num_flows < 1:
            raise of.SettingError(f"Density: num_flows must be at least 1; got {num_flows}")
        if levels is not None and levels < 2:
            raise of.SettingError(f"Density: levels must be at least 2; got {levels}")
        if marginals and (levels or shape):
            raise of.SettingError("Density: marginals are of vectors that have a density; leave out levels and shape")
        self.shape, seen = _shapes(dynamics.width, dim, shape)
        logit = of.Logit(alpha)
        fields = [dynamics, *(registry.build(dynamics.spec) for _ in range(num_flows - 1))]
        transforms: list[of.Flow | of.Bijection] = []
        for field in fields:
            transforms += [of.MovingBatchNorm(dynamics.width)] if batch_norm else []
            transforms.append(of.Flow(field, solver, gradient, flow))
        transforms += [of.MovingBatchNorm(dynamics.width)] if batch_norm else []
        transforms += [of.Marginals(dynamics.width, marginals)] if marginals else []
        transforms += [logit] if levels else []
        self.cnf, self.levels = of.CNF(transforms, seen), levels
        self.divergence, self.eval_divergence = divergence or of.Exact(), eval_divergence or of.Exact()

    def on_fit_start(self) -> None:
        """Fits `Marginals`, if any, to the training data; a resumed run has them already.

        Raises:
            DataError: There is no data module.
        """
        last = self.cnf.transforms[-1]
        if not isinstance(last, of.Marginals) or last.fitted:
            return
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise of.DataError(
                "marginals are fitted to a data module's training part; there is none: fit them yourself"
            )
        last.fit(torch.cat([self._data_of(batch) for batch in data.train_dataloader()]))

    def forward(self, x: Tensor) -> Tensor:
        """As `log_prob`."""
        return self.log_prob(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density in nats, with `divergence` in training mode and `eval_divergence` otherwise.

        Args:
            x: (B, d) or (B, C, H, W); with levels, in [0, 1].

        Returns:
            (B,).

        Raises:
            DataError: x has the wrong shape.
        """
        if x.shape[1:] != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise of.DataError(f"Density wants data of shape (B, {wanted}); got {tuple(x.shape)}")
        self._choose_divergence()
        return self.cnf().log_prob(x.reshape(-1, *self.cnf.shape))

    def sample(self, count: int) -> dict[str, Tensor]:
        """Samples "x", (count, d) or (count, C, H, W), and their log-densities "log_prob", (count,), in nats."""
        self._choose_divergence()
        x, log_prob = self.cnf().sample_and_log_prob((count,))
        return {"x": x.view(count, *self.shape), "log_prob": log_prob}

    def _choose_divergence(self) -> None:
        self.cnf.divergence = self.divergence if self.training else self.eval_divergence

    def loss(self, batch: Any, stage: str) -> Tensor:
        """The mean of −log p(x) in nats; with levels, bits per dimension are logged too."""
        x = self._spread(batch)
        loss = -self.log_prob(x).mean()
        if self.levels is not None:
            bits = (loss.detach() / math.prod(self.shape) + math.log(self.levels)) / math.log(2)
            options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(x), "sync_dist": True}
            self.log(f"{stage}/bits_per_dim", bits, prog_bar=True, **options)
        if stage != "train" and self.units is not None and not self.units.same:
            nll = loss.detach() + self.units.log_volume(math.prod(self.shape))
            self.log(f"{stage}/nll", nll, on_step=False, on_epoch=True, batch_size=len(x), sync_dist=True)
        return loss

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(B,), log p(x) in nats."""
        return self.log_prob(self._spread(batch))

    def restored(self, prediction: Tensor, units: of.Units) -> Tensor:
        """Log-densities with respect to the units of the file instead of the standardised ones."""
        return prediction - units.log_volume(math.prod(self.shape))

    def figures(self, batch: Any) -> dict[str, Figure]:
        """Samples beside data; in the plane also the density, its evolution from base to data, and flow lines."""
        x = self._data_of(batch)
        self._choose_divergence()
        with torch.random.fork_rng([x.device] if x.is_cuda else []):  # figures must not affect the run
            torch.manual_seed(0)
            return density_figures.draw(self.cnf, x)

    def _spread(self, batch: Any) -> Tensor:
        """The data of a batch, dequantised by uniform noise if they have levels."""
        x = self._data_of(batch)
        return x if self.levels is None else ((self.levels - 1) * x + torch.rand_like(x)) / self.levels

    def _data_of(self, batch: Any) -> Tensor:
        """The data of a batch, without labels."""
        x = floating("Density", "data", inputs(batch), self)
        if self.levels is not None and not bool(((x >= 0) & (x <= 1)).all()):
            raise of.DataError(
                f"Density(levels={self.levels}) wants data between 0 and 1; got {float(x.min()):g} to "
                f"{float(x.max()):g}. Divide bytes by 255, and set standardise to false"
            )
        return x


def _shapes(width: int, dim: int | None, shape: Sequence[int] | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of the data, and their shape as the input of dynamics of this width.

    Raises:
        SettingError: The width does not match the shape of the data.
    """
    if shape is None:
        if dim not in (None, width):
            raise of.SettingError(
                f"the data have dim={dim}, but the dynamics' width is {width}; a density needs both alike"
            )
        return (width,), (width,)
    shape = tuple(shape)
    if width not in (shape[0], math.prod(shape)):
        raise of.SettingError(
            f"images of the shape {shape} need dynamics of the width {shape[0]}, that of their channels, or "
            f"{math.prod(shape)}, for vectors of all their values; got {width}"
        )
    return shape, shape if width == shape[0] else (width,)
