"""The rows of a solution with per-sample steps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE, column
from odeflow.engine.loop.per_sample.clocks import Samples
from odeflow.engine.loop.per_sample.kept import KeptSteps
from odeflow.engine.loop.recorder import SAME_TIME
from odeflow.engine.output.mesh import Mesh
from odeflow.engine.step.stages import TracedStages, ValueStages
from odeflow.engine.step.tableau import Tableau

SlopeStages = ValueStages | TracedStages


@dataclass(frozen=True)
class Passed:
    """The rows in one step of the samples: output times, and the rows of the mesh.

    Attributes:
        sample: (m,), the samples of rows inside a step.
        theta: (m,), the points θ in [0, 1] of these rows.
        row: (m,), their indices in the solution.
        ending: (k,), the samples whose step ends at an output time.
        ending_row: (k,), the indices of these rows.
    """

    sample: Tensor
    theta: Tensor
    row: Tensor
    ending: Tensor
    ending_row: Tensor

    def __len__(self) -> int:
        return len(self.row) + len(self.ending_row)

    def values(self, stages: SlopeStages, tableau: Tableau, y: Tensor, y1: Tensor) -> Tensor:
        """(m + k, *state), the states at these times, after the step from y to y1.

        y(t + θh) = y + Σ_d θᵈ P_d; one product with the stage derivatives gives the coefficients P of all samples.
        """
        ends = y1[self.ending]
        if not len(self.sample):
            return ends
        stages.last_slope()
        slopes = stages.slopes if isinstance(stages, ValueStages) else torch.stack(list(stages.slopes))
        coefficients = slopes.new_tensor(tableau.interpolation).t() @ slopes.flatten(1)
        coefficients = coefficients.view(len(coefficients), *y.shape)
        theta = column(self.theta, y)
        inside = coefficients[-1][self.sample] * theta
        for lower in coefficients[:-1].flip(0):
            inside = (inside + lower[self.sample]) * theta
        return torch.cat((y[self.sample] + inside, ends))


class Outputs:
    """The rows of the solution. Each sample may pass any number of output times in a step.

    Args:
        t: (T,) or (B, T), the times.
        y0: (B, *state), row 0.
        mesh: Requests additional rows, stored after the others.
    """

    kept: KeptSteps | None = None

    def __init__(self, t: Tensor, y0: Tensor, mesh: Mesh | None) -> None:
        times = t.to(y0.device, DTYPE)
        gaps = times.diff().abs().amin(-1)
        largest = times[..., [0, -1]].abs().amax(-1)
        self.tolerance = (SAME_TIME * torch.finfo(DTYPE).eps * largest).minimum(0.25 * gaps)
        self.sign = 1.0 if bool((times[..., -1] > times[..., 0]).all()) else -1.0
        self.times = (times * self.sign).contiguous()  # ascending
        self.shape, self.mesh = y0.shape, mesh
        self.values = [y0]
        self.places = [torch.arange(len(y0), device=y0.device)]

    def start(self, samples: Samples, degree: int) -> None:
        """Starts the solve.

        Args:
            samples: All samples.
            degree: Degree of the dense output.
        """
        if self.mesh is not None:
            self.kept = KeptSteps(self.mesh, samples, self.times.shape[-1], degree)

    def count(self, samples: Samples, end: Tensor) -> tuple[Tensor, Tensor]:
        """For steps that end at `end`: the first row (b,) not inside the step, and the first not passed by it."""
        end = end * self.sign
        if self.times.dim() == 1:
            return (
                torch.searchsorted(self.times, end - self.tolerance),
                torch.searchsorted(self.times, end + self.tolerance, right=True),
            )
        times, end, tolerance = self.times[samples.ids], end[:, None], self.tolerance[samples.ids, None]
        inside = torch.searchsorted(times, end - tolerance)
        return inside.squeeze(1), torch.searchsorted(times, end + tolerance, right=True).squeeze(1)

    def passed(self, samples: Samples, h: Tensor, inside: Tensor, beyond: Tensor, kept: Tensor | None) -> Passed:
        """The rows from each sample's next one to those of `count`, and those of kept steps.

        Args:
            samples: The samples at the start of the step.
            h: (b,), the step sizes.
            inside: (b,), the first row not inside the step, at least `samples.row`.
            beyond: (b,), the first row not passed.
            kept: (b,), whether the step is kept.
        """
        number = inside - samples.row
        sample = torch.repeat_interleave(number)
        first = number.cumsum(0) - number
        row = torch.arange(len(sample), device=sample.device) + (samples.row - first)[sample]
        times = self.times[row] if self.times.dim() == 1 else self.times[samples.ids[sample], row]
        theta = (times * self.sign - samples.t[sample]) / h[sample]
        if self.kept is not None and kept is not None:
            inner = sample, theta, row
            sample, theta, row = map(torch.cat, zip(inner, self.kept.keep(samples, h, kept), strict=True))
        ending = (beyond > inside).nonzero().squeeze(1)
        return Passed(sample, theta, row, ending, inside[ending])

    def add(self, samples: Samples, passed: Passed, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the states of passed rows; returns (row, sample) of each in the solution."""
        rows = torch.cat((passed.row, passed.ending_row))
        ids = samples.ids[torch.cat((passed.sample, passed.ending))]
        self.values.append(values)
        self.places.append(rows * self.shape[0] + ids)
        return rows, ids

    def solution(self) -> Tensor:
        """(R, B, *state). Rows that a sample did not reach contain its initial state."""
        if self.mesh is not None and self.kept is not None:
            self.mesh.steps = self.kept.steps()
        count = self.times.shape[-1] + (0 if self.kept is None else self.kept.size)
        places = torch.cat(self.places)
        order = self.places[0].repeat(count).scatter_(0, places, torch.arange(len(places), device=places.device))
        return torch.cat(self.values)[order].view(count, *self.shape)
