"""Laws of Trajectory's segments, learned states and forecasts."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

import odeflow as of
from odeflow_data import Simulated
from odeflow_dynamics import MLP, Coefficient, Cubic, DampedPendulum, Linear, Sum
from odeflow_solvers import RK4, Dopri5
from odeflow_tasks import Initial, Trajectory
from odeflow_tasks.drawing import PREDICTION, TRUTH
from odeflow_tasks.segments import Segments

SPIRAL = [[-0.1, 2.0], [-2.0, -0.1]]


def quiet(task: Trajectory) -> Trajectory:
    """The task, which keeps what it logs in `logged` instead of asking for a trainer."""
    logged: dict[str, float] = {}
    task.log = lambda name, value, **_: logged.__setitem__(
        name, float(value.compute() if isinstance(value, Metric) else value)
    )
    task.logged = logged
    return task


def fitting(field: of.Dynamics, **options: Any) -> Trajectory:
    return quiet(Trajectory(field, RK4(step_size=0.1), **options))


def noisy(count: int = 13, size: int = 2) -> of.Series:
    """Irregular times, and values that no smooth field explains."""
    torch.manual_seed(1)
    return of.Series.observed(torch.rand(count).cumsum(0), torch.randn(count, size, 2).movedim(0, 1))


def learn(task: Trajectory, batch: of.Series, steps: int, rate: float = 0.05) -> None:
    optimizer = torch.optim.Adam(task.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(batch, "train").backward()
        optimizer.step()
        schedule.step()


def simulated(field: of.Dynamics, start: list[float], **options: Any) -> of.Series:
    data = Simulated(field, [start], **options)
    data.setup("fit")
    return data.observed


@pytest.mark.parametrize("initial", ["observed", "learned"])
@pytest.mark.parametrize("distance", ["mae", "mse"])
def test_one_segment_is_the_whole(initial: str, distance: str) -> None:
    """A segment of all observations has the loss, and the gradients, of no segments at all."""
    batch = noisy()
    torch.manual_seed(0)
    field, results = MLP(2, [5]), []
    for segment in (None, 13, 40):
        task = fitting(copy.deepcopy(field), distance=distance, segment=segment, initial=Initial(initial))
        loss = task.loss(batch, "train")
        results.append([loss, *torch.autograd.grad(loss, list(task.parameters()))])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@pytest.mark.parametrize("segment", [2, 4, 5])
def test_segments_are_solved_from_their_own_states_and_times(segment: int) -> None:
    """On irregular times, by a field that sees the time, the loss is that of the segments solved one by one."""
    batch = noisy()
    t, y = batch.t[0], batch.y.movedim(0, 1)
    torch.manual_seed(0)
    field = MLP(2, [5])
    task = quiet(Trajectory(field, Dopri5(1e-6, 1e-6), distance="mse", segment=segment))
    errors = []
    for first in range(0, 12, segment - 1):
        rows = slice(first, min(first + segment, 13))
        solved = of.solve(field, y[first], t[rows], solver=Dopri5(1e-6, 1e-6)).y
        errors.append((solved - y[rows]).square())
    torch.testing.assert_close(task.loss(batch, "train"), torch.cat(errors).mean(), rtol=1e-4, atol=0)


def test_the_grid_has_each_time_once() -> None:
    """Times counted from the segments' beginnings that differ by rounding alone are one; no row is lost."""
    t = torch.tensor([0, 1, 2, 4, 5, 6, 7]) / 6 + 50
    segments = Segments.cut(t[None], 3)
    assert segments.rows.T.tolist() == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    torch.testing.assert_close(segments.grid, torch.tensor([0, 1, 2, 3]) / 6, atol=2e-5, rtol=0)
    assert segments.places[..., 0].T.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]
    assert bool(segments.inside.all())
    assert Segments.cut(t[None], 6).inside.T.tolist() == [[True] * 6, [True] * 2 + [False] * 4]


def test_time_may_run_backwards() -> None:
    """Trajectories observed from late to early have the loss of their mirror images, cut or whole."""
    batch = noisy()
    for segment in (None, 4):
        task = fitting(Linear(2, bias=False, matrix=[[0.0, 1.0], [-1.0, 0.0]]), segment=segment)
        mirrored = fitting(Linear(2, bias=False, matrix=[[0.0, -1.0], [1.0, 0.0]]), segment=segment)
        loss = task.loss(batch._replace(t=-batch.t), "train")
        torch.testing.assert_close(loss, mirrored.loss(batch, "train"))


def test_one_observation_is_too_few() -> None:
    """A trajectory of one observation is an error that says so."""
    with pytest.raises(of.DataError, match="needs two observations at least; got 1"):
        fitting(MLP(2)).loss(of.Series.observed(torch.zeros(1), torch.zeros(1, 1, 2)), "train")


