"""Laws of the warm-up and cosine schedule."""

from itertools import pairwise

import pytest
import torch

import odeflow as of
from odeflow.training.schedule import WarmupCosine


def test_a_resumed_run_may_be_longer() -> None:
    """Its state tells how far it was, not how long the run was to be."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    short, long = WarmupCosine(optimizer, total_steps=10), WarmupCosine(optimizer, total_steps=1000)
    for _ in range(10):
        optimizer.step()
        short.step()
    long.load_state_dict(short.state_dict())
    optimizer.step()
    long.step()
    assert 0 < optimizer.param_groups[0]["lr"] < 0.1
    assert long.last_epoch == 11


def test_it_rises_then_falls_to_zero_over_the_run() -> None:
    """From lr/25 to lr at the end of the warm-up, and to zero at the last step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = WarmupCosine(optimizer, warmup=0.2)
    schedule.total_steps = 100
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(100):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.5 / 25)
    assert rates[20] == pytest.approx(0.5) == max(rates)
    assert rates[60] == pytest.approx(0.25)
    assert rates[100] == pytest.approx(0)
    assert all(later > earlier for earlier, later in pairwise(rates[:21]))
    with pytest.raises(of.SettingError, match=r"WarmupCosine: warmup must lie in \[0, 1\); got 1\.5"):
        WarmupCosine(optimizer, warmup=1.5)
