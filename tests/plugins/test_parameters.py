"""Laws of fitted parameters: missing values, times of one's own, learned initial states, standard errors."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics import MLP, Coefficient, Equations, Linear, LotkaVolterra, Sum
from odeflow_solvers import Dopri5
from odeflow_tasks import Initial, LevenbergMarquardt, Trajectory

D = torch.float64
SLOPE = {"equations": {"x": "b"}, "parameters": {"b": 0.3}, "bounds": {"b": [None, None]}}
DECAY = {"equations": {"x": "-k*x"}, "parameters": {"k": 0.5}}


def fitting(field: of.Dynamics, **options: Any) -> Trajectory:
    """A task in float64 that logs nothing."""
    task = Trajectory(field, Dopri5(1e-7, 1e-8), **({"distance": "nll"} | options)).double()
    task.log = lambda *_, **__: None
    return task


def fit(task: Trajectory, batch: of.Series, steps: int = 8) -> None:
    optimizer = LevenbergMarquardt(task.parameters())
    optimizer.problem = task

    def closure() -> Tensor:
        with torch.no_grad():
            return task.loss(batch, "train")

    for _ in range(steps):
        optimizer.step(closure)
    closure()


def table(task: Trajectory) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in task.parameters_table().iter_rows(named=True)}


def decays(count: int = 3, times: int = 9, noise: float = 0.05) -> of.Series:
    """Noisy exponentials of rate 0.8, each at its own times."""
    random = torch.Generator().manual_seed(0)
    t = torch.rand(count, times, generator=random, dtype=D).sort(1).values * 4
    start = 1 + torch.arange(count, dtype=D)[:, None]
    y = start * torch.exp(-0.8 * (t - t[:, :1]))
    return of.Series.observed(t, (y + noise * torch.randn(t.shape, generator=random, dtype=D))[..., None])


def missing(batch: of.Series, *cells: tuple[int, int]) -> of.Series:
    """The batch without some of its values, by sample and time."""
    y = batch.y.clone()
    for sample, row in cells:
        y[sample, row] = math.nan
    return of.Series.observed(batch.t, y)


# Missing values and times


@pytest.mark.parametrize("distance", ["mae", "mse", "nll"])
@pytest.mark.parametrize("initial", ["observed", "learned"])
def test_a_missing_value_is_a_row_left_out(distance: str, initial: str) -> None:
    """The loss of a trajectory with empty cells is that of the trajectory without their times."""
    batch = decays(1)
    kept = [0, 1, 3, 4, 6, 8]
    losses = []
    for each in (missing(batch, (0, 2), (0, 5), (0, 7)), of.Series.observed(batch.t[:, kept], batch.y[:, kept])):
        losses.append(fitting(Equations(**DECAY), distance=distance, initial=Initial(initial)).loss(each, "train"))
    torch.testing.assert_close(*losses, rtol=1e-7, atol=0)


def test_missing_values_never_reach_the_field() -> None:
    """With empty cells the field is evaluated at finite states, and loss and gradients are finite."""

    class Watched(Linear):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            assert bool(y.isfinite().all())
            return super().forward(t, y)

    task = fitting(Watched(1), initial=Initial("learned"))
    batch = missing(decays(), (0, 0), (1, 3), (2, 8))
    loss = task.loss(batch, "train")
    gradients = torch.autograd.grad(loss, list(task.parameters()))
    assert all(bool(each.isfinite().all()) for each in (loss, *gradients))
    assert bool(task.predict_step(batch, 0).isfinite().all())


def test_the_order_of_trajectories_does_not_matter() -> None:
    """Permuted trajectories have the same loss and the same estimates."""
    batch, results = decays(), []
    for order in ([0, 1, 2], [2, 0, 1]):
        task = fitting(Equations(**DECAY), initial=Initial("learned"))
        fit(task, of.Series(*(None if part is None else part[order] for part in batch)))
        results.append([table(task)["k"]["estimate"], table(task)["k"]["std_error"]])
    np.testing.assert_allclose(*results, rtol=1e-6)


@pytest.mark.parametrize("segment", [None, 4])
def test_trajectories_have_times_of_their_own(segment: int | None) -> None:
    """By a field that depends on time, the loss of several trajectories is the mean of theirs."""
    torch.manual_seed(0)
    field, batch = MLP(1, [5]), decays()
    options: dict[str, Any] = {"distance": "mse", "segment": segment}
    losses = [
        fitting(field, **options).loss(
            of.Series(*(None if part is None else part[[number]] for part in batch)), "train"
        )
        for number in range(3)
    ]
    torch.testing.assert_close(
        fitting(field, **options).loss(batch, "train"), torch.stack(losses).mean(), rtol=1e-6, atol=0
    )


def test_series_of_several_lengths_are_padded() -> None:
    """A trajectory padded by its last time has the loss of the trajectory itself, and its prediction."""
    batch = decays(1)
    t = torch.cat([batch.t, batch.t[:, -1:].expand(1, 3)], 1)
    padded = of.Series.observed(t, torch.cat([batch.y, torch.full((1, 3, 1), math.nan, dtype=D)], 1))
    for segment in (None, 4):
        one, other = (fitting(Equations(**DECAY), segment=segment, initial=Initial("learned")) for _ in range(2))
        torch.testing.assert_close(one.loss(batch, "train"), other.loss(padded, "train"))
    torch.testing.assert_close(other.predict_step(padded, 0)[:, :9], one.predict_step(batch, 0))


# Initial states


def test_states_that_were_never_observed_are_learned() -> None:
    """A reaction A → B → C of which only B is measured gives both rates and the hidden initial amount."""
    t = torch.linspace(0, 8, 30, dtype=D)
    amount = 2 * 0.9 / (0.4 - 0.9) * (torch.exp(-0.9 * t) - torch.exp(-0.4 * t))
    y = torch.stack([torch.full_like(t, math.nan), amount], 1)[None]
    field = Equations({"A": "-k1*A", "B": "k1*A - k2*B"}, {"k1": 1.3, "k2": 0.3})
    task = fitting(field, initial=Initial("completed", start={"A": 1.0}))
    fit(task, of.Series.observed(t, y), 12)
    found = {name: row["estimate"] for name, row in table(task).items()}
    assert found == pytest.approx({"k1": 0.9, "k2": 0.4, "A(0)": 2.0}, rel=1e-4)


def test_a_known_start_is_kept_and_a_shared_one_is_learned_once() -> None:
    """`known` keeps the value of `start`; `shared` is one parameter of all trajectories, also of new ones."""
    batch = missing(decays(), (0, 0), (1, 0), (2, 0))
    known = fitting(Equations(**DECAY), initial=Initial(start={"x": 2.0}, known=["x"]))
    known.loss(batch, "train")
    assert known.predict_step(batch, 0)[:, 0].tolist() == [[2.0]] * 3
    assert not list(known.initial.parameters())
    shared = fitting(Equations(**DECAY), initial=Initial(start={"x": 2.0}, shared=["x"]))
    fit(shared, batch)
    assert list(table(shared)) == ["k", "x(0)"]
    new = missing(decays(5), *((number, 0) for number in range(5)))
    assert (
        shared.predict_step(new, 0)[:, 0].flatten().tolist() == [pytest.approx(table(shared)["x(0)"]["estimate"])] * 5
    )


def test_keys_say_whose_states_were_learned() -> None:
    """Of trajectories that begin alike, a forecast starts from what was learned for the one of the same key."""
    batch = decays()
    y = batch.y.clone()
    y[:, 0] = 1.5
    keyed = batch._replace(y=y, key=torch.tensor([5, 7, 9]))
    task = fitting(Equations(**DECAY), initial=Initial("learned"))
    fit(task, keyed)
    learned = task.predict_step(keyed, 0)[:, 0]
    assert len(learned.unique()) == 3
    order = [2, 0, 1]
    moved = of.Series(*(None if part is None else part[order] for part in keyed))
    torch.testing.assert_close(task.predict_step(moved, 0)[:, 0], learned[order])
    stranger = moved._replace(key=torch.tensor([1, 2, 3]))
    torch.testing.assert_close(task.predict_step(stranger, 0)[:, 0], y[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_learned_states_survive_a_change_of_precision(dtype: torch.dtype) -> None:
    """A fit in float64 is loaded in single or double precision, and predicts from the states that it learned."""
    batch, task = decays(), fitting(Equations(**DECAY), initial=Initial("learned"))
    fit(task, batch)
    again = Trajectory(Equations(**DECAY), Dopri5(1e-5, 1e-6), initial=Initial("learned"))
    again.load_state_dict(task.state_dict())
    found = again.to(dtype).predict_step(batch, 0)
    assert found.dtype == dtype
    torch.testing.assert_close(found[:, 0].double(), task.predict_step(batch, 0)[:, 0], rtol=1e-6, atol=1e-6)


# Estimates and standard errors


def regression(t: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of y = x₀ + b t and the standard errors, in closed form."""
    design = np.stack([np.ones(len(t)), t.numpy()], 1)
    found, square, *_ = np.linalg.lstsq(design, y.numpy(), rcond=None)
    return found, np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * square[0] / (len(t) - 2))