def test_learned_states_begin_where_they_were_observed() -> None:
    """At first the loss is that of observed states, and what the continuity adds to it."""
    batch = noisy()
    torch.manual_seed(0)
    field = MLP(2, [5])
    plain = fitting(field, distance="mse", segment=4).loss(batch, "train")
    for weight in (0.0, 3.0):
        task = fitting(field, distance="mse", segment=4, initial=Initial("learned"), continuity=weight)
        loss = task.loss(batch, "train")
        segments, states = task.cut(batch)
        torch.testing.assert_close(states, batch.y[:, [0, 3, 6, 9]].movedim(0, 1))
        gaps = (task.solved(segments, states)[-1, :-1] - states[1:]) / batch.y.flatten(0, 1).std(0)
        torch.testing.assert_close(loss, plain + weight * gaps.square().mean())


def test_learned_states_are_smoother_than_observed_ones() -> None:
    """Where the field is known, the learned state is that of least squares: nearer to the truth than the noisy one."""
    spin = Linear(2, bias=False, matrix=[[0.0, 1.0], [-1.0, 0.0]], trainable=False)
    batch = simulated(copy.deepcopy(spin), [1.0, 0.0], t1=6.0, observations=61, noise=0.3)
    task = fitting(spin, distance="mse", initial=Initial("learned"), continuity=0.0)
    learn(task, batch, 60, rate=0.1)
    t = batch.t[0]
    turn = torch.stack([torch.stack([t.cos(), t.sin()], 1), torch.stack([-t.sin(), t.cos()], 1)], 1)  # (T, 2, 2)
    least = torch.linalg.lstsq(turn.reshape(-1, 2), batch.y[0].reshape(-1, 1)).solution[:, 0]
    (state,) = task.initial.best(batch).detach()
    torch.testing.assert_close(state, least, atol=2e-2, rtol=0)
    truth = torch.tensor([1.0, 0.0])
    assert (state - truth).norm() < 0.5 * (batch.y[0, 0] - truth).norm()


def test_learned_states_are_kept_and_forecast_from() -> None:
    """A checkpoint rebuilds the learned states; a test that begins where training ended starts from what was learned."""
    batch = noisy()
    task = fitting(MLP(2, [5]), segment=4, initial=Initial("learned"))
    learn(task, batch, 2)
    again = fitting(MLP(2, [5]), segment=4, initial=Initial("learned"))
    again.load_state_dict(task.state_dict())
    torch.testing.assert_close(again.loss(batch, "val"), task.loss(batch, "val"))
    end = of.Series.observed(torch.tensor([0.0, 1.0]), batch.y[:, [-1, 0]])
    torch.testing.assert_close(again.predict_step(end, 0)[:, 0], task.initial.final)
    other = end._replace(y=end.y + 1)
    torch.testing.assert_close(again.predict_step(other, 0)[:, 0], other.y[:, 0])
    with pytest.raises(of.DataError, match="belong to trajectories that are the same in every batch"):
        again.loss(batch._replace(y=batch.y + 1), "train")


def test_a_test_compares_with_persistence() -> None:
    """Both errors are mean absolute ones over the times after the first."""
    still = fitting(Linear(2, bias=False, matrix=[[0.0, 0.0], [0.0, 0.0]]))
    t, y = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 3.0])[None, :, None].expand(2, 3, 2)
    batch = of.Series.observed(t, y, first_only=True)
    still.loss(batch, "test")
    still.on_test_epoch_end()
    assert still.logged == {"test/forecast_mae": 2.0, "test/persistence_mae": 2.0}


def test_forecasts_are_validated_as_a_whole() -> None:
    """Where the first state alone is seen there are no segments, in validation as in the figure."""
    batch = noisy()
    task = fitting(MLP(2, [5]), segment=4)
    unseen = batch._replace(seen=batch.seen & (torch.arange(13) == 0)[:, None])
    assert not torch.equal(task.loss(batch, "val"), task.loss(unseen, "val"))
    torch.testing.assert_close(task.loss(unseen, "val"), task.loss(unseen, "test"))
    assert list(task.figures(unseen)) == ["phase_portrait"]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_forecasts_are_drawn(width: int) -> None:
    """After a test there is the forecast beside truth and persistence; with extrapolate also its further course."""
    task = fitting(MLP(width, [4]), extrapolate=9.0, segment=3, initial=Initial("learned"))
    assert task.test_figures() == {}
    batch = of.Series.observed(torch.linspace(0, 1, 7), torch.randn(2, 7, width), first_only=True)
    task.loss(batch, "test")
    figures = task.test_figures() | task.figures(batch)
    for figure in figures.values():
        figure.savefig(io.BytesIO(), dpi=30)
    assert list(figures) == ["forecast", "extrapolation", "phase_portrait"]
    panels = figures["forecast"].axes
    assert [len(axes.lines) for axes in panels[:width]] == [3] * width
    assert [axes.get_title() for axes in panels[width:]] == ["phase portrait"] * (width > 1)
    for axes in panels[:width]:
        assert [line.get_color() for line in axes.lines[:2]] == [TRUTH, PREDICTION]
    labels = [text.get_text() for text in figures["forecast"].legends[0].get_texts()]
    assert labels[:3] == ["truth", "forecast", "persistence"]
    assert labels[3:] == (["start", "end"] if width > 1 else [])
    assert figures["extrapolation"].axes[0].get_title() == "until $t$ = 9"
    assert figures["extrapolation"].axes[0].lines[0].get_xdata()[-1] == 9


