"""ResidualMLP: a perceptron with shortcuts as vector field."""

from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.clock import as_feature
from odeflow_dynamics.perceptron import activation_of


class ResidualMLP(of.Dynamics):
    """dy/dt = W_out x_L with x_k = x_(k−1) + V_k σ(U_k x_(k−1)) and x_0 = W_in y + W_time t, all with biases.

    It trains at larger depths than `MLP`, at the cost of wide inner layers. By default there are 396,034 parameters for
    vectors of length 2. Each projection starts at a scale of its own; one for [y, t] would start with less of t.

    Source: the `SimpleNet` of Cheng & Schwing (2025), "The Curse of Conditions", https://github.com/hkchengrex/C2OT;
    residual blocks: He et al. (2016), "Deep Residual Learning for Image Recognition".

    Args:
        dim: Length d of the state.
        hidden: Width of the residual stream.
        depth: Number of blocks.
        expansion: Width of the inner layer of a block, in multiples of `hidden`.
        activation: σ, as of `MLP`.

    Raises:
        SettingError: A size is not positive, or `activation` is unknown.
    """

    def __init__(
        self, dim: int, hidden: int = 128, depth: int = 3, expansion: int = 4, activation: str = "gelu"
    ) -> None:
        super().__init__()
        of.check_least(self, 1, dim=dim, hidden=hidden, depth=depth, expansion=expansion)
        sigma = activation_of(self, activation)
        self.width, wide = dim, expansion * hidden
        self.first, self.time = nn.Linear(dim, hidden), nn.Linear(1, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, wide), sigma(), nn.Linear(wide, hidden)) for _ in range(depth)
        )
        self.last = nn.Linear(hidden, dim)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, d) ↦ (…, d).

        Raises:
            StateError: The state's last dimension is not d.
        """
        if y.dim() == 0 or y.shape[-1] != self.width:
            raise of.StateError(f"ResidualMLP(dim={self.width}) takes states (…, {self.width}); got {tuple(y.shape)}")
        x = self.first(y) + self.time(as_feature(t.to(y), y))
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)