def test_standard_errors_of_a_linear_model_are_exact() -> None:
    """dx/dt = b with a learned start is a regression line, with its estimates and standard errors."""
    random = torch.Generator().manual_seed(2)
    t = torch.rand(12, generator=random, dtype=D).sort().values
    y = 1 + 2 * t + 0.1 * torch.randn(12, generator=random, dtype=D)
    task = fitting(Equations(**SLOPE), initial=Initial("learned"))
    fit(task, of.Series.observed(t, y[None, :, None]))
    found, errors = regression(t - t[0], y)
    rows = table(task)
    np.testing.assert_allclose([rows["x(0)"]["estimate"], rows["b"]["estimate"]], found, rtol=1e-6)
    np.testing.assert_allclose([rows["x(0)"]["std_error"], rows["b"]["std_error"]], errors, rtol=1e-6)
    assert rows["b"]["upper"] - rows["b"]["estimate"] == pytest.approx(1.96 * errors[1], rel=1e-4)


def test_a_given_noise_is_not_estimated() -> None:
    """With a known noise the covariance is σ²(XᵀX)⁻¹, whatever the residuals are."""
    t = torch.linspace(0, 1, 5, dtype=D)
    task = fitting(Equations(**SLOPE), initial=Initial("learned"), noise=[0.5])
    fit(task, of.Series.observed(t, (1 + t)[None, :, None]))
    design = np.stack([np.ones(5), t.numpy()], 1)
    wanted = 0.5 * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    np.testing.assert_allclose([table(task)["x(0)"]["std_error"], table(task)["b"]["std_error"]], wanted, rtol=1e-6)


