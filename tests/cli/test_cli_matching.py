"""Matched flows on the command line: their weights go on by likelihood, and back."""

from pathlib import Path

import pytest
import torch

import odeflow as of

SMALL = "--model.solver RK4 --model.solver.num_steps 2 --data.samples 600 --data.val_size 100"


def weights(folder: str) -> dict[str, torch.Tensor]:
    return torch.load(Path(folder) / "checkpoints/last.ckpt", weights_only=False)["state_dict"]


def test_a_matched_flow_goes_on_by_likelihood_and_back(done, brief, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--weights` of one task begins the other: without a step of training, the weights are the same."""
    monkeypatch.setattr("odeflow_tasks.density_figures.draw", lambda *_: {})
    done(f"fit -c matching/two_moons --model.transport 50 {SMALL} {brief}")
    matched, still = "runs/matching/two_moons/version_0", "--optimizer.lr 1e-12"
    net = "--model.dynamics ResidualMLP --model.dynamics.hidden 64"
    done(f"fit -c density/two_moons {net} --weights {matched}/checkpoints/last.ckpt {SMALL} {brief} {still}")
    likely = "runs/density/two_moons/version_0"
    first, second = weights(matched), weights(likely)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name]) for name in first)
    done(f"fit -c matching/two_moons --weights {likely}/checkpoints/last.ckpt {SMALL} {brief} {still}")
    third = of.load("runs/matching/two_moons/version_1/checkpoints/last.ckpt").state_dict()
    assert all(torch.allclose(first[name], third[name]) for name in first)
