"""FromData: a second data set as the source of a flow."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints

import odeflow as of
from odeflow_tasks.base import Base
from odeflow_tasks.batch import inputs


class FromData(Base):
    """The rows of a data set's training part, drawn at random: a flow from one data set to another.

    The rows become part of the checkpoint. If the data know their density, as `ToyDensity`, the flow has a likelihood;
    otherwise it maps samples only.

    Args:
        data: Vectors of the length of the flow's data. Batches may be pairs, of which the second entry is left out.

    Raises:
        SettingError: The lengths differ.
        DataError: The data do not offer their training part.

    Attributes:
        known: Whether the density of the source is known.
    """

    rows: Tensor

    def __init__(self, data: of.DataModule) -> None:
        super().__init__()
        self.data, self.known = data, type(data).log_density is not of.DataModule.log_density

    def build(self, dim: int) -> None:
        shape = self.data.input_shape
        if shape != (dim,):
            raise of.SettingError(
                f"FromData: a flow needs a source of the length of its data, {dim}; {type(self.data).__name__} has the "
                f"shape {shape}"
            )
        self.register_buffer("rows", torch.zeros(1, dim))
        self.register_load_state_dict_pre_hook(self._resize)

    def fit(self, z: Tensor) -> None:
        """Reads the source; the flow's data play no part."""
        self.data.prepare_data()
        self.data.setup("fit")
        part: Any = inputs(self.data.training_part())
        if not isinstance(part, Tensor):
            raise of.DataError(f"FromData needs data that offer their training part; {type(self.data).__name__} do not")
        self.rows, self.fitted = part.to(self.rows), torch.ones_like(self.fitted)

    def forward(self) -> Distribution:
        return _Rows(self.rows, self.data.log_density)

    def _resize(self, module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Makes room for the rows of a checkpoint, before they are read."""
        if f"{prefix}rows" in state_dict:
            self.rows = torch.empty_like(state_dict[f"{prefix}rows"], device=self.rows.device)


class _Rows(Distribution):
    """Rows (N, d), each as likely as the other, with the density of what they were drawn from."""

    def __init__(self, rows: Tensor, log_density: Callable[[Tensor], Tensor | None]) -> None:
        self.rows, self.log_density = rows, log_density
        super().__init__(Size(), rows.shape[1:], validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """No constraints."""
        return {}

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(*sample_shape, d)."""
        return self.rows[torch.randint(len(self.rows), Size(sample_shape), device=self.rows.device)]

    def log_prob(self, value: Tensor) -> Tensor:
        """(…), in nats.

        Raises:
            StateError: The density is not known.
        """
        found = self.log_density(value)
        if found is None:
            raise of.StateError("the source of this flow is data whose density is not known, so it has no likelihood")
        return found
