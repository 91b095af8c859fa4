"""The state: one Tensor, or a tuple of Tensors that is packed into one at the boundary of the engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import TypeVar

from odeflow.errors import StateError

State = Tensor | tuple[Tensor, ...]
S = TypeVar("S", bound=State, default=Tensor)
Field = Callable[[Tensor, Tensor], Tensor]
"""dy/dt = field(t, y), on one Tensor: t of shape () or, per sample, (B,); y and the result of the same shape."""


@dataclass(frozen=True)
class Packing:
    """Packs a tuple of Tensors into one flat Tensor and back, so that solvers handle single Tensors only.

    Attributes:
        shapes: Shapes of the tensors; per-sample shapes if the packing keeps the batch dimension.
    """

    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, state: tuple[Tensor, ...], per_sample: bool = False) -> "Packing":
        """The packing of states like this one.

        Args:
            state: The tensors.
            per_sample: Whether to keep dimension 0, the batch, in the packed state.

        Raises:
            StateError: The tuple is empty, its tensors differ in dtype or device, or, with `per_sample`, have no common
                batch dimension.
        """
        if not state:
            raise StateError("the state is an empty tuple; give at least one Tensor")
        kinds = {(leaf.dtype, leaf.device) for leaf in state}
        if len(kinds) > 1:
            listed = ", ".join(f"{leaf.dtype} on {leaf.device}" for leaf in state)
            raise StateError(f"the tensors of a tuple state must share dtype and device; got {listed}")
        if per_sample and (any(leaf.dim() == 0 for leaf in state) or len({len(leaf) for leaf in state}) > 1):
            listed = ", ".join(str(tuple(leaf.shape)) for leaf in state)
            raise StateError(f"per_sample=True needs the samples along dimension 0 of all tensors; got shapes {listed}")
        return cls(tuple(leaf.shape[per_sample:] for leaf in state))

    def pack(self, state: tuple[Tensor, ...]) -> Tensor:
        """(size,), or (B, size) with the batch dimension, where size is the sum of the leaves' sizes."""
        lead = state[0].shape[: state[0].dim() - len(self.shapes[0])]
        parts = zip(state, self.shapes, strict=True)
        return torch.cat([leaf.reshape(*lead, shape.numel()) for leaf, shape in parts], dim=-1)

    def unpack(self, packed: Tensor) -> tuple[Tensor, ...]:
        """The leaves of (…, size). Leading dimensions, such as time, are kept."""
        lead = packed.shape[:-1]
        parts = packed.split([shape.numel() for shape in self.shapes], dim=-1)
        return tuple(part.reshape(lead + shape) for part, shape in zip(parts, self.shapes, strict=True))


@dataclass(frozen=True)
class PackedField:
    """A field of tuples, on packed states.

    Attributes:
        packing: Packs and unpacks.
        field: (t, tuple of states) ↦ tuple of derivatives.
    """

    packing: Packing
    field: Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The packed value of the field.

        Raises:
            StateError: The field's value is not a tuple of tensors with the state's shapes.
        """
        value, shapes = self.field(t, self.packing.unpack(y)), self.packing.shapes
        if not isinstance(value, (tuple, list)) or len(value) != len(shapes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StateError(
                f"the state is a tuple of {len(shapes)} tensors, so the field must return such a tuple; "
                f"it returned {type(value).__name__}"
            )
        for number, (leaf, shape) in enumerate(zip(value, shapes, strict=True)):
            check_shape(leaf, y.shape[:-1] + shape, f" for leaf {number} of the state")
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


def beside(values: Tensor, y: Tensor) -> Tensor:
    """Values over y's leading dimensions, on its device, broadcastable with it."""
    return values.to(y.device).reshape((*values.shape, *(1,) * (y.dim() - values.dim())))


def check_shape(value: object, shape: torch.Size, where: str = "") -> None:
    """Rejects a value of the field whose shape differs from the state's: broadcasting would hide the mistake.

    Raises:
        StateError: The shapes differ, or the value is not a Tensor.
    """
    if not isinstance(value, Tensor):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise StateError(f"the field returned {kind}{where}; it must return dy/dt, a Tensor of shape {tuple(shape)}")
    if value.shape != shape:
        raise StateError(
            f"the field returned shape {tuple(value.shape)}{where} where the state has {tuple(shape)}; "
            "dy/dt must have the shape of y"
        )


def check_dtype(state: Tensor) -> None:
    """Rejects states that are not floating point.

    Raises:
        StateError: The dtype is not floating point.
    """
    if state.is_complex():
        raise StateError(
            f"the state must be floating point; got {state.dtype}. Solve for its real and imaginary parts, as "
            "torch.view_as_real(y0)"
        )
    if not state.is_floating_point():
        raise StateError(f"the state must be floating point; got {state.dtype}. Convert it, e.g. y0.float()")
