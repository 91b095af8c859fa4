"""ScoreMatching: a diffusion, whose probability flow is a continuous normalizing flow."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import odeflow as of
from odeflow_matching.guided import unguided
from odeflow_matching.interpolant import Interpolant, along
from odeflow_matching.matching import Draw, Matching
from odeflow_matching.probability_flow import Prediction, ProbabilityFlow
from odeflow_matching.reverse_diffusion import ReverseDiffusion
from odeflow_matching.vp_schedule import VPSchedule
from odeflow_tasks.chain import Chain
from odeflow_tasks.dequantisation import Dequantisation


class ScoreMatching(Matching):
    """A `Density` that is trained by denoising: a net predicts the noise ε in x_t = a x₁ + b σ ε.

    The flow is the `ProbabilityFlow` of the net, with exact likelihood, solvers, samples and figures as of `Density`;
    metrics are those of `FlowMatching`. The losses are ‖ε̂ − ε‖²/d, the same by b²‖s − s_true‖²/d for the score, and
    ‖v̂ − v‖²/d. Samples by a stochastic solver, `odeflow sample --solver SRA1 --num_steps 100`, are those of the
    `ReverseDiffusion`.

    Source: Song et al. (2021), "Score-Based Generative Modeling through Stochastic Differential Equations"; Ho, Jain &
    Abbeel (2020), "Denoising Diffusion Probabilistic Models"; Salimans & Ho (2022), for v.

    Args:
        dynamics: The net, called with t and y, or [y, c], as a vector field is.
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
        interpolant: The diffusion, from noise to data; `VPSchedule()` by default. The source is normal, of its spread.
        prediction: What the net predicts: "noise", "score" or "v".
        drop: The share of conditions that training replaces with zeros.
        transport: Number of points by which distances are measured in evaluation; 0 for none.
        corrector: The rate of the Langevin dynamics in samples of the `ReverseDiffusion`.

    Raises:
        SettingError: An option is out of range, the dynamics do not match the data, or the interpolant does not support
            the prediction.
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
        interpolant: Interpolant | None = None,
        prediction: Prediction = "noise",
        drop: float = 0.0,
        transport: int = 1000,
        corrector: float = 0.0,
    ) -> None:
        of.check_least(self, 0, corrector=corrector)
        interpolant = interpolant or VPSchedule()
        field = ProbabilityFlow(dynamics, interpolant, prediction, flow.t0, flow.t1)
        super().__init__(
            field,
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
            None,
            interpolant,
            None,
            drop,
            transport,
        )
        self.corrector = corrector

    @property
    def field(self) -> ProbabilityFlow:
        """The field of the flow."""
        field = self.flow.dynamics
        assert isinstance(field, ProbabilityFlow)
        return field

    def sample(self, count: int, condition: Tensor | None = None) -> dict[str, Tensor]:
        """As of `Density`; by a stochastic solver those of the `ReverseDiffusion`, whose densities are not known."""
        flow = self.flow
        if not isinstance(flow.solver, of.StochasticSolver):
            return super().sample(count, condition)
        self.check_condition(condition, count)
        options = of.FlowOptions(flow.options.t0, flow.options.t1)
        diffusion = of.Flow(ReverseDiffusion(self.field, self.corrector), flow.solver, options=options)
        x = diffusion(self.cnf.base.sample(torch.Size([count])), context=condition)
        flow.stats = diffusion.stats
        for bijection in list(self.cnf.transforms)[1:]:
            x, _ = bijection(x)
        return {"x": x.view(count, *self.shape)}

    def compare(self, draw: Draw) -> Tensor:
        """(), the mean square error of the prediction; of the score, times b²σ²."""
        field = self.field
        predicted = self.evaluated(unguided(field.dynamics), draw.t, draw.x, draw.condition)
        at, spread = self.interpolant.coefficients(draw.t), self.interpolant.spread
        a, b = along(at.a, draw.x), along(at.b, draw.x)
        noise = draw.x0 / spread
        if field.prediction == "score":
            return F.mse_loss(-b * spread * predicted, noise)
        if field.prediction == "v":
            return F.mse_loss(predicted, a * noise - b * draw.x1)
        return F.mse_loss(predicted, noise)
