"""Laws of Shooting: its loss and gradients, what may move, and that it hits."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

import odeflow as of
from odeflow_data import NoData
from odeflow_dynamics import Linear, Projectile
from odeflow_solvers import RK4, Dopri5
from odeflow_tasks import Shooting

W = [[-0.1, 1.0], [-0.2, -0.1]]
NOTHING = torch.empty(0)


def shooting(**options: Any) -> Shooting:
    """At first the linear system that starts at (1, 0) and is to be at (0, ½) when t = 25."""
    given: dict[str, Any] = {"initial": [1.0, 0.0], "target": [[0.0, 0.5]], "times": [25.0]}
    dynamics = options.pop("dynamics", None) or Linear(2, bias=False, matrix=W)
    task = Shooting(dynamics, options.pop("solver", Dopri5(1e-6, 1e-6)), **(given | options))
    logged: dict[str, float] = {}
    task.log = lambda name, value, **_: logged.__setitem__(name, float(value))
    task.logged = logged
    return task


def bullet(**options: Any) -> Shooting:
    """A body that is thrown from the origin at a target without regard to its velocity there."""
    given = {"initial": [0.0, 0.0, 10.0, 10.0], "target": [[30.0, 5.0, None, None]], "times": [2.0], "free": [2, 3]}
    return shooting(dynamics=options.pop("dynamics", Projectile(drag=0.01)), **(given | options))


def search(task: Shooting, steps: int = 20) -> float:
    """The distance from the target after so many tries."""
    optimizer = torch.optim.LBFGS(task.parameters(), max_iter=1)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = task.loss(NOTHING, "train")
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(loss)
    task.loss(NOTHING, "val")
    return task.logged["val/distance"]


def test_the_linear_system_is_met() -> None:
    """From h(0) = (1, 0) the search ends within 1e-3 of h(25) = (0, ½), in the start that exp(−25 W) gives."""
    task = shooting()
    assert search(task, 12) < 1e-3
    wanted = torch.linalg.matrix_exp(-25 * torch.tensor(W)) @ torch.tensor([0.0, 0.5])
    torch.testing.assert_close(task.start.detach(), wanted, rtol=1e-2, atol=0.05)


@pytest.mark.parametrize("free_time", [False, True])
def test_the_bullet_hits(free_time: bool) -> None:
    """By its velocity, and its time of flight where that may move, within 1e-3; the place of the shot stays."""
    task = bullet(free_time=free_time)
    assert search(task) < 1e-3
    assert task.start[:2].tolist() == [0.0, 0.0]
    assert (task.start[2:].detach() - 10).abs().min() > 0.1
    assert (task.moments[-1].item() == 2.0) is not free_time


def test_a_time_alone_can_be_found() -> None:
    """A stone falls h = ½gt² in √(2h/g)."""
    task = bullet(
        dynamics=Projectile(10.0), initial=[0.0, 20.0, 0.0, 0.0], target=[[None, 0.0, None, None]], times=[1.0],
        free=[], free_time=True,
    )  # fmt: skip
    assert search(task) < 1e-3
    assert task.moments[-1].item() == pytest.approx(2.0, abs=1e-3)


def test_the_field_can_be_moved() -> None:
    """With freeze=False the dynamics' parameters move, until a body comes down after a second."""
    task = bullet(
        dynamics=Projectile(5.0), initial=[0.0, 0.0, 1.0, 4.0], target=[[None, 0.0, None, None]], times=[1.0],
        free=[], freeze=False,
    )  # fmt: skip
    assert search(task) < 1e-3
    assert task.flow.dynamics.gravity().item() > 5.1


def test_the_loss_is_the_weighted_sum_of_squares() -> None:
    """Over all targets and entries that count; the distance is the largest, without weights."""
    still = Linear(2, bias=False, matrix=[[0.0, 0.0], [0.0, 0.0]])
    task = shooting(
        dynamics=still, target=[[4.0, 4.0], [None, 1.0]], times=[1.0, 2.0], weights=[1.0, 10.0], initial=[1.0, 0.0]
    )
    assert task.loss(NOTHING, "val").item() == pytest.approx(9 + 160 + 10)
    assert task.logged["val/distance"] == pytest.approx(5.0)


