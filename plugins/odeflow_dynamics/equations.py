"""Equations: a vector field written as formulas."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.coefficient import Coefficient
from odeflow_dynamics.formula import FUNCTIONS, NUMBERS, Formula

RESERVED = {"t", *FUNCTIONS, *NUMBERS}


class Equations(of.Dynamics):
    """A system of ordinary differential equations, a formula for the derivative of each state.

    A formula contains the states, the parameters, the constants, the inputs and the time t by name, numbers, + − * /
    **, parentheses, and exp, log, sqrt, sin, cos, tan, tanh, abs, sigmoid, min and max.

    Args:
        equations: The time derivative of each state, by the state's name; the order is that of the state vector.
        parameters: The initial value of each learned parameter.
        constants: The value of each fixed one.
        bounds: Lower and upper bound of parameters, null where there is none. Without an entry a parameter is
            positive: [0, null].
        units: The units of parameters, for tables.
        inputs: The names of external inputs, in the order of the columns of the data's inputs.

    Attributes:
        width: The number of states.
        states: Their names.
        coefficients: The parameters by name.

    Raises:
        SettingError: A formula cannot be read, a name is unknown or used twice, or a value is out of its bounds.

    Example:
        >>> logistic = Equations({"x": "r*x*(1 - x/K)"}, parameters={"r": 0.5, "K": 10.0})
        >>> logistic(torch.tensor(0.0), torch.tensor([[5.0]])).tolist()
        [[1.25]]
    """

    def __init__(
        self,
        equations: dict[str, str],
        parameters: dict[str, float],
        constants: dict[str, float] | None = None,
        bounds: dict[str, list[float | None]] | None = None,
        units: dict[str, str] | None = None,
        inputs: list[str] | None = None,
    ) -> None:
        super().__init__()
        if not equations:
            raise of.SettingError("Equations: equations must contain a formula for each state; got none")
        self.states, self.inputs, self.width = tuple(equations), tuple(inputs or ()), len(equations)
        self.constants = dict(constants or {})
        names = [*self.states, *parameters, *self.constants, *self.inputs]
        _check_names(names, list(parameters))
        for option, given in (("bounds", bounds), ("units", units)):
            _check_known(option, given or {}, list(parameters))
        self.formulas = {
            state: Formula(f"Equations: d{state}/dt", text, {*names, "t"}) for state, text in equations.items()
        }
        self.coefficients = nn.ModuleDict(
            {
                name: _coefficient(name, value, (bounds or {}).get(name, [0.0, None]), (units or {}).get(name, ""))
                for name, value in parameters.items()
            }
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, d) or, with inputs, (…, d + inputs) ↦ (…, d).

        Raises:
            StateError: The last dimension is not that of the states and inputs.
        """
        count = self.width + len(self.inputs)
        if y.dim() == 0 or y.shape[-1] != count:
            inputs = f", and inputs {', '.join(self.inputs)}" if self.inputs else ""
            raise of.StateError(
                f"Equations takes (…, {count}), of the states {', '.join(self.states)}{inputs}; got {tuple(y.shape)}"
            )
        values: dict[str, Any] = dict(zip((*self.states, *self.inputs), y.unbind(-1), strict=True))
        values |= {name: coefficient() for name, coefficient in self.coefficients.items()}
        values |= self.constants | {"t": t}
        derivatives = [formula(values) for formula in self.formulas.values()]
        return torch.stack(
            [torch.as_tensor(derivative).to(y).expand(y.shape[:-1]) for derivative in derivatives], dim=-1
        )


def _coefficient(name: str, value: float, bounds: Sequence[float | None], unit: str) -> Coefficient:
    if len(bounds) != 2:
        raise of.SettingError(f"Equations: bounds of {name} must be [low, high], null where none; got {list(bounds)}")
    try:
        return Coefficient(value, *bounds, unit=unit)
    except of.SettingError as problem:
        raise of.SettingError(
            f"Equations: {name}: {problem}. Bounds other than [0, null] are set by bounds: {{{name}: [low, high]}}"
        ) from problem


def _check_names(names: Sequence[str], parameters: Sequence[str]) -> None:
    """Rejects names that are used twice, reserved, or no words."""
    for name in names:
        if not name.isidentifier() or name in RESERVED:
            raise of.SettingError(
                f"Equations: a name is a word of letters, digits and _ other than {', '.join(sorted(RESERVED))}; got "
                f"{name!r}"
            )
        if names.count(name) > 1:
            raise of.SettingError(f"Equations: the name {name!r} is used for several quantities")
    for name in parameters:
        if hasattr(nn.ModuleDict, name):
            raise of.SettingError(f"Equations: a parameter cannot be named {name!r}; choose another name")


def _check_known(option: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Rejects options of parameters that do not exist."""
    stray = [name for name in given if name not in known]
    if stray:
        raise of.SettingError(
            f"Equations: {option} of {stray[0]}, but the parameters are {', '.join(known)}. "
            f"Name {option} of yours, or set {option}: {{}} where a recipe has others"
        )