def test_units_of_time_and_of_columns_scale_the_estimates() -> None:
    """Times in units 60 times smaller divide a rate and its error by 60; a column's unit leaves them as they are."""
    batch, results = decays(), []
    for time, unit in ((1.0, 1.0), (60.0, 1.0), (1.0, 1000.0)):
        task = fitting(Equations({"x": "-k*x"}, {"k": 0.5 / time}), initial=Initial("learned"))
        fit(task, batch._replace(t=batch.t * time, y=batch.y * unit))
        results.append([table(task)["k"]["estimate"] * time, table(task)["k"]["std_error"] * time])
    np.testing.assert_allclose(results[1:], [results[0]] * 2, rtol=1e-5)


def test_estimates_are_those_of_scipy() -> None:
    """On Lotka–Volterra with irregular times, estimates and standard errors agree with scipy's least squares."""
    random = np.random.default_rng(0)
    t = np.concatenate([[0], np.sort(random.random(24) * 8)])

    def solved(params: np.ndarray) -> np.ndarray:
        a, b, c, d = np.exp(params[:4])
        field = lambda _, y: [y[0] * (a - b * y[1]), y[1] * (d * y[0] - c)]  # noqa: E731
        return solve_ivp(field, (0, 8), params[4:], "DOP853", t, rtol=1e-10, atol=1e-10).y.T

    truth = np.array([*np.log([1.0, 0.5, 0.7, 0.4]), 2.0, 1.0])
    y = solved(truth) + 0.1 * random.normal(size=(25, 2))
    oracle = least_squares(lambda params: (solved(params) - y).ravel(), truth, xtol=1e-12, ftol=1e-12)
    covariance = np.linalg.inv(oracle.jac.T @ oracle.jac) * 2 * oracle.cost / (50 - 6)
    task = fitting(LotkaVolterra(0.8, 0.6, 0.9, 0.3), initial=Initial("learned"), noise=[0.1, 0.1])
    fit(task, of.Series.observed(torch.from_numpy(t), torch.from_numpy(y)[None]))
    rows = list(table(task).values())
    np.testing.assert_allclose([row["estimate"] for row in rows][:4], np.exp(oracle.x[:4]), rtol=1e-4)
    scale = 0.1 / np.sqrt(2 * oracle.cost / (50 - 6))
    wanted = np.sqrt(np.diag(covariance)) * scale * np.array([*np.exp(oracle.x[:4]), 1, 1])
    np.testing.assert_allclose([row["std_error"] for row in rows], wanted, rtol=1e-3)


