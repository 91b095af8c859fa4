"""What surrounds a forward pass and must be there again when parts of it are run in the backward pass."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from odeflow.state import Field


class Autocast:
    """The state of autocast where this object is made, on a tensor's device.

    Args:
        like: Says which device.
    """

    def __init__(self, like: Tensor) -> None:
        self.device = like.device.type
        self.enabled = torch.is_autocast_enabled(self.device)
        self.dtype = torch.get_autocast_dtype(self.device)

    @contextmanager
    def again(self) -> Generator[None]:
        """The same state once more.

        Autocast caches the parameters that it has cast. A copy made without autograd carries no gradient, so none
        is kept beyond the part that made it.
        """
        torch.clear_autocast_cache()
        with torch.autocast(self.device, dtype=self.dtype, enabled=self.enabled):
            yield
        torch.clear_autocast_cache()


class SameNoise:
    """A field that draws random numbers, such as dropout, and draws the same ones at every evaluation of a solve.

    Otherwise the solver would integrate another field at each stage, and the backward pass yet another. A field
    that draws none at its first evaluation is left alone.

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
            slope = self.field(t, y)
            after = _generator_states(y.device)
            self.draws = not all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
            self.start = before if self.draws else []
            return slope
        _set_generator_states(y.device, self.start)
        try:
            return self.field(t, y)
        finally:
            _set_generator_states(y.device, before)


def _generator_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_generator_states(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
