"""Step size control with per-sample step sizes."""

import math
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE, SAME_STEP, column
from odeflow.engine.loop.adaptive import (
    FIRST_CHANGE,
    HALF,
    SMALLEST_PART,
    STIFFNESS_EVERY,
    ErrorControl,
    advice,
)
from odeflow.engine.loop.control import SMALLEST_STEP
from odeflow.engine.loop.controller import LARGEST_GROWTH, LARGEST_SHRINKAGE, SAFETY
from odeflow.engine.loop.per_sample.clocks import OwnClocks, Samples, Window
from odeflow.engine.output.solution import SolveError
from odeflow.engine.step.stages import ExplicitStages


@dataclass(frozen=True)
class Verdict:
    """The decisions on per-sample steps.

    Attributes:
        accepted: (b,), whether each step is accepted.
        h: (b,), signed sizes of the next steps.
        past: (n, b), the controller histories.
    """

    accepted: Tensor
    h: Tensor
    past: Tensor


class OwnControl:
    """`ErrorControl` for each sample, with a per-sample error norm.

    Args:
        joint: The tolerances, the bounds of the step size, and the controller.
        order: Order of the method.

    Attributes:
        span: (B,), the lengths of the samples' intervals.
        least: (B,), the smallest permitted step sizes.
        attempts: Number of attempted steps, common to all samples.
        stiffness: (B,), the means of h|λ|, nan if unknown; None if the method has no estimate.
    """

    span: Tensor
    least: Tensor

    def __init__(self, joint: ErrorControl, order: int) -> None:
        self.joint, self.order, self.attempts = joint, order, 0
        self._seen: Tensor | None = None  # (2, B), sum and number of the estimates of h|λ|

    def start(self, clocks: OwnClocks, samples: Samples, window: Window | None) -> Samples:
        """The samples with dy/dt at the start and initial step sizes, selected as by `ErrorControl.start`.

        Raises:
            SolveError: A sample is not finite at its start, or its initial step size underflows.
        """
        y, start, joint = samples.y, samples.t, self.joint
        first = clocks.evaluate(start, y, window)
        scale = y.to(DTYPE).abs() * joint.rtol + joint.atol
        size, speed = rms(y / scale), rms(first / scale)
        finite = torch.stack((size.isfinite(), speed.isfinite()))
        if not bool(finite.all()):
            number = int(finite.all(0).logical_not().nonzero()[0])
            culprit = "field" if bool(finite[0, number]) else "initial state"
            raise SolveError(
                f"the {culprit} is not finite at the start of sample {number}, t = {float(start[number]):g}: "
                "look for inf and nan there"
            )
        distance, direction = (samples.stop - start).abs(), (samples.stop - start).sign()
        self.span = distance
        if joint.first_step is not None:
            h = torch.full_like(start, joint.first_step)
        else:
            usual = torch.minimum(size, speed * distance) > 1e-5
            unit = (size / speed).where(usual, distance)
            trial = (0.01 * unit).where(usual, 1e-6 * unit).minimum(distance)
            ahead = trial * direction
            change = clocks.evaluate(start + ahead, y + first * column(ahead, y), window) - first
            steepest = torch.maximum(speed, rms(change / scale) / trial * unit) * unit
            largest = (unit * (FIRST_CHANGE / steepest).pow(1 / (self.order + 1))).where(steepest > 1e-15, math.inf)
            h = torch.minimum(100 * trial, largest)
        h = h.clamp_min(joint.min_step).minimum(distance).clamp_max(joint.max_step)
        self.least = SMALLEST_PART * h
        samples.first, samples.h = first, h * direction
        samples.past = h.new_full((len(joint.controller.gains) - 1, len(h)), math.nan)
        if bool(self.too_small(samples).any()):
            self.give_up(samples)
        return samples

    def judge(self, samples: Samples, h: Tensor, y1: Tensor, error: Tensor) -> Verdict:
        """Accepts or rejects steps by their scaled errors, and selects the next sizes, as `ErrorControl.accepts`.

        Args:
            samples: The samples at the start of the steps.
            h: (b,), the step sizes.
            y1: (b, *state), the states at the ends.
            error: (b, *state), the error estimates.
        """
        joint = self.joint
        largest = torch.maximum(samples.y.abs(), y1.abs())
        scale = (largest.float() if largest.dtype in HALF else largest).mul_(joint.rtol).add_(joint.atol)
        scaled, size, chosen = rms(error / scale), h.abs(), samples.h.abs()
        if joint.shared:
            scaled = scaled * (self.span[samples.ids] / size).where(size > 0, 0)
        accepted = scaled <= 1
        rounding = samples.t.abs() * (4 * torch.finfo(DTYPE).eps)
        cut = chosen - size > (SAME_STEP * chosen).maximum(
            rounding
        )  # truncated by a stop: uninformative about the larger size
        ratio = SAFETY * scaled.clamp_min(1e-30).pow(joint.controller.exponent)
        factor, past = self._filtered(ratio, accepted & ~cut, samples.past)
        size = size * factor.clamp(LARGEST_SHRINKAGE, LARGEST_GROWTH).nan_to_num(LARGEST_SHRINKAGE)
        size = torch.where(accepted & cut, size.maximum(chosen), size).clamp_max(joint.max_step)
        return Verdict(accepted, size * samples.h.sign(), past)

    def _filtered(self, ratio: Tensor, told: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """The filtered factors of `Controller.factor` before its bounds, (b,), and the new controller history.

        The history, (n, b), is nan until a sample has taken enough steps.

        Args:
            ratio: (b,), rₙ.
            told: (b,), whether the errors are informative about the proposed sizes.
            past: (n, b), rₙ₋₁, rₙ₋₂, …
        """
        first, *others = self.joint.controller.gains
        if first == 1 and not others:
            return ratio, past
        factor = ratio**first
        for gain, earlier in zip(others, past, strict=True):
            factor = factor * earlier**gain
        factor = torch.where(told & ~factor.isnan(), factor, ratio)
        return factor, torch.where(told, torch.cat((ratio[None], past))[: len(past)], past)

    def look_at_stiffness(self, stages: ExplicitStages, samples: Samples, taken: Tensor) -> None:
        """Estimates h|λ| at every tenth attempt, for the samples whose step was taken, (b,)."""
        self.attempts += 1
        differences = None if self.attempts % STIFFNESS_EVERY else stages.last_differences()
        if differences is None:
            return
        of_slopes, of_stages = differences.view(2, len(taken), -1).norm(dim=2).to(DTYPE)
        if self._seen is None:
            self._seen = of_slopes.new_zeros(2, len(self.span))
        told = taken & (of_stages > 0)
        self._seen[:, samples.ids] += torch.stack(((of_slopes / of_stages).where(told, 0), told))

    @property
    def stiffness(self) -> Tensor | None:
        return None if self._seen is None else self._seen[0] / self._seen[1]

    def too_small(self, samples: Samples) -> Tensor:
        """(b,), whether the step size of an unfinished sample underflows."""
        smallest = (samples.t.abs() * (SMALLEST_STEP * torch.finfo(DTYPE).eps)).maximum(self.least[samples.ids])
        allowed = self.span[samples.ids].clamp_max(self.joint.min_step)
        return (samples.h.abs() < torch.maximum(smallest, allowed)) & samples.moving

    def give_up(self, samples: Samples) -> NoReturn:
        """Raises the error for the sample whose step size underflowed, or for too many steps."""
        small = self.too_small(samples)
        which = int((small if bool(small.any()) else samples.moving).nonzero()[0])
        number, t, h = int(samples.ids[which]), float(samples.t[which]), float(samples.h[which].abs())
        if not bool(small.any()):
            stiffness = None if self.stiffness is None else float(self.stiffness[number])
            raise SolveError(
                f"max_steps = {self.joint.max_steps} steps did not take sample {number} to its end: at t = {t:g} the "
                f"step size is {h:.3g}. {advice(stiffness)}"
            )
        raise SolveError(
            f"the step size of sample {number} fell to {h:.3g} at t = {t:g}: near there the field jumps, varies "
            "too fast for the tolerances, or is not finite. Loosen rtol and atol, lower min_step, name the times of "
            "jumps in jump_ts, or look at the field there"
        )


def rms(value: Tensor) -> Tensor:
    """(b,), the root mean square over each sample's entries."""
    flat = value.reshape(len(value), -1)
    return torch.linalg.vector_norm(flat, dim=1, dtype=DTYPE) / math.sqrt(max(flat.shape[1], 1))
