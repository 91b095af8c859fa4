"""FlowMatching: a continuous normalizing flow that is trained without being solved."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

import odeflow as of
from odeflow_matching.coupling import Coupling
from odeflow_matching.guided import unguided
from odeflow_matching.interpolant import Interpolant
from odeflow_matching.matching import Draw, Matching
from odeflow_matching.straight import Straight
from odeflow_tasks.base import Base
from odeflow_tasks.chain import Chain
from odeflow_tasks.dequantisation import Dequantisation


class FlowMatching(Matching):
    """A `Density` that is trained by least squares on velocities: E‖f(t, x_t) − ẋ_t‖²/d, for x_t of an interpolant.

    A training step evaluates the field once, and solves nothing. What is learned is the same flow as of `Density`, with
    its exact likelihood, its solvers, samples and figures. Either task begins with the weights of the other:
    `--weights`.

    Validation and test log the negative log-likelihood as `loss`, as `Density` does, and its training loss as
    `matching`. The squared 2-Wasserstein distance of samples and data is logged as `w2_squared`, beside it that of the
    source, `w2_squared_source`, and of as many other data, `w2_squared_data`, which no model can be expected to go
    below. The energy of the trajectories, ∫E|dy/dt|² dt, is logged as `path_energy`; optimal ones need
    `w2_squared_source`. Distances are taken where the flow ends, before the bijections behind it.

    Source: Lipman et al. (2023), "Flow Matching for Generative Modeling"; Liu, Gong & Liu (2023), "Flow Straight and
    Fast"; Albergo & Vanden-Eijnden (2023); Tong et al. (2024), "Improving and Generalizing Flow-Based Generative Models
    with Minibatch Optimal Transport".

    Args:
        dynamics: The vector field.
        solver: The solver of evaluation.
        gradient: The gradient method, for later training by likelihood; `Checkpointed()` by default.
        flow: Options of the flow. Augmentation, penalties and `steer` are not supported.
        shape: Shape of x, as of `Density`.
        num_conditions: Number of values of a condition c, as of `Density`.
        by_class: Whether the class is the condition.
        num_classes: Number of classes, for `by_class`; the command line takes it from the data.
        eval_divergence: The divergence in evaluation; `Exact()` by default.
        chain: Bijections behind the flow; a single flow.
        dequantisation: The number of levels of discrete data; a linear space suits matching.
        base: The source at t₀; the standard normal by default. `FromData` is a second data set.
        interpolant: The path from source to data; `Straight()` by default.
        coupling: Which points of source and data belong together; `Independent()` by default.
        drop: The share of conditions that training replaces with zeros, for `Guided`.
        transport: Number of points by which distances are measured in evaluation; 0 for none, as for large images.

    Raises:
        SettingError: An option is out of range, or the dynamics do not match the data.
    """

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
        eval_divergence: of.Divergence | None = None,
        chain: Chain = Chain(),
        dequantisation: Dequantisation = Dequantisation(),
        base: Base | None = None,
        interpolant: Interpolant | None = None,
        coupling: Coupling | None = None,
        drop: float = 0.0,
        transport: int = 1000,
    ) -> None:
        super().__init__(
            dynamics,
            solver,
            gradient,
            flow,
            shape,
            num_conditions,
            by_class,
            num_classes,
            eval_divergence,
            chain,
            dequantisation,
            base,
            interpolant or Straight(),
            coupling,
            drop,
            transport,
        )

    def compare(self, draw: Draw) -> Tensor:
        """(), ‖(t₁ − t₀) f(t, x_t) − ẋ_t‖²/d, averaged over the draw."""
        duration = self.flow.options.t1 - self.flow.options.t0
        field = self.evaluated(unguided(self.flow.dynamics), draw.t, draw.x, draw.condition)
        return F.mse_loss(duration * field, draw.velocity)
