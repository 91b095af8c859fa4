"""States of optimizers and schedules: those that they wrote are taken, others are refused by what is wrong."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from odeflow.training.optimizer_state import misfit, misfit_of_schedules

OPTIMIZERS = [
    "SGD",
    "Adam",
    "AdamW",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Adamax",
    "NAdam",
    "RAdam",
    "ASGD",
    "Rprop",
    "Adafactor",
    "LBFGS",
]


def stepped(cls, model: nn.Module, **options):
    """An optimizer after two steps."""
    optimizer = cls(model.parameters(), **options)

    def loss():
        optimizer.zero_grad()
        value = model(torch.ones(2, 3)).square().sum()
        value.backward()
        return value

    for _ in range(2):
        optimizer.step(loss)
    return optimizer


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_its_own_state(model, name):
    """The state after some steps is taken, and neither it nor the parameters are changed."""
    cls = getattr(torch.optim, name)
    state = copy.deepcopy(stepped(cls, model).state_dict())
    before, weights = copy.deepcopy(state), copy.deepcopy(model.state_dict())
    assert misfit([cls(model.parameters())], [state]) is None
    torch.testing.assert_close(state, before, rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)


def _without(state):
    del state["state"][1]["exp_avg"]


def _of_other_shape(state):
    state["state"][2]["exp_avg_sq"] = torch.zeros(7)


def _of_other_type(state):
    state["state"][0]["exp_avg"] = "x"


def _without_option(state):
    del state["param_groups"][0]["betas"]


@pytest.mark.parametrize("damage", [_without, _of_other_shape, _of_other_type, _without_option])
def test_a_state_without_a_step_is_refused(model, damage):
    """A state from which the optimizer could take no step is found before it is loaded."""
    state = copy.deepcopy(stepped(torch.optim.Adam, model).state_dict())
    damage(state)
    told = misfit([torch.optim.Adam(model.parameters())], [state])
    assert told is not None
    assert told.startswith("optimizer_states[0] has a state of parameter")
    assert "from which Adam cannot take a step" in told


def test_other_parameters_are_refused(model):
    """A state of other groups, or of another number of optimizers, is refused by these numbers."""
    optimizer = stepped(torch.optim.Adam, model)
    state = optimizer.state_dict()
    assert misfit([optimizer, optimizer], [state]) == "optimizer_states holds 1 optimizers; this run has 2"
    alone = stepped(torch.optim.Adam, nn.Linear(3, 1)).state_dict()
    told = "optimizer_states[0] has groups of [2] parameters; those of this run's Adam have [4]"
    assert misfit([optimizer], [alone]) == told


SCHEDULES = {
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [1, 3]},
    "ExponentialLR": {"gamma": 0.5},
    "CosineAnnealingLR": {"T_max": 3},
    "ReduceLROnPlateau": {},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 9},
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_schedule_takes_its_own_state(model, name):
    """The state after a step is taken; one of another type is refused by its place."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = getattr(lr_scheduler, name)(optimizer, **SCHEDULES[name])
    fresh = copy.deepcopy(schedule)
    schedule.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    state = schedule.state_dict()
    assert misfit_of_schedules([fresh], [state]) is None
    assert misfit_of_schedules([fresh], [{**state, "last_epoch": "x"}]) == (
        "lr_schedulers[0]/last_epoch must be a number; got 'x'"
    )
    assert misfit_of_schedules([fresh], [{**state, "_last_lr": [0.1, 0.1]}]) == (
        "lr_schedulers[0]/_last_lr must hold 1 numbers; got [0.1, 0.1]"
    )