def test_gradients_agree_with_differences() -> None:
    """∂L/∂(start, duration, field) are those of finite differences."""
    task = bullet(free_time=True, freeze=False, solver=RK4(num_steps=20)).double()
    task.loss(NOTHING, "val").backward()
    for param in task.parameters():
        for place in range(param.numel()):
            losses = []
            for side in (1, -1):
                with torch.no_grad():
                    param.view(-1)[place] += side * 1e-5
                    losses.append(task.loss(NOTHING, "val").item())
                    param.view(-1)[place] -= side * 1e-5
            difference = (losses[0] - losses[1]) / 2e-5
            assert param.grad.view(-1)[place].item() == pytest.approx(difference, rel=1e-4)


def test_time_may_run_backwards() -> None:
    """A target before t0 is met too, and a free time stays before it."""
    task = shooting(times=[-2.0], target=[[1.0, 1.0]], free_time=True)
    assert search(task) < 1e-3
    assert task.moments[-1] < 0


@pytest.mark.parametrize(
    ("dynamics", "target"), [(None, [[0.0, 0.5]]), (Linear(1), [[0.5]]), (Projectile(), [[30.0, 5.0, None, None]])]
)
def test_paths_are_drawn(dynamics: of.Dynamics | None, target: list[list[float | None]]) -> None:
    """First, intermediate and present path with their starts, the target, and the distance of each try."""
    size = len(target[0])
    task = shooting(dynamics=dynamics, initial=[1.0] * size, target=target, times=[2.0])
    search(task, 5)
    figure = task.figures(NOTHING)["paths"]
    figure.savefig(io.BytesIO(), dpi=30)
    paths, distances = figure.axes
    named = [text.get_text() for text in paths.get_legend().get_texts()]
    assert named == ["first", "after 1", "after 2", "after 4", "now, after 5", "start", "target"]
    assert len(distances.lines[0].get_xdata()) == 5
    cross = [line for line in paths.lines if line.get_marker() == "x"]
    assert len(cross) == 1
    assert paths.get_xlabel() == ("$t$" if size == 1 else "$y_1$")
    path = task.predict_step(NOTHING, 0)
    assert path.shape == (201, 1 + size)
    torch.testing.assert_close(path[-1, 1:], task()[-1].detach(), rtol=1e-4, atol=1e-4)


def test_no_data_are_so_many_batches_of_nothing() -> None:
    """An epoch of training has `steps` of them, the others one."""
    data = NoData(steps=3)
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader())
    assert [len(list(loader)) for loader in loaders] == [3, 1, 1, 1]
    assert all(batch.numel() == 0 for batch in loaders[0])
    with pytest.raises(of.SettingError, match="steps must be at least 1; got 0"):
        NoData(steps=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: shooting(initial=[1.0]), r"initial must have 2 entries, the dynamics' width; got 1: \[1.0\]"),
        (lambda: shooting(target=[[1.0]]), r"target\[0\] must have 2 entries"),
        (lambda: shooting(weights=[1.0]), "weights must have 2 entries"),
        (lambda: shooting(times=[1.0, 2.0]), "a target for each time; got 1 and 2"),
        (lambda: shooting(times=[], target=[]), "a target for each time; got 0 and 0"),
        (lambda: shooting(times=[0.0]), "times must lead away from t0 = 0, in order"),
        (lambda: shooting(free=[2]), r"free must name different entries from 0 to 1; got \[2\]"),
        (lambda: shooting(plane=(1, 1)), r"plane must name different entries from 0 to 1; got \(1, 1\)"),
        (lambda: shooting(free=[]), "nothing may move. Set free, free_time=True, or freeze=False"),
        (lambda: shooting(target=[[None, None]]), "no entry of the target counts"),
    ],
)
def test_senseless_settings_are_refused(make: Callable[[], Shooting], message: str) -> None:
    """Options that contradict each other are refused with what came."""
    with pytest.raises(of.SettingError, match=message):
        make()
