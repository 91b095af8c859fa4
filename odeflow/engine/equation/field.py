"""Wrappers of the vector field during a solve."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

from odeflow.engine.equation.state import Field
from odeflow.errors import StateError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Mixed:
    """A field in mixed precision, whose values are cast to the state's dtype.

    Attributes:
        field: The vector field.
        device: Type of the device.
        dtype: The autocast dtype while the field is evaluated; None for no autocast. The solver's own arithmetic never
            uses autocast.
    """

    field: Field
    device: str
    dtype: torch.dtype | None

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The vector field in y's dtype.

        Raises:
            StateError: The value is complex.
        """
        if self.dtype is None:
            slope = self.field(t, y)
        else:
            with torch.autocast(self.device, dtype=self.dtype):
                slope = self.field(t, y)
        if not isinstance(slope, Tensor) or slope.dtype == y.dtype:  # pyright: ignore[reportUnnecessaryIsInstance]
            return slope
        if slope.is_complex():
            raise StateError(
                f"the field returned {slope.dtype} where the state has {y.dtype}; solve for torch.view_as_real of a "
                "complex state, with a field of that"
            )
        return slope.to(y.dtype)


def mixed(field: Field, like: Tensor) -> Field:
    """The field evaluated under the current autocast state of the device of `like`."""
    device = like.device.type
    return Mixed(field, device, torch.get_autocast_dtype(device) if autocasts(device) else None)


def autocasts(device: str) -> bool:
    """Whether autocast is enabled on a type of device."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def entering(leaf: Tensor) -> Tensor:
    """A leaf of the initial state: one in the reduced precision of autocast is cast to float32."""
    device = leaf.device.type
    lowered = autocasts(device) and leaf.dtype == torch.get_autocast_dtype(device)
    return leaf.float() if lowered else leaf


@contextmanager
def full_precision(like: Tensor) -> Generator[None]:
    """Disables autocast, so that sums of states and stage derivatives are not rounded to its dtype.

    Autocast caches the parameters cast in a `Mixed` field. A copy made without autograd has no gradient, and one whose
    graph was freed has none left. The cache is therefore cleared at both ends.
    """
    device = like.device.type
    torch.clear_autocast_cache()
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        yield
    torch.clear_autocast_cache()


def recorder() -> str | None:
    """The function of torch that records the operations of its caller; None without one."""
    if torch.compiler.is_exporting():
        return "torch.export"
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return "torch.jit.trace"
    return "torch.compile" if torch.compiler.is_compiling() else None


def transformed() -> bool:
    """Whether the caller is part of a function that `torch.func` transforms."""
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]


def parameters_of(module: nn.Module) -> list[Tensor]:
    """The parameters of a module, or of its replica in `nn.DataParallel`, which `Module.parameters` does not list."""
    replicas: list[dict[str, Tensor | None]] = [getattr(each, "_former_parameters", {}) for each in module.modules()]
    return [*module.parameters(), *(param for each in replicas for param in each.values() if param is not None)]


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, excluded from tracing by `torch.compile`.

    Its steps depend on values, so that a graph would be specific to one solve. Functions that it calls and that were
    compiled themselves, such as a field, run compiled. `torch.compiler.disable` imports the compiler, so it is applied
    lazily.
    """

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if recorder() == "torch.compile":
            return cast(Callable[P, R], torch.compiler.disable(function))(*args, **kwargs)
        return function(*args, **kwargs)

    return called


@contextmanager
def outside_inference() -> Generator[None]:
    """Disables autograd, but leaves `torch.inference_mode`, so that a field can differentiate internally.

    Energies, divergences and the Jacobians of implicit steps are differentiated with respect to the state, under
    `torch.enable_grad()`, whether or not the solve is. Tensors from outside must be converted by `usual`.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield


def usual(value: Any) -> Any:
    """Converts inference tensors to tensors that autograd can save; returns anything else unchanged."""
    if isinstance(value, tuple):
        return tuple(usual(each) for each in cast(tuple[Any, ...], value))
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


class Counted:
    """A field that counts its evaluations.

    Args:
        field: The vector field.
    """

    def __init__(self, field: Field) -> None:
        self.field = field
        self.evaluations = 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.evaluations += 1
        return self.field(t, y)


class SameNoise:
    """A random field, such as one with dropout, that draws the same numbers at every evaluation of a solve.

    Otherwise the solver would integrate a different field at each stage, and again in the backward pass. A field
    that draws no random numbers at its first evaluation is not affected.

    Args:
        field: The vector field.
    """

    def __init__(self, field: Field) -> None:
        self.field = field
        self.draws: bool | None = None
        self.start: list[Tensor] = []

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        if self.draws is False:
            return self.field(t, y)
        before = _generator_states(y.device)
        if self.draws is None:
            slope = self._first(t, y)
            after = _generator_states(y.device)
            self.draws = not all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
            self.start = before if self.draws else []
            return slope
        _set_generator_states(y.device, self.start)
        try:
            return self.field(t, y)
        finally:
            _set_generator_states(y.device, before)

    def _first(self, t: Tensor, y: Tensor) -> Tensor:
        try:
            return self.field(t, y)
        except RuntimeError as problem:
            if not torch.is_grad_enabled() and "does not require grad" in str(problem):
                problem.add_note(
                    "Fields are evaluated without autograd where the solve needs none, as in validation. A field that "
                    "differentiates, such as an energy, must do so in `with torch.enable_grad():`, with "
                    "create_graph=True, and by y.detach().requires_grad_() where y requires no gradient."
                )
            raise


def _generator_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_generator_states(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
