"""Reflow: the ends of another flow's trajectories as pairs."""

import copy

import torch
from torch import Tensor

import odeflow as of
from odeflow_matching.coupling import Coupling, Pairs


class Reflow(Coupling):
    """x₁ = φ(x₀), where a trained flow φ takes x₀; the data of the batch are left out, its conditions kept.

    The new flow has the ends of the old one, and straighter trajectories, so that it needs fewer steps. It is at most
    as good as the old one.

    Source: Liu, Gong & Liu (2023), "Flow Straight and Fast", section 2.

    Args:
        checkpoint: A checkpoint of `Density` or a task that trains one, with the same source and chain.

    Raises:
        CheckpointError: The file is no such checkpoint.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self._teacher: of.CNF | None = None

    def pairs(self, x0: Tensor, x1: Tensor, condition: Tensor | None = None) -> Pairs:
        flow = self.teacher(x0).transforms[0]
        assert isinstance(flow, of.Flow)
        with torch.no_grad():
            return Pairs(x0, flow(x0, context=condition), condition)

    def teacher(self, like: Tensor) -> of.CNF:
        """The trained flow, read once, on the device of a tensor."""
        if self._teacher is None:
            task = of.load(self.checkpoint)
            cnf = getattr(task, "cnf", None)
            if not isinstance(cnf, of.CNF) or not isinstance(cnf.transforms[0], of.Flow):
                raise of.CheckpointError(
                    f"Reflow: {self.checkpoint} must be a checkpoint of a density that begins with a flow; it holds a "
                    f"{type(task).__name__}"
                )
            self._teacher = copy.deepcopy(cnf).requires_grad_(False).eval()
        return self._teacher.to(like)
