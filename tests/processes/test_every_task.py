"""Two processes train as one does: each task with each gradient has the same losses, gradients, weights and metrics."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES, ROWS
from torch import Tensor

import odeflow as of
from odeflow.plugin import registry
from odeflow.training.callbacks.statistics import COUNTS

GRADIENTS = ("Backprop", "Checkpointed", "Adjoint", "Reversible", "InterpolatedAdjoint")
STATISTICS = ("nfe/", "steps/", "step_size/", "val/nfe")
"""Beginnings of the metrics that tell of solves, not of results."""
Row = tuple[str, str]


def brief_rows() -> list[Row]:
    """Every case with one gradient, each gradient in turn."""
    turn = cycle(GRADIENTS)
    found = []
    for name, case in CASES.items():
        wanted = next(each for each in turn if each in case.gradients) if case.gradients else ""
        found.append((name, wanted))
    return found


@dataclass(frozen=True)
class Table:
    """What trainings of rows were, in one process and in each of two."""

    alone: dict[Row, dict[str, Any]]
    together: list[dict[Row, dict[str, Any]]]
    sharded: list[dict[str, dict[str, float | str]]]

    def losses(self, row: Row) -> Tensor:
        """The mean of the losses of both processes."""
        losses, weights = (
            torch.tensor([one[row][name] for one in self.together], dtype=torch.float64)
            for name in ("losses", "weights")
        )
        return (losses * weights).sum(0) / weights.sum(0)


def run(folder: Path, dtype: str, steps: int, rows: list[Row], patience: int) -> Table:
    """Starts both processes; they end by themselves after `patience` seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), *sys.path])
    both = {"TORCHELASTIC_RUN_ID": "table", "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    both |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PATIENCE": str(patience), "PYTHONPATH": paths}
    words = [sys.executable, str(here / "program.py"), str(folder), dtype, str(steps), *map(":".join, rows)]
    started = [
        subprocess.Popen(
            words,
            env={**os.environ, **both, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for each in started:
        _, said = each.communicate()
        assert each.returncode == 0, said[-3000:]
    alone, together, sharded = (
        [torch.load(folder / f"{kind}_{rank}.pt", weights_only=True) for rank in range(2)]
        for kind in ("alone", "together", "sharded")
    )
    return Table(alone[0] | alone[1], together, sharded)


def check(table: Table, row: Row, curve: float, weights: float) -> None:
    """The row is the same in one process and in two: its losses to one tolerance, weights and gradients to another."""
    one, (first, second) = table.alone[row], (each[row] for each in table.together)
    assert torch.equal(first["parameters"], second["parameters"])
    wanted = torch.tensor(one["losses"], dtype=torch.float64)
    torch.testing.assert_close(table.losses(row), wanted, rtol=curve, atol=curve)
    for name in ("gradient", "parameters"):
        torch.testing.assert_close(first[name], one[name], rtol=weights, atol=weights)
    names = [{name for name in each["metrics"] if not name.startswith(STATISTICS)} for each in (one, first, second)]
    assert names[0] == names[1] == names[2]
    for name in names[0] - {"train/loss"}:  # that of a step is the first process's own
        assert first["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-4, abs=1e-5, nan_ok=True), name


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Three steps of every case with one gradient each, in float64."""
    return run(tmp_path_factory.mktemp("table"), "float64", 3, brief_rows(), 250)


def test_every_task_is_in_the_table() -> None:
    """So is every gradient with each task that has one, unless the task refuses it."""
    present = {name.partition(",")[0].partition(" ")[0] for name in CASES}
    assert present == ours("task")
    assert {gradient for _, gradient in brief_rows()} == {*ours("gradient"), ""}


def ours(kind: str) -> set[str]:
    """The shipped plugins of a kind, without those of other tests."""
    return {
        name for name, cls in registry.plugins(kind).items() if cls.__module__.partition(".")[0].startswith("odeflow")
    }


@pytest.mark.parametrize("row", brief_rows(), ids=":".join)
def test_two_processes_train_as_one(brief: Table, row: Row) -> None:
    """Losses, gradients and weights agree to rounding, metrics to that of float32, also of batches divided unevenly."""
    check(brief, row, 1e-10, 1e-10)


def test_processes_are_balanced_or_not(brief: Table) -> None:
    """With fixed steps all take equally long, with adaptive ones the largest numbers exceed the means beside them."""
    for row, found in brief.together[0].items():
        metrics = found["metrics"]
        if "nfe/forward_epoch" not in metrics:
            continue
        slowest, mean = ([metrics[f"{name}_{end}"] for name in COUNTS] for end in ("max", "epoch"))
        if row[0] == "Regression of steps for each sample":
            assert slowest[0] > mean[0]
            assert 1 < metrics["nfe/imbalance"] < 2
        else:
            assert slowest == mean, row
            assert metrics["nfe/imbalance"] == 1, row


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_model_is_sharded_as_one_unit(brief: Table, gradient: str) -> None:
    """Gradients are those of the whole batch; those that need the parameters refuse a field that is a unit of its own."""
    for found in brief.sharded:
        assert found["one unit"][gradient] < 1e-14
        if gradient == "Backprop":
            assert found["field apart"][gradient] < 1e-14
        else:
            assert (
                "apply fully_shard to the whole model as one unit, not to the field" in found["field apart"][gradient]
            )


def test_a_task_is_not_sharded() -> None:
    """Lightning's strategy for that is refused in words."""
    task = CASES["Regression"].build(None)
    task._device_mesh = object()
    with pytest.raises(of.SettingError, match=r"ModelParallelStrategy shards parameters.* Use --trainer.strategy ddp"):
        task.configure_model()


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_curves_of_fifty_steps(tmp_path: Path, dtype: str, tolerance: float) -> None:
    """Every task with every gradient: fifty steps in two processes as in one."""
    table = run(tmp_path, dtype, 50, ROWS, 1800)
    wrong = {}
    for row in ROWS:
        try:
            check(table, row, tolerance, 10 * tolerance)
        except AssertionError as problem:
            wrong[row] = str(problem)
    assert not wrong, "\n".join(f"{row}: {problem}" for row, problem in wrong.items())
