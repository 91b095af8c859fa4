"""Shift: evaluates a field at shifted parameters."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

import odeflow as of
from odeflow_dynamics.piecewise import Piecewise
from odeflow_dynamics.singular_value import SingularValue


@dataclass(frozen=True)
class Shift:
    """Evaluates f(t, y; θ + δ), where the vector θ is the concatenation of a field's trainable parameters.

    The parameters remain those of the field. Gradients flow to both θ and δ.

    Attributes:
        shapes: The shapes of the parameters by name, in the order of the vector.
    """

    shapes: dict[str, torch.Size]

    @classmethod
    def over(cls, dynamics: of.Dynamics, owner: str) -> "Shift":
        """The shift of a field's parameters.

        Args:
            dynamics: The field.
            owner: The caller, for messages.

        Raises:
            SettingError: The field has no trainable parameters, or parameters with a bounded norm.
        """
        if any(isinstance(module, SingularValue) for module in dynamics.modules()):
            raise of.SettingError(
                f"{owner} cannot let the weights inside Normed change with time: their norm is estimated once a solve. "
                "Use Piecewise(Normed(…)), whose weights change from piece to piece, or leave Normed out"
            )
        shapes = {name: param.shape for name, param in dynamics.named_parameters() if param.requires_grad}
        if not shapes:
            raise of.SettingError(
                f"{owner} lets parameters change with time, but {type(dynamics).__name__} has none that are trained"
            )
        return cls(shapes)

    @property
    def size(self) -> int:
        """Number of entries of the vector."""
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes.values()]

    def call(self, dynamics: of.Dynamics, shift: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """f(t, y; θ + δ).

        Args:
            dynamics: The field f.
            shift: (size,), δ, or (B, size), per-sample δ.
            t: (), the time, or (B,), per-sample times.
            y: (B, *state).

        Returns:
            (B, *state).

        Raises:
            StateError: The field contains a `Piecewise` and the times are per sample.
        """
        if shift.dim() == 2:
            if any(isinstance(module, Piecewise) for module in dynamics.modules()):
                raise of.StateError(
                    "a Piecewise field whose parameters change with time takes one time for all samples; got t of "
                    f"shape {tuple(t.shape)}. Put Piecewise outside, or use a solver without per_sample"
                )

            def one(shift: Tensor, t: Tensor, y: Tensor) -> Tensor:
                return self.call(dynamics, shift, t, y[None])[0]

            return torch.func.vmap(one)(shift, t, y)
        own = dict(dynamics.named_parameters())
        parts = zip(self.shapes.items(), shift.split(self._sizes), strict=True)
        shifted = {name: own[name] + part.view(shape).to(own[name]) for (name, shape), part in parts}
        return functional_call(dynamics, shifted, (t, y))
