"""MinibatchOT: the optimal transport between the points of a batch."""

import torch
from torch import Tensor

from odeflow_matching.coupling import Coupling, Pairs, squared_distances


class MinibatchOT(Coupling):
    """The permutation π that minimises Σ |x₀_π(i) − x₁ᵢ|², exactly.

    Trajectories become straighter with the size of the batch, so that fewer steps suffice; 256 points of the plane take
    3 ms, 1,024 take 120 ms. Under conditions it biases the flow: a point of the source then depends on the
    condition, which is not known in sampling. Use `Conditional` there.

    Source: Tong et al. (2024), "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal
    Transport", section 3.2.3; Pooladian et al. (2023), "Multisample Flow Matching".
    """

    def pairs(self, x0: Tensor, x1: Tensor, condition: Tensor | None = None) -> Pairs:
        return Pairs(x0[assignment(squared_distances(x1, x0)).to(x0.device)], x1, condition)


def assignment(cost: Tensor) -> Tensor:
    """(N,), the column of each row in the assignment of least cost.

    Args:
        cost: (N, N), on the CPU.
    """
    from scipy.optimize import linear_sum_assignment  # imported here: it takes longer than most commands

    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])