def test_parameters_that_nothing_determines_have_infinite_errors() -> None:
    """Of dx/dt = −(a + b) x neither a nor b has a finite standard error, but the start has."""
    task = fitting(Equations({"x": "-(a + b)*x"}, {"a": 0.3, "b": 0.4}), initial=Initial("learned"))
    fit(task, decays(1))
    rows = table(task)
    assert rows["a"]["std_error"] == rows["b"]["std_error"] == math.inf
    assert 0 < rows["x(0)"]["std_error"] < 1


def test_without_a_likelihood_there_are_no_standard_errors() -> None:
    """Neither a distance nor a network has them; estimates are there."""
    batch = decays()
    for task in (
        fitting(Equations(**DECAY), distance="mse"),
        fitting(Sum([Equations(**DECAY), MLP(1, [3])]), distance="nll"),
    ):
        task.loss(batch, "train")
        (row,) = table(task).values()
        assert (row["name"], row["std_error"]) == ("k", None)
        assert row["estimate"] == pytest.approx(0.5)


class Elementwise(of.Dynamics):
    """dx/dt = −k x, written so that k cannot differ between samples."""

    width = 2

    def __init__(self) -> None:
        super().__init__()
        self.k = Coefficient(0.5, low=0.0)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -y @ torch.diag(self.k().expand(2))


@pytest.mark.parametrize("segment", [None, 3])
def test_derivatives_do_not_depend_on_how_they_are_computed(segment: int | None) -> None:
    """Central differences of copies in one solve agree with a solve for each parameter in forward differentiation."""
    batch = decays()
    batch = of.Series.observed(batch.t, torch.cat([batch.y, 2 * batch.y], 2))
    twin = Equations({"x": "-k*x", "y": "-k*y"}, {"k": 0.5})
    results = []
    for field in (twin, Elementwise()):
        task = fitting(field, initial=Initial("learned"), segment=segment)
        with torch.no_grad():
            task.loss(batch, "train")
        entries = [(name, index) for name, part in task.named_parameters() for index in range(part.numel())]
        results.append(task.linearised(batch, entries))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_a_step_of_marquardt_reduces_the_squares_or_does_nothing() -> None:
    """From a poor start the sum of squares never rises, and a field that cannot be solved is stepped back from."""
    t = torch.linspace(0, 3, 10, dtype=D)
    batch = of.Series.observed(t, (1 / (1 + t))[None, :, None])
    task = fitting(Equations({"x": "g*x**2"}, {"g": 0.3}, bounds={"g": [None, None]}), distance="mse", noise=None)
    optimizer = LevenbergMarquardt(task.parameters())
    optimizer.problem = task
    losses = []
    for _ in range(15):
        with torch.no_grad():
            losses.append(float(optimizer.step(lambda: task.loss(batch, "train"))))
    assert losses == sorted(losses, reverse=True)
    assert float(task.flow.dynamics.dynamics.coefficients["g"]().detach()) == pytest.approx(-1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fitting(LotkaVolterra(), initial=Initial(start={"hare": 1.0})),
            "start names the state 'hare'; the states are prey, pred",
        ),
        (lambda: fitting(LotkaVolterra(), initial=Initial(known=["prey"])), "known needs a value in start for prey"),
        (lambda: Initial("guessed"), "Initial: mode must be 'observed', 'completed' or 'learned'; got 'guessed'"),
        (lambda: fitting(LotkaVolterra(), noise=[0.1]), "a positive number for each of the states prey, predators"),
        (lambda: fitting(LotkaVolterra(), distance="mse", noise=[1.0, 1.0]), "noise is for distance='nll'"),
        (lambda: LevenbergMarquardt([nn.Parameter(torch.ones(1))]).step(), "which the task Trajectory has; use Adam"),
        (lambda: LevenbergMarquardt([], damping=0.0), "damping must be positive"),
        (lambda: fit(fitting(MLP(1, [300])), decays()), "of 1 to 500; there are .* and Adam for networks"),
    ],
)
def test_senseless_fits_are_refused(make: Any, message: str) -> None:
    """An invalid option or problem is an error that says what was expected."""
    with pytest.raises(of.SettingError, match=message):
        make()


def test_an_unobserved_start_must_be_learned_or_known() -> None:
    """Observed initial states that are missing are an error that names them and the remedies."""
    with pytest.raises(
        of.DataError, match=r"x was not observed where .*initial.mode 'completed'.*initial.start and initial.known"
    ):
        fitting(Equations(**DECAY)).loss(missing(decays(), (1, 0)), "train")
    with pytest.raises(of.DataError, match="there is no training batch yet"):
        fitting(Equations(**DECAY)).parameters_table()
