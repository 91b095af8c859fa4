"""Units: the affine map from the numbers of a batch to those of the data file."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from odeflow.errors import CheckpointError, DataError

SECONDS = {
    "microseconds": 1e-6,
    "milliseconds": 1e-3,
    "seconds": 1.0,
    "minutes": 60.0,
    "hours": 3600.0,
    "days": 86_400.0,
    "weeks": 604_800.0,
    "years": 31_557_600.0,  # Julian years, of 365.25 days
}
"""Units of time in which dates and durations are counted, in seconds."""
EPOCH = " since 1970-01-01"
"""What the clock of dates ends with, after their unit."""


@dataclass(frozen=True)
class Units:
    """An affine map of each feature and of time: value in the file = shift + scale · value in a batch.

    A model sees only the numbers of its batches, so the map belongs to the model like its weights: it is fitted once,
    to the training data, and stored in the checkpoint. A single entry applies to all features.

    Attributes:
        shift: (d,) or (1,), the offset that standardisation subtracts, in the file's units.
        scale: (d,) or (1,), the factor that standardisation divides by.
        origin: The time, in the file's units, that is 0 in a batch.
        unit: The time span, in the file's units, that is 1 in a batch.
        features: (d,), the names of the features in the file; empty where they have none.
        classes: The names of the classes in the file, by their number in batches; empty where they have none.
        clock: What the file's times count, such as "days since 1970-01-01"; empty where they are mere numbers.
        target: The units of the targets; None where batches have none, or they are the same.
        condition: The units of what a density or a prediction depends on, such as covariates; likewise.

    Example:
        >>> import torch
        >>> Units(shift=(50.0,), scale=(10.0,)).restored(torch.tensor([[0.5]]))
        tensor([[55.]], dtype=torch.float64)
    """

    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    origin: float = 0.0
    unit: float = 1.0
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    clock: str = ""
    target: "Units | None" = None
    condition: "Units | None" = None

    @classmethod
    def of(cls, plain: Any) -> "Units":
        """The units stored by `plain`.

        Raises:
            CheckpointError: `plain` is malformed.
        """
        try:
            shift, scale = (tuple(float(entry) for entry in plain[name]) for name in ("shift", "scale"))
            features, classes = (tuple(str(entry) for entry in plain.get(name, ())) for name in ("features", "classes"))
            target, condition = (plain.get(name) for name in ("target", "condition"))
            return cls(
                *(shift, scale, float(plain["origin"]), float(plain["unit"]), features, classes),
                clock=str(plain.get("clock", "")),
                target=None if target is None else cls.of(target),
                condition=None if condition is None else cls.of(condition),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            raise CheckpointError(
                f"stored units must be lists shift and scale, and origin and unit; got {plain}"
            ) from problem

    def plain(self) -> dict[str, Any]:
        """The units as lists, numbers and text, for storage."""
        inner = {"target": self.target, "condition": self.condition}
        fields = asdict(replace(self, target=None, condition=None))
        stored = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
        return stored | {name: None if units is None else units.plain() for name, units in inner.items()}

    @property
    def same(self) -> bool:
        """Whether batches hold the numbers of the file."""
        mapped = replace(self, features=(), classes=(), clock="", target=None, condition=None)
        return mapped == Units() and all(units is None or units.same for units in (self.target, self.condition))

    def standardised(self, x: Tensor) -> Tensor:
        """Values in the units of batches.

        Args:
            x: (…, d), in the file's units.

        Raises:
            DataError: The units have a different number of features.
        """
        self._check(x)
        return (x - x.new_tensor(self.shift)) / x.new_tensor(self.scale)

    def restored(self, x: Tensor) -> Tensor:
        """Values in the file's units, in float64 unless the map is the identity.

        Args:
            x: (…, d), in the units of batches.

        Raises:
            DataError: The units have a different number of features.
        """
        self._check(x)
        x = x if self.same else x.double()
        return x if self.same else x * x.new_tensor(self.scale) + x.new_tensor(self.shift)

    def restored_time(self, t: Tensor) -> Tensor:
        """Times in the file's units, of any shape."""
        return t if self.same else t.double() * self.unit + self.origin

    @property
    def dates(self) -> bool:
        """Whether the file's times are dates."""
        return self.clock.endswith(EPOCH)

    def calendar(self, times: NDArray[Any]) -> NDArray[Any]:
        """Times in the file's units, of any shape, as dates (datetime64) if the file has dates."""
        if not self.dates:
            return times
        microseconds = np.rint(times * SECONDS[self.clock.removesuffix(EPOCH)] * 1e6)
        return microseconds.astype(np.int64).astype("datetime64[us]")

    def log_volume(self, size: int) -> float:
        """Σ log |scale| over the values of a sample: subtract it to convert a log-density to the file's units.

        Args:
            size: Number of values of a sample.
        """
        return math.fsum(math.log(abs(scale)) for scale in self.scale) * size / len(self.scale)

    def _check(self, x: Tensor) -> None:
        for entries in (self.shift, self.scale):
            if len(entries) not in (1, x.shape[-1]):
                raise DataError(
                    f"the model was trained on data of {len(entries)} features; these have {x.shape[-1]}. "
                    "Give data with the features that it was trained on, in their order"
                )
