"""Chain: the sequence of transforms of a normalizing flow."""

from dataclasses import dataclass

import odeflow as of
from odeflow.plugin import registry


@dataclass(frozen=True)
class Chain(of.OptionGroup):
    """The transforms between base and data: continuous flows, with bijections around them.

    Attributes:
        num_flows: Number of flows in sequence, each with its own parameters.
        batch_norm: Whether to insert a `MovingBatchNorm` before, between and after the flows.
        whitening: Whether `Whitening` follows the flows, so that they start from the Gaussian of the data.
        marginals: Number of knots with which `Marginals`, the last transform, makes each feature standard normal.
            0, the default: none.

    Raises:
        SettingError: An option is out of range.
    """

    num_flows: int = 1
    batch_norm: bool = False
    whitening: bool = False
    marginals: int = 0

    def __post_init__(self) -> None:
        of.check_least(self, 1, num_flows=self.num_flows)
        of.check_least(self, 0, marginals=self.marginals)

    def transforms(
        self, width: int, dynamics: of.Dynamics, solver: of.Solver, gradient: of.Gradient | None, flow: of.FlowOptions
    ) -> list[of.Flow | of.Bijection]:
        """The transforms from the base to the data.

        Args:
            width: Size of the states along dimension 1, without conditions.
            dynamics: The vector field of the first flow; the others are built from its spec.
            solver: The solver of all flows.
            gradient: The gradient method of all flows.
            flow: The options of all flows.
        """
        fields = [dynamics, *(registry.build(dynamics.spec) for _ in range(self.num_flows - 1))]
        flows = [of.Flow(field, solver, gradient, flow) for field in fields]
        if not self.batch_norm:
            transforms: list[of.Flow | of.Bijection] = [*flows]
        else:
            transforms = [part for each in flows for part in (of.MovingBatchNorm(width), each)]
            transforms.append(of.MovingBatchNorm(width))
        transforms += [of.Whitening(width)] if self.whitening else []
        return [*transforms, of.Marginals(width, self.marginals)] if self.marginals else transforms
