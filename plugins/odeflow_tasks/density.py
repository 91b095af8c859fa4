"""Density: fit a continuous normalizing flow to samples by maximum likelihood."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow import registry
from odeflow_tasks import density_figures


class Density(of.Task):
    """Learns the density of vectors: the loss is −log p(x) in nats, averaged, with p as of `CNF`.

    The base, a standard normal density at t = 0, is carried to the data at t = t1, through one flow or several, each
    with parameters of its own. Figures are drawn of data in two dimensions; of others the marginals.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 4; Grathwohl et al. (2019), "FFJORD".

    Args:
        dynamics: The vector field of the first flow; the others are built by its spec.
        solver: Integrates.
        gradient: How to differentiate; `Checkpointed()` by default.
        dim: Length d of a vector; the command line takes it from the data. By default the dynamics' width.
        divergence: How the divergence is computed in training; `Exact()` by default.
        eval_divergence: How it is computed elsewhere; `Exact()` by default, so that results are free of its noise.
        num_flows: Number of flows in a row.
        batch_norm: Whether a `MovingBatchNorm` stands before, between and after the flows.
        marginals: Number of knots by which `Marginals` makes each feature standard normal, before the flows learn what
            is left; taken from the training data when `fit` begins. 0, as by default: none.
        t1: Last time of each flow.
        regularizers: Penalties on the flows, added to the training loss.
        steer: Half the width of the interval around t1 from which training draws the last time.

    Raises:
        SettingError: An option is out of range, or the dynamics do not fit the data.
    """

    def __init__(
        self,
        dynamics: of.Dynamics,
        solver: of.Solver,
        gradient: of.Gradient | None = None,
        dim: int | None = None,
        divergence: of.Divergence | None = None,
        eval_divergence: of.Divergence | None = None,
        num_flows: int = 1,
        batch_norm: bool = False,
        marginals: int = 0,
        t1: float = 1.0,
        regularizers: list[of.Regularizer] | None = None,
        steer: float = 0.0,
    ) -> None:
        super().__init__()
        if num_flows < 1:
            raise of.SettingError(f"Density: num_flows must be at least 1; got {num_flows}")
        if dim not in (None, dynamics.width):
            raise of.SettingError(
                f"the data have dim={dim}, but the dynamics' width is {dynamics.width}; a density needs both alike"
            )
        fields = [dynamics, *(registry.build(dynamics.spec) for _ in range(num_flows - 1))]
        transforms: list[of.Flow | of.Bijection] = []
        for field in fields:
            transforms += [of.MovingBatchNorm(dynamics.width)] if batch_norm else []
            transforms.append(of.Flow(field, solver, gradient, t1=t1, regularizers=regularizers or (), steer=steer))
        transforms += [of.MovingBatchNorm(dynamics.width)] if batch_norm else []
        transforms += [of.Marginals(dynamics.width, marginals)] if marginals else []
        self.cnf = of.CNF(transforms, shape=(dynamics.width,))
        self.divergence, self.eval_divergence = divergence or of.Exact(), eval_divergence or of.Exact()

    def on_fit_start(self) -> None:
        """Fits `Marginals`, where there are some, to the whole training part; a run that goes on has them already.

        Raises:
            DataError: There is no data module to read the training part from.
        """
        last = self.cnf.transforms[-1]
        if not isinstance(last, of.Marginals) or last.fitted:
            return
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise of.DataError(
                "marginals are fitted to a data module's training part; there is none: fit them yourself"
            )
        last.fit(torch.cat([_vectors(batch) for batch in data.train_dataloader()]))

    def forward(self, x: Tensor) -> Tensor:
        """As `log_prob`."""
        return self.log_prob(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density in nats, by `divergence` in training mode and by `eval_divergence` else.

        Args:
            x: (B, d).

        Returns:
            (B,).

        Raises:
            DataError: x has another shape.
        """
        if x.dim() != 2 or x.shape[1:] != self.cnf.shape:
            raise of.DataError(f"Density wants vectors of shape (B, {self.cnf.shape[0]}); got {tuple(x.shape)}")
        self._choose_divergence()
        return self.cnf().log_prob(x)

    def sample(self, count: int) -> dict[str, Tensor]:
        """New samples "x", (count, d), and their densities "log_prob", (count,), in nats."""
        self._choose_divergence()
        x, log_prob = self.cnf().sample_and_log_prob((count,))
        return {"x": x, "log_prob": log_prob}

    def _choose_divergence(self) -> None:
        self.cnf.divergence = self.divergence if self.training else self.eval_divergence

    def loss(self, batch: Any, stage: str) -> Tensor:
        """The mean of −log p(x), in nats."""
        return -self.log_prob(_vectors(batch)).mean()

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(B,), log p(x) in nats."""
        return self.log_prob(_vectors(batch))

    def figures(self, batch: Any) -> dict[str, Figure]:
        """Samples beside data, the density, its way from base to data, and that of samples; see `density_figures`."""
        x = _vectors(batch)
        self._choose_divergence()
        with torch.random.fork_rng([x.device] if x.is_cuda else []):  # so that a run does not depend on its pictures
            torch.manual_seed(0)
            return density_figures.draw(self.cnf, x)


def _vectors(batch: Any) -> Tensor:
    """The data of a batch, without labels."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch
