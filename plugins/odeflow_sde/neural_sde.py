"""NeuralSDE: a stochastic equation of two dynamics."""

from typing import Literal

import torch
from torch import Tensor

import odeflow as of


class NeuralSDE(of.Stochastic):
    """dy = f(t, y) dt + g(t, y) dW with f and g two dynamics.

    Args:
        drift: The drift f.
        diffusion: The diffusion g. With general noise its width is m times that of the drift, for m Brownian motions;
            it is called with the state, padded by zeros, and its value is a matrix (d, m) for each sample.
        noise: The kind of noise: "diagonal", one Brownian motion for each entry; "scalar", one for all; "additive", as
            diagonal, but the diffusion is called with zeros for the state, so that it depends on time alone; "general".
        calculus: "ito" or "stratonovich", the sense of the equation.

    Raises:
        SettingError: The widths do not fit, or the drift is stochastic itself.

    Example:
        >>> import odeflow as of
        >>> from odeflow_dynamics import MLP
        >>> from odeflow_sde import EulerMaruyama
        >>> flow = of.Flow(NeuralSDE(MLP(2), MLP(2)), EulerMaruyama(num_steps=50))
    """

    def __init__(
        self,
        drift: of.Dynamics,
        diffusion: of.Dynamics,
        noise: Literal["diagonal", "scalar", "additive", "general"] = "diagonal",
        calculus: Literal["ito", "stratonovich"] = "ito",
    ) -> None:
        super().__init__()
        for role, part in (("drift", drift), ("diffusion", diffusion)):
            if isinstance(part, of.StochasticField):
                raise of.SettingError(f"NeuralSDE: {role} must be dynamics without noise; got {type(part).__name__}")
        many = noise == "general"
        if diffusion.width % drift.width if many else diffusion.width != drift.width:
            wanted = f"a multiple of {drift.width}" if many else str(drift.width)
            raise of.SettingError(
                f"NeuralSDE: with {noise} noise the diffusion must have width {wanted}, as the drift; "
                f"got {diffusion.width}"
            )
        self.drift, self.spread, self.noise, self.calculus = drift, diffusion, noise, calculus
        self.width, self.states, self.inputs = drift.width, drift.states, drift.inputs

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.drift(t, y)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        if self.noise == "additive":
            return self.spread(t, torch.zeros_like(y))
        if self.noise != "general":
            return self.spread(t, y)
        columns = self.spread.width // self.width
        padded = torch.nn.functional.pad(y, (0, self.spread.width - self.width))
        return self.spread(t, padded).unflatten(-1, (self.width, columns))
