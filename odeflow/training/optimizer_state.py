"""Whether optimizers and schedules can go on from the states that a checkpoint holds."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import LBFGS, Optimizer, SparseAdam

from odeflow.plugin.spec import shown
from odeflow.plugin.structure import like, mismatch

UNTRIED = (LBFGS, SparseAdam)
"""Optimizers of torch that cannot step a single parameter by a dense gradient."""
RATES = ("base_lrs", "_last_lr")
"""What schedules hold for each group of parameters."""


def misfit(optimizers: Sequence[Optimizer], states: Sequence[dict[str, Any]]) -> str | None:
    """Why optimizers cannot go on from stored states; None if they can, or if there are none.

    Args:
        optimizers: The optimizers. Those of torch try a step of each parameter by itself, others are not tried.
        states: Their states, as in a checkpoint.
    """
    if states and len(states) != len(optimizers):
        return f"optimizer_states holds {len(states)} optimizers; this run has {len(optimizers)}"
    for number, (optimizer, state) in enumerate(zip(optimizers, states, strict=False)):
        place, name = f"optimizer_states[{number}]", type(optimizer).__name__
        stored, now = (
            [len(each["params"]) for each in groups] for groups in (state["param_groups"], optimizer.param_groups)
        )
        if stored != now:
            return f"{place} has groups of {stored} parameters; those of this run's {name} have {now}"
        if not type(optimizer).__module__.startswith("torch.optim") or isinstance(optimizer, UNTRIED):
            continue
        for group, ours in zip(state["param_groups"], optimizer.param_groups, strict=True):
            for key, parameter in zip(group["params"], ours["params"], strict=True):
                if not _steps(type(optimizer), parameter, group, state["state"].get(key)):
                    return f"{place} has a state of parameter {key}, or options, from which {name} cannot take a step"
    return None


def _steps(cls: type[Any], parameter: torch.Tensor, group: dict[str, Any], state: dict[str, Any] | None) -> bool:
    """Whether an optimizer can take a step of a copy of a parameter, with a gradient of zero."""
    alone = parameter.detach().clone().requires_grad_()
    alone.grad = torch.zeros_like(alone)
    try:
        optimizer = cls([alone])
        states = {} if state is None else {0: copy.deepcopy(state)}  # the step is taken in place
        optimizer.load_state_dict({"state": states, "param_groups": [{**group, "params": [0]}]})
        optimizer.step()
    except Exception:  # of every kind, by what is missing or of another type
        return False
    return True


def misfit_of_schedules(schedules: Sequence[Any], states: Sequence[dict[str, Any]]) -> str | None:
    """Likewise, of schedules, whose states are compared with those that they have now."""
    if states and len(states) != len(schedules):
        return f"lr_schedulers holds {len(states)} schedules; this run has {len(schedules)}"
    for number, (schedule, state) in enumerate(zip(schedules, states, strict=False)):
        now, place = schedule.state_dict(), f"lr_schedulers[{number}]"
        wrong = mismatch(state, like(now), place)
        for name in RATES:
            if wrong is None and name in state and len(state[name]) != len(now.get(name, ())):
                wrong = f"{place}/{name} must hold {len(now.get(name, ()))} numbers; got {shown(state[name])}"
        if wrong is not None:
            return wrong
    return None
