"""Stiff chemistry: Robertson's reaction until t = 10⁴ by implicit solvers, and the sensitivity of its end to a rate.

Source: Robertson (1966); Hairer & Wanner, Solving Ordinary Differential Equations II, IV.1.
"""

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_solvers import Dopri5, Kvaerno5, Rodas4

END = 1e4


class Robertson(nn.Module):
    """A → B (slow), 2 B → B + C (very fast), B + C → A + C (fast)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_rates = nn.Parameter(torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64).log())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, 3) ↦ (B, 3), the amounts of A, B and C."""
        a, b, c = y.unbind(1)
        slow, very_fast, fast = self.log_rates.exp()
        da, dc = -slow * a + fast * b * c, very_fast * b**2
        return torch.stack([da, -da - dc, dc], dim=1)


def main() -> tuple[dict[str, int], float, float]:
    """Accepted steps by solver, the drift of A + B + C, and ∂ log C(end) / ∂ log (slow rate)."""
    field = Robertson()
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    steps = {}
    for solver in (Kvaerno5(1e-6, 1e-10), Rodas4(1e-6, 1e-10)):
        solution = of.solve(field, y0, [0.0, END], solver=solver)
        steps[type(solver).__name__] = solution.stats.accepted
    try:
        of.solve(field, y0, [0.0, END], solver=Dopri5(1e-6, 1e-10, max_steps=2000), params=())
    except of.SolveError as error:
        reached = 0.0 if error.partial is None else float(error.partial.t[-1])
        print(f"Dopri5 is at t = {reached:.2g} after 2000 steps: stability, not accuracy, limits them")

    end = of.Flow(field, Kvaerno5(1e-6, 1e-10), options=of.FlowOptions(t1=END))(y0)
    end[0, 2].log().backward()
    drift = (end.sum() - 1).abs().item()
    sensitivity = field.log_rates.grad[0].item()
    print(f"steps: {steps}; A = {end[0, 0].item():.6f}, A + B + C = 1 up to {drift:.0e}")
    print(f"one percent more of the slow rate is {sensitivity:.3f} percent more of C")
    return steps, drift, sensitivity


if __name__ == "__main__":
    main()
