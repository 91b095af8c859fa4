"""FlowOptions: what a flow does besides solving its equation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from odeflow.errors import SettingError
from odeflow.flow.regularizers import Regularizer
from odeflow.plugin.plugin import OptionGroup, check_kind


@dataclass(frozen=True)
class FlowOptions(OptionGroup):
    """The options of a `Flow`, which every task with a flow takes as `flow`.

    Attributes:
        t0: First time.
        t1: Last time; may lie before t0.
        augment: Number of dimensions appended to the state along dimension 1 (features or channels) before it is solved
            (Dupont et al. 2019). The dynamics and the results have the augmented size.
        lift: What is appended: "zero"; or "learned", a linear map of the state along dimension 1 (Massaroli et al.
            2020), which needs a `Dynamics` for its width.
        regularizers: Penalties integrated along with the state, added to the training loss.
        steer: In training the last time is drawn from (t1 − steer, t1 + steer), which makes the dynamics easier to
            solve (Ghosh et al. 2020, "STEER").
        warm_start: Begin each solve with the step that suited the beginning of the last one, instead of two
            evaluations that look for it. For adaptive solvers; results then depend, within the tolerance, on what was
            solved before.

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

    def __post_init__(self) -> None:
        check_kind("regularizers", self.regularizers, Sequence, "[Kinetic(weight=0.1)]")
        for each in self.regularizers:
            check_kind("regularizer", each, Regularizer, "Kinetic(weight=0.1)")
        object.__setattr__(self, "regularizers", tuple(self.regularizers))
        if self.augment < 0 or self.augment != int(self.augment):
            raise SettingError(f"augment must be a whole number, and not negative; got {self.augment}")
        if self.lift not in ("zero", "learned"):
            raise SettingError(f"lift must be 'zero' or 'learned'; got {self.lift!r}")

    def input_width(self, width: int) -> int:
        """The width of what a flow takes, for dynamics of this width.

        Raises:
            SettingError: Nothing is left.
        """
        if self.augment >= width:
            raise SettingError(f"flow.augment={self.augment} leaves nothing of the dynamics' width {width}")
        return width - self.augment

    def refuse(self, owner: str, **reasons: str) -> None:
        """Refuses the options that a task does not support.

        Args:
            owner: The task, for the message.
            **reasons: Why, for each of these options.

        Raises:
            SettingError: One of them is not at its default.
        """
        for name, reason in reasons.items():
            value, default = getattr(self, name), getattr(FlowOptions(), name)
            if value != default:
                raise SettingError(f"{owner} does not support flow.{name}: {reason}; leave it at {default!r}")

    def refuse_all(self, owner: str, reason: str) -> None:
        """Refuses every option, where there is no flow.

        Raises:
            SettingError: One is not at its default.
        """
        self.refuse(owner, **dict.fromkeys(vars(self), reason))
