"""FlowOptions: times, augmentation, penalties and other options of a flow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from odeflow.errors import SettingError
from odeflow.flow.regularizers import Regularizer
from odeflow.plugin.plugin import OptionGroup, check_kind


@dataclass(frozen=True)
class FlowOptions(OptionGroup):
    """The options of a `Flow`. Every task with a flow takes them as `flow`.

    Attributes:
        t0: First time.
        t1: Last time; may be before t0.
        augment: Number of dimensions appended to the initial state along dimension 1 (features or channels; Dupont et
            al. 2019). The dynamics and the results have the augmented size.
        lift: The appended values: "zero", or "learned", a linear map of the state along dimension 1 (Massaroli et al.
            2020), which requires a `Dynamics` for its width.
        regularizers: Penalties integrated along with the state, added to the training loss.
        steer: In training the last time is drawn uniformly from (t1 − steer, t1 + steer), which makes the learned
            dynamics easier to solve (Ghosh et al. 2020, "STEER").
        warm_start: Start each solve with the initial step size suggested by the previous solve, which saves two
            evaluations. For adaptive solvers; results then depend, within the tolerance, on previous solves.
        fallback_steps: Number of fixed steps with which a solve is repeated that exceeds the solver's `max_steps`; by
            default it fails. The result does not keep the tolerances, of which a warning is given. Solves of this kind
            are counted by `Stats.fallbacks`. For adaptive solvers with common steps.

    Raises:
        SettingError: An option is out of range.

    Example:
        >>> FlowOptions(t1=2.0, augment=1).input_width(3)
        2
    """

    t0: float = 0.0
    t1: float = 1.0
    augment: int = 0
    lift: Literal["zero", "learned"] = "zero"
    regularizers: Sequence[Regularizer] = ()
    steer: float = 0.0
    warm_start: bool = False
    fallback_steps: int | None = None

    def __post_init__(self) -> None:
        check_kind("regularizers", self.regularizers, Sequence, "[Kinetic(weight=0.1)]")
        for each in self.regularizers:
            check_kind("regularizer", each, Regularizer, "Kinetic(weight=0.1)")
        object.__setattr__(self, "regularizers", tuple(self.regularizers))
        if self.augment < 0 or self.augment != int(self.augment):
            raise SettingError(f"augment must be a whole number, and not negative; got {self.augment}")
        if self.fallback_steps is not None and self.fallback_steps < 1:
            raise SettingError(f"fallback_steps must be positive; got {self.fallback_steps}")

    def input_width(self, width: int) -> int:
        """The width of a flow's input for dynamics of this width.

        Raises:
            SettingError: The input width is not positive: `augment` is not less than `width`.
        """
        if self.augment >= width:
            raise SettingError(f"flow.augment={self.augment} leaves nothing of the dynamics' width {width}")
        return width - self.augment

    def refuse(self, owner: str, **reasons: str) -> None:
        """Rejects options that a task does not support.

        Args:
            owner: Name of the task, for the message.
            **reasons: The reason for each unsupported option.

        Raises:
            SettingError: An unsupported option differs from its default.
        """
        for name, reason in reasons.items():
            value, default = getattr(self, name), getattr(FlowOptions(), name)
            if value != default:
                raise SettingError(f"{owner} does not support flow.{name}: {reason}; leave it at {default!r}")

    def refuse_all(self, owner: str, reason: str) -> None:
        """Rejects every option, for models without a flow.

        Raises:
            SettingError: An option differs from its default.
        """
        self.refuse(owner, **dict.fromkeys(vars(self), reason))
