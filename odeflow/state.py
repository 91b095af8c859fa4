"""The state of an equation: one Tensor, or a tuple of Tensors that is packed into one at the boundary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.errors import StateError

State = Tensor | tuple[Tensor, ...]
Field = Callable[[Tensor, Tensor], Tensor]
"""dy/dt = field(t, y), on one Tensor: t of shape (), y and the result of the same shape."""


@dataclass(frozen=True)
class Packing:
    """Turns a tuple of Tensors into one flat Tensor and back, so that solvers know only one kind of state."""

    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, state: tuple[Tensor, ...]) -> "Packing":
        """The packing of states like this one.

        Raises:
            StateError: The tuple is empty, or its tensors differ in dtype or device.
        """
        if not state:
            raise StateError("the state is an empty tuple; give at least one Tensor")
        kinds = {(leaf.dtype, leaf.device) for leaf in state}
        if len(kinds) > 1:
            listed = ", ".join(f"{leaf.dtype} on {leaf.device}" for leaf in state)
            raise StateError(f"the tensors of a tuple state must share dtype and device; got {listed}")
        return cls(tuple(leaf.shape for leaf in state))

    def pack(self, state: tuple[Tensor, ...]) -> Tensor:
        """(sum of the leaves' sizes,)."""
        return torch.cat([leaf.reshape(-1) for leaf in state])

    def unpack(self, packed: Tensor) -> tuple[Tensor, ...]:
        """The leaves of (…, size); leading dimensions, such as that of time, are kept."""
        lead = packed.shape[:-1]
        parts = packed.split([shape.numel() for shape in self.shapes], dim=-1)
        return tuple(part.reshape(lead + shape) for part, shape in zip(parts, self.shapes, strict=True))


@dataclass(frozen=True)
class PackedField:
    """A field of tuples, on packed states.

    Attributes:
        packing: Packs and unpacks.
        field: (t, tuple of states) ↦ tuple of slopes.
    """

    packing: Packing
    field: Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The packed slope.

        Raises:
            StateError: The field's result is not a tuple of the state's shapes.
        """
        value, shapes = self.field(t, self.packing.unpack(y)), self.packing.shapes
        if not isinstance(value, (tuple, list)) or len(value) != len(shapes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StateError(
                f"the state is a tuple of {len(shapes)} tensors, so the field must return such a tuple; "
                f"it returned {type(value).__name__}"
            )
        for number, (leaf, shape) in enumerate(zip(value, shapes, strict=True)):
            check_shape(leaf, shape, f" for leaf {number} of the state")
        return self.packing.pack(tuple(value))


def accumulate(totals: list[Tensor | None], values: Sequence[Tensor | None], weight: float = 1.0) -> None:
    """Totals += weight · values, in place, tensor by tensor; None is zero."""
    old: list[Tensor] = []
    new: list[Tensor] = []
    for number, value in enumerate(values):
        if value is None:
            continue
        total = totals[number]
        if total is None:
            totals[number] = value * weight
        else:
            old.append(total)
            new.append(value)
    if old:
        torch._foreach_add_(old, new, alpha=weight)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def check_shape(value: Tensor, shape: torch.Size, where: str = "") -> None:
    """Refuses a field's value whose shape is not the state's: broadcasting would hide the mistake.

    Raises:
        StateError: The shapes differ.
    """
    if value.shape != shape:
        raise StateError(
            f"the field returned shape {tuple(value.shape)}{where} where the state has {tuple(shape)}; "
            "dy/dt must have the shape of y"
        )


def check_dtype(state: Tensor) -> None:
    """Refuses states that cannot be integrated.

    Raises:
        StateError: The dtype is not floating point.
    """
    if not state.is_floating_point():
        raise StateError(f"the state must be floating point; got {state.dtype}. Convert it, e.g. y0.float()")