def values(field: of.Dynamics) -> list[Tensor]:
    """The coefficients, or the other parameters, of a field."""
    named = [each().detach() for each in field.modules() if isinstance(each, Coefficient)]
    return named or [each.detach() for each in field.parameters()]


RECOVERED: dict[str, tuple[of.Dynamics, of.Dynamics, list[float], dict[str, Any]]] = {
    "spiral": (Cubic(2, SPIRAL), Cubic(2, [[0.0, 0.0], [0.0, 0.0]]), [2.0, 0.0], {"t1": 5.0, "observations": 101}),
    "pendulum": (DampedPendulum(2.0, 0.3), DampedPendulum(), [2.0, 0.0], {"t1": 10.0, "observations": 51}),
}


@pytest.mark.parametrize("name", RECOVERED)
def test_parameters_are_recovered(name: str) -> None:
    """From a trajectory without noise the true coefficients are learned to a few percent."""
    true, field, start, options = RECOVERED[name]
    wanted = [value.clone() for value in values(true)]
    batch = simulated(true, start, **options)
    learn(fitting(field, distance="mse", segment=6), batch, 120, rate=0.1)
    for found, value in zip(values(field), wanted, strict=True):
        torch.testing.assert_close(found, value.float(), atol=0.03, rtol=0.02)


def test_a_network_learns_what_the_known_field_lacks() -> None:
    """With the known field held, a network beside it explains a drag that is cubic in the velocity."""

    class CubicDrag(of.Dynamics):
        width = 2

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.stack([y[:, 1], -y[:, 0].sin() - 0.2 * y[:, 1] ** 3], dim=1)

    torch.manual_seed(0)
    batch = simulated(CubicDrag(), [2.0, 0.0], t1=10.0, observations=51)
    known = DampedPendulum(1.0, 0.0, trainable=False)
    lacking = fitting(known, distance="mse", segment=6).loss(batch, "val")
    task = fitting(Sum([known, MLP(2, [8], time="none")]), distance="mse", segment=6)
    learn(task, batch, 100)
    assert task.loss(batch, "val") < 0.1 * lacking
    assert (known.stiffness(), known.drag()) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment": 1}, "a segment needs two observations; got segment=1"),
        ({"initial": Initial("learned", known=["z"])}, "initial.known names the state 'z'; the states are y_1, y_2"),
        ({"continuity": -1.0}, "continuity must be at least 0; got -1.0"),
    ],
)
def test_senseless_settings_are_refused(options: dict[str, Any], message: str) -> None:
    """An option out of its range is refused with the value that came."""
    with pytest.raises(of.SettingError, match=message):
        fitting(MLP(2), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Simulated(Cubic(2), [[1.0]], 1.0), "initial must hold states of Cubic's width 2"),
        (
            lambda: Simulated(Cubic(2), [[1.0, 0.0]], 1.0, forecast=0.5),
            "0 < t1 < forecast; got t1=1.0 and forecast=0.5",
        ),
        (
            lambda: Simulated(Cubic(2), [[1.0, 0.0]], 1.0, observations=1),
            "Simulated: observations must be at least 2; got 1",
        ),
    ],
)
def test_senseless_simulations_are_refused(make: Callable[[], Simulated], message: str) -> None:
    """An option out of its range is refused with the value that came."""
    with pytest.raises(of.SettingError, match=message):
        make()


def test_simulations_are_observed_and_forecast() -> None:
    """Training sees [0, t1] with the same noise in each batch; validation and test halve [t1, forecast], without any."""
    spin = Linear(2, bias=False, matrix=[[0.0, 1.0], [-1.0, 0.0]])
    data = Simulated(spin, [[1.0, 0.0], [0.0, 2.0]], t1=2.0, observations=21, forecast=3.0, noise=0.1, steps=2)
    data.setup("fit")
    first, second = data.train_dataloader()
    (val,), (tested,) = data.val_dataloader(), data.test_dataloader()
    assert torch.equal(first.y, second.y)
    assert first.y.shape == (2, 21, 2)
    for batch, start in ((val, 2.0), (tested, 2.5)):
        torch.testing.assert_close(batch.t[0], torch.linspace(start, start + 0.5, 6))
        torch.testing.assert_close(batch.y[0], torch.stack([batch.t[0].cos(), -batch.t[0].sin()], 1))
        assert (bool(batch.seen[:, 0].all()), bool(batch.seen[:, 1:].any())) == (True, False)
    noise = first.y[0] - torch.stack([first.t[0].cos(), -first.t[0].sin()], 1)
    assert noise.std().item() == pytest.approx(0.1, rel=0.4)
