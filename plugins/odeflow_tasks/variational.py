"""Variational: fits a flow to a density given by its energy."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow_tasks import density_figures
from odeflow_tasks.batch import floating, inputs
from odeflow_tasks.density import SHAPE
from odeflow_tasks.potential import POTENTIALS

HOTTEST = 0.01
"""The smallest factor β of the energy."""


class Variational(of.Task):
    """Learns to sample from a density p(x) = exp(−U(x)) / Z: the loss is KL(q‖p) in nats, q being the flow's density.

        KL(q‖p) = E[log q(x) + U(x)] + log Z,    x = φ(z),    log q(x) = log N(z; 0, 1) − log |det ∂x/∂z|

    A batch is the noise z. Since log Z is computed by integration over the plane, the loss is 0 for q = p and positive
    otherwise, up to the noise of its estimate. φ is a continuous flow, planar layers, or the former followed by the
    latter.

    This divergence barely penalises modes that q misses. With `anneal` training starts from a flattened density, which
    covers all modes: the loss is E[log q(x) + β U(x)] + log Z, with β increasing from 0.01 to 1.

    Source: Rezende & Mohamed (2015), "Variational Inference with Normalizing Flows", section 6.1 and eq. 20; Chen et
    al. (2018), "Neural Ordinary Differential Equations", figure 4.

    Args:
        dynamics: The vector field of the continuous flow, if any.
        solver: The solver; required with dynamics.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of the continuous flow; augmentation is not supported.
        target: "U1" (two arcs of a ring), "U2" (a wave), "U3" (a wave with a bump) or "U4" (a wave that forks).
        planar: Number of planar layers, `Planar`.
        anneal: Number of training steps in which β increases; 0: β = 1 from the start.
        divergence: The divergence; `Exact()` by default.

    Raises:
        SettingError: `target` is unknown, there is nothing to train, or the dynamics have no solver.
    """

    def __init__(
        self,
        dynamics: of.Dynamics | None = None,
        solver: of.Solver | None = None,
        gradient: of.Gradient | None = None,
        flow: of.FlowOptions = of.FlowOptions(),
        target: str = "U1",
        planar: int = 0,
        anneal: int = 0,
        divergence: of.Divergence | None = None,
    ) -> None:
        super().__init__()
        if target not in POTENTIALS:
            raise of.SettingError(f"Variational: no target {target!r}. There are: {', '.join(POTENTIALS)}")
        if planar < 0 or (planar == 0 and dynamics is None):
            raise of.SettingError(f"Variational needs dynamics, or planar at least 1; got planar={planar}")
        of.check_least(self, 0, anneal=anneal)
        if dynamics is not None and solver is None:
            raise of.SettingError(f"Variational needs a solver for {type(dynamics).__name__}; give model.solver")
        transforms: list[of.Flow | of.Bijection] = []
        if dynamics is not None and solver is not None:
            flow.refuse("Variational", augment=SHAPE, lift=SHAPE)
            transforms.append(of.Flow(dynamics, solver, gradient, flow))
        else:
            flow.refuse_all("Variational", "without dynamics there is no flow")
        self.cnf = of.CNF([*transforms, *(of.Planar(2) for _ in range(planar))], shape=(2,), divergence=divergence)
        self.target, self.anneal = POTENTIALS[target], anneal

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Samples x (B, 2) and log q(x) (B,) from noise z (B, 2)."""
        x, log_det = self.cnf.from_base(z)
        return x, self.cnf.base.log_prob(z) - log_det

    def loss(self, batch: Any, stage: str) -> Tensor:
        """The estimate of KL(q‖p) from a batch of noise, in nats; during annealing with β U instead of U."""
        x, log_q = self(self._noise(batch))
        divergence = (log_q - self.target.log_density(x)).mean()
        if stage != "train" or self.global_step >= self.anneal:
            return divergence
        beta = max(HOTTEST, self.global_step / self.anneal)
        return divergence - (1 - beta) * self.target.energy(x).mean()

    def log_prob(self, x: Tensor) -> Tensor:
        """(B,), log q(x) in nats of x (B, 2)."""
        return self.cnf().log_prob(x)

    def sample(self, count: int) -> dict[str, Tensor]:
        """Samples "x", (count, 2), and their log-densities "log_prob", (count,), in nats."""
        x, log_prob = self.cnf().sample_and_log_prob((count,))
        return {"x": x, "log_prob": log_prob}

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(B, 2), samples x from a batch of noise."""
        return self(self._noise(batch))[0]

    def _noise(self, batch: Any) -> Tensor:
        """(B, 2), the noise of a batch."""
        z = floating("Variational", "noise", inputs(batch), self)
        if z.dim() != 2 or z.shape[1] != 2:
            raise of.DataError(
                f"Variational expects noise of shape (B, 2); got {tuple(z.shape)}. Use StandardNormal(dim=2)"
            )
        return z

    def figures(self, batch: Any) -> dict[str, Figure]:
        """The target density, the learned density, and its samples."""
        with torch.no_grad():
            return {"density": density_figures.beside(self.target.log_density, self.cnf, self._noise(batch))}
