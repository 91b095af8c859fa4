"""Independent: pairs drawn independently of each other."""

from torch import Tensor

from odeflow_matching.coupling import Coupling, Pairs


class Independent(Coupling):
    """Each point of the data with a point of the source drawn for it: no cost, and trajectories that bend."""

    def pairs(self, x0: Tensor, x1: Tensor, condition: Tensor | None = None) -> Pairs:
        return Pairs(x0, x1, condition)
