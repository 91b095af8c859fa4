"""Normed: layers with a bounded Lipschitz constant."""

from torch import Tensor, nn
from torch.func import functional_call

import odeflow as of
from odeflow_dynamics.galerkin import Galerkin
from odeflow_dynamics.hypernetwork import Hypernetwork
from odeflow_dynamics.singular_value import SingularValue

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
VARYING = (Galerkin, Hypernetwork)


class Normed(of.Modifier):
    """The field with the weight W of every linear and convolutional layer replaced by W / max(1, σ(W)/b).

    σ is the largest singular value, so that a linear layer has a Lipschitz constant of at most the bound b; weights
    within the bound are unchanged. A field of L such layers with 1-Lipschitz activations has a Lipschitz constant of at
    most b^L in the state. The weight of a convolution counts as a matrix with a row for each output channel (for a
    transposed one, each input channel); with a kernel of m positions, the convolution's own constant is at most √m b.
    Biases and layers of other kinds, such as normalisation and attention, are not bounded.

    σ is estimated by power iteration: at construction, and in training mode by `enter` at the start of a flow's solve
    if the weight has changed. It is constant during the solve and its backward pass. Until the iteration converges,
    the estimate is too small and the bound is exceeded accordingly.

    Source: Miyato et al. (2018), "Spectral Normalization for Generative Adversarial Networks"; the maximum: Behrmann
    et al. (2019), "Invertible Residual Networks".

    Args:
        dynamics: The field.
        bound: The bound b.

    Raises:
        SettingError: The bound is not positive, the field has no such layer, or its weights depend on time.
    """

    def __init__(self, dynamics: of.Dynamics, bound: float = 1.0) -> None:
        of.check_range(self, "(0, inf)", bound=bound)
        varying = next((type(module).__name__ for module in dynamics.modules() if isinstance(module, VARYING)), None)
        if varying is not None:
            raise of.SettingError(
                f"Normed estimates the norm of a weight once a solve, but those inside {varying} change with time. "
                "Use Piecewise(Normed(…)), whose weights change from piece to piece, or leave Normed out"
            )
        super().__init__(dynamics)
        weights = {layer.weight for layer in dynamics.modules() if isinstance(layer, LAYERS)}
        self.names = [name for name, param in dynamics.named_parameters() if param in weights]
        if not self.names:
            raise of.SettingError(
                f"Normed bounds the weights of linear and convolutional layers, but {type(dynamics).__name__} has none"
            )
        self.norms = nn.ModuleList(SingularValue(weight) for weight in self._weights())
        self.bound = bound

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """As of the modified field."""
        named = zip(self.names, self._weights(), self.norms, strict=True)
        bounded = {name: weight / (norm(weight) / self.bound).clamp(min=1) for name, weight, norm in named}
        return functional_call(self.dynamics, bounded, (t, y))

    def enter(self, y0: Tensor) -> Tensor:
        """As of the modified field; in training mode the estimates are updated first."""
        if self.training:
            for weight, norm in zip(self._weights(), self.norms, strict=True):
                assert isinstance(norm, SingularValue)
                norm.update(weight)
        return super().enter(y0)

    def _weights(self) -> list[Tensor]:
        own = dict(self.dynamics.named_parameters())
        return [own[name] for name in self.names]
