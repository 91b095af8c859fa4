"""Brownian: Brownian motion as a path, fixed by a seed."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from odeflow.errors import SettingError
from odeflow.paths.path import Path

WORD = 0xFFFFFFFF


class Brownian(Path):
    """Brownian motion W from W(t₀) = 0, with independent entries of unit variance per unit of time.

    It is pure: a seed fixes the whole path, and the same question has the same answer, whatever was asked before. So
    steps can be rejected, repeated and rerun in a backward pass, and no noise is stored. Two forms have this law:
    `BrownianGrid` knows the steps beforehand and is fast, `BrownianTree` answers for any times.

    Besides increments, methods of higher order use the space–time Lévy area of a step of size h,

        H = 1/h ∫ (W(s) − W(t₀) − (s − t₀)/h (W(t₁) − W(t₀))) ds,

    which is normal with variance h/12 and independent of the increment.

    Source: Foster, Oberhauser & Lyons (2020), "An optimal polynomial approximation of Brownian motion".

    Args:
        seed: The seed, any whole number. Equal seeds and shapes have equal paths.
        shape: The shape of W(t), with the batch as dimension 0.
        dtype: The dtype of the increments; by default PyTorch's.
        device: Their device. CPUs and GPUs have different random numbers.
    """

    def __init__(
        self,
        seed: int,
        shape: Sequence[int],
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.seed, self.shape, self.dtype = seed, torch.Size(shape), dtype or torch.get_default_dtype()
        self.device, self.generator = torch.device(device), torch.Generator(device)
        self.start = scrambled(seed & (1 << 64) - 1 if seed < 1 << 64 else hash(seed))

    @abstractmethod
    def __call__(self, t: Tensor | float) -> Tensor:
        """W(t), for a time common to all samples."""

    def derivative(self, t: Tensor) -> Tensor:
        """There is none.

        Raises:
            SettingError: Always.
        """
        raise SettingError(
            "Brownian motion has no derivative: give it to a stochastic equation, as solve(field, …, noise=path)"
        )

    @abstractmethod
    def increment(self, t0: Tensor | float, t1: Tensor | float) -> Tensor:
        """W(t₁) − W(t₀), of the path's shape, for times common to all samples."""

    @abstractmethod
    def increment_and_area(self, t0: Tensor | float, t1: Tensor | float) -> tuple[Tensor, Tensor]:
        """W(t₁) − W(t₀) and the space–time Lévy area H of this interval, both of the path's shape."""

    def draw(self, number: int, *lead: int, dtype: torch.dtype | None = None) -> Tensor:
        """(*lead, *shape), the standard normal numbers of a place in the path, the same at every call.

        Args:
            number: The place. The first 2³² have different seeds, as many as generators on a CPU have.
            *lead: Further dimensions in front.
            dtype: The dtype; by default the path's.
        """
        self.generator.manual_seed(permuted((self.start + number) & WORD))
        return torch.randn(
            (*lead, *self.shape), generator=self.generator, dtype=dtype or self.dtype, device=self.device
        )


def single_time(t: Tensor | float) -> float:
    """A time as a number.

    Raises:
        SettingError: There are several times.
    """
    if isinstance(t, Tensor) and t.numel() != 1:
        raise SettingError(f"Brownian paths have one time for all samples; got times of shape {tuple(t.shape)}")
    return float(t)


def scrambled(seed: int) -> int:
    """A number below 2³² in which every bit depends on every bit of a seed of 64 (Steele et al. 2014, "SplitMix")."""
    word = (seed + 0x9E3779B97F4A7C15) & (1 << 64) - 1
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & (1 << 64) - 1
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) & (1 << 64) - 1
    return (word ^ word >> 31) >> 32


def permuted(word: int) -> int:
    """A permutation of the numbers below 2³² without visible order (the last steps of MurmurHash3)."""
    word = ((word ^ word >> 16) * 0x85EBCA6B) & WORD
    word = ((word ^ word >> 13) * 0xC2B2AE35) & WORD
    return word ^ word >> 16
