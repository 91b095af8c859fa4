"""Density: maximum-likelihood training of a continuous normalizing flow."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow_tasks import density_figures
from odeflow_tasks.batch import floating, inputs
from odeflow_tasks.chain import Chain
from odeflow_tasks.dequantisation import Dequantisation

SHAPE = "a density needs a state of its input's shape"
"""Why augmentation is not supported."""


class Density(of.Task):
    """Learns the density of vectors or images: the loss is the mean of −log p(x) in nats, with p as of `CNF`.

    One or several flows, each with its own parameters, transport the base, a standard normal at t₀, to the data at t₁.
    Figures show images and two-dimensional data; for other data the marginals.

    Discrete values, such as those of pixels, need `Dequantisation`. The loss is then an upper bound of the negative
    log-likelihood of the discrete values, and is also logged in bits per dimension.

    Losses and log-densities are in the units of the batches; for standardised data, nats per standardised unit. Those
    written by `odeflow predict` and `odeflow sample` are per unit of the file, lower by Σ log σ. Validation and test
    also log the loss in that unit, as `nll`.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 4; Grathwohl et al. (2019), "FFJORD".

    Args:
        dynamics: The vector field of the first flow; the others are built from its spec.
        solver: The solver.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of each flow; augmentation is not supported.
        shape: Shape of x, (d,) or (C, H, W); the command line takes it from the data. By default a vector of the
            dynamics' width. A field of width C acts on images, one of width CHW on vectors.
        divergence: The divergence in training; `Exact()` by default.
        eval_divergence: The divergence in evaluation; `Exact()` by default, so that results are free of noise.
        chain: The number of flows and the bijections around them. `Marginals` are fitted to the training data at the
            start of `fit`.
        dequantisation: The number of levels of discrete data.

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
        divergence: of.Divergence | None = None,
        eval_divergence: of.Divergence | None = None,
        chain: Chain = Chain(),
        dequantisation: Dequantisation = Dequantisation(),
    ) -> None:
        super().__init__()
        flow.refuse("Density", augment=SHAPE, lift=SHAPE)
        self.shape, seen = _shapes(dynamics.width, shape)
        if chain.marginals and (dequantisation.levels or len(self.shape) > 1):
            raise of.SettingError("Density: marginals are of vectors with a density; leave out levels and images")
        transforms = [*chain.transforms(dynamics, solver, gradient, flow), *dequantisation.transforms()]
        self.cnf, self.dequantisation = of.CNF(transforms, seen), dequantisation
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
            x: (B, *shape); with levels, in [0, 1].

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
        x = self.dequantisation(self._data_of(batch))
        loss = -self.log_prob(x).mean()
        bits = self.dequantisation.bits_per_dim(loss.detach(), math.prod(self.shape))
        if bits is not None:
            options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(x), "sync_dist": True}
            self.log(f"{stage}/bits_per_dim", bits, prog_bar=True, **options)
        if stage != "train" and self.units is not None and not self.units.same:
            nll = loss.detach() + self.units.log_volume(math.prod(self.shape))
            self.log(f"{stage}/nll", nll, on_step=False, on_epoch=True, batch_size=len(x), sync_dist=True)
        return loss

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(B,), log p(x) in nats."""
        return self.log_prob(self.dequantisation(self._data_of(batch)))

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

    def _data_of(self, batch: Any) -> Tensor:
        """The data of a batch, without labels."""
        x = floating("Density", "data", inputs(batch), self)
        self.dequantisation.check(x)
        return x


def _shapes(width: int, shape: Sequence[int] | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of the data, and their shape as the input of dynamics of this width.

    Raises:
        SettingError: The width does not match the shape of the data.
    """
    shape = (width,) if shape is None else tuple(shape)
    if width == shape[0]:
        return shape, shape
    if width == math.prod(shape):
        return shape, (width,)
    images = f", that of their channels, or {math.prod(shape)}, for vectors of all their values"
    raise of.SettingError(
        f"data of shape {shape} need dynamics of width {shape[0]}{images if len(shape) > 1 else ''}; got {width}"
    )
