"""Laws of covariates in tasks: they are inputs of the field, their number is checked, and new ones are extrapolated."""

from typing import Any

import polars as pl
import pytest
import torch

import odeflow as of
from odeflow.plugin.registry import plugins
from odeflow_data import SeriesTable
from odeflow_dynamics import MLP, Equations, Sum
from odeflow_solvers import RK4
from odeflow_tasks import RNN, Bound, Hermite, LatentODE, ODERNNEncoder, Rectilinear, RNNEncoder, Trajectory

T = 16


def driven(count: int, seed: int) -> of.Series:
    """A lagging system y′ = 3 (u − y), with y(0) = 0, under random inputs; the first quarter is seen."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.linspace(0, 1, T).expand(count, -1)
    u = torch.randn(count, 4, generator=generator).repeat_interleave(T // 4, dim=1)[..., None]
    path = of.paths.Hermite(t[0], u)
    y = of.solve(lambda t, y: 3 * (path(t) - y), torch.zeros(count, 1), t[0], solver=RK4(num_steps=30), params=()).y
    target = torch.ones(count, T, 1, dtype=torch.bool)
    seen = target & (t < 0.25)[..., None]
    return of.Series(t, y.transpose(0, 1), seen, target, covariates=u)


def latent(width: int, num_covariates: int, **options: Any) -> LatentODE:
    torch.manual_seed(0)
    return LatentODE(
        MLP(dim=width, hidden=[16]),
        RK4(num_steps=4),
        dim=1,
        num_covariates=num_covariates,
        encoder=RNNEncoder(8),
        **options,
    )


def test_new_inputs_are_extrapolated() -> None:
    """Trained on driven series, a model told the inputs predicts under new ones; without them it cannot."""
    errors: list[float] = []
    for known in (True, False):
        model = latent(4 + known, int(known), covariates=Hermite() if known else None)
        batch, other = (part if known else part._replace(covariates=None) for part in (driven(64, 1), driven(64, 2)))
        optimizer = torch.optim.Adam(model.parameters(), 0.03)
        for _ in range(50):
            optimizer.zero_grad()
            q = model.posterior(batch)
            loss = -model._bound(model._drawn(q, batch, 1), q, batch, 0.01).mean()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            unseen = other.target & ~other.seen
            errors.append(float((model.predict(other) - other.y)[unseen].square().mean().sqrt()))
    assert errors[0] < 0.3 * errors[1]


def test_a_latent_path_has_the_covariates_as_input() -> None:
    """It is the flow's solution under the interpolated covariates and the static ones, of every posterior sample."""
    model, batch = latent(5, 2), driven(3, 1)._replace(static=torch.tensor([[1.0], [-2.0], [0.5]]))
    z0 = torch.randn(4, 3, 3)
    found = model.path(z0, batch.t, batch)
    for sample in range(4):
        for row in range(3):
            u, static = batch.covariates[row : row + 1], batch.static[row : row + 1]
            path = of.paths.Joined(of.paths.Hermite(batch.t[row], u), of.paths.Constant(static))
            alone = model.flow.trajectory(z0[sample, row : row + 1], batch.t[row], context=path).y[:, 0]
            assert torch.allclose(found[sample, row], alone, atol=1e-5)
    one = model.sample_at(batch.t[0], 6, of.Series(*(None if part is None else part[:1] for part in batch)))
    assert one.shape == (6, T, 1)
    assert model.reconstruct(batch, samples=2).shape == (2, 3, T, 1)


def test_unknown_covariates_and_padding() -> None:
    """Rows without any covariate leave the prediction unchanged, and unknown ones are interpolated for the encoder."""
    model, batch = latent(5, 1), driven(2, 3)
    padded = of.Series(
        *(torch.cat([part, part[:, -1:]], dim=1) for part in (batch.t, batch.y)),
        *(torch.cat([part, torch.zeros_like(part[:, -1:])], dim=1) for part in (batch.seen, batch.target)),
        covariates=torch.cat([batch.covariates, torch.full((2, 1, 1), torch.nan)], dim=1),
    )
    assert torch.allclose(model.predict(padded)[:, :-1], model.predict(batch), atol=1e-6)
    line = torch.linspace(0, 1, T)[None, :, None].expand(2, -1, -1)
    holes = line.clone()
    holes[:, 1:3] = torch.nan
    known, unknown = (model.posterior(batch._replace(covariates=u)) for u in (line, holes))
    assert torch.allclose(known.mean, unknown.mean, atol=1e-6)


@pytest.mark.parametrize("encoder", ["rnn", "odernn"])
def test_the_encoder_reads_the_covariates(encoder: str) -> None:
    """The posterior depends on covariates where values are seen, and on static ones, but not on later ones."""
    made = RNNEncoder(4) if encoder == "rnn" else ODERNNEncoder(MLP(dim=4), RK4(num_steps=2))
    torch.manual_seed(0)
    model = LatentODE(MLP(dim=5), RK4(num_steps=4), dim=1, encoder=made, num_covariates=2)
    batch = driven(3, 1)._replace(static=torch.zeros(3, 1))
    mean = model.posterior(batch).mean
    for first, changed in ((0, True), (T // 2, False)):
        u = batch.covariates.clone()
        u[:, first] += 1
        assert torch.equal(model.posterior(batch._replace(covariates=u)).mean, mean) != changed
    assert not torch.equal(model.posterior(batch._replace(static=torch.ones(3, 1))).mean, mean)


@pytest.mark.parametrize("name", plugins("interpolation"))
def test_interpolations(name: str) -> None:
    """Each makes the path of its name, with its option, and all losses have gradients under it."""
    interpolation = plugins("interpolation")[name]()
    t, u = torch.arange(4.0).expand(2, -1), torch.randn(2, 4, 1)
    path = interpolation.path(t, u)
    assert type(path).__name__ == name
    if name != "Rectilinear":
        assert plugins("interpolation")[name](outside="extrapolate").path(t, u).outside == "extrapolate"
    model = latent(4, 1, covariates=interpolation, bound=Bound(samples=2, intensity_weight=0.1))
    loss = -model.elbo(driven(4, 1)).mean()
    loss.backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in model.flow.parameters())


def test_figures_of_a_driven_model() -> None:
    """Samples in figures have the covariates of the first series."""
    assert set(latent(4, 1).figures(driven(4, 1))) == {"series", "latent", "samples"}


def test_the_number_of_covariates_is_checked() -> None:
    """Another number of covariates, a field that is too narrow, and tasks without inputs are errors with the number."""
    batch = driven(2, 1)
    with pytest.raises(
        of.DataError, match=r"LatentODE\(num_covariates=0\) expects .* these have 1. Set num_covariates=1, and"
    ):
        latent(4, 0).predict(batch)
    with pytest.raises(of.DataError, match=r"num_covariates=2\) expects series .* these have 0"):
        latent(4, 2).predict(batch._replace(covariates=None))
    with pytest.raises(of.SettingError, match="num_covariates=3, so it must be at least 4; MLP has 3"):
        latent(3, 3)
    with pytest.raises(of.DataError, match=r"RNN does not support covariates; these series have 1. Use LatentODE"):
        RNN(width=4, dim=1).predict(RNN(width=4, dim=1).checked(batch))
    with pytest.raises(of.DataError, match=r"covariates must be .* of shape \(2, 16, '…'\); got \(2, 3, 1\)"):
        latent(4, 1).predict(batch._replace(covariates=torch.ones(2, 3, 1)))
    with pytest.raises(of.DataError, match="LatentODE does not support jumps of the values, such as doses; use Traj"):
        latent(4, 1).predict(batch._replace(jump=torch.zeros_like(batch.y)))
    with pytest.raises(of.DataError, match="static covariates must be finite"):
        latent(4, 2).predict(batch._replace(static=torch.full((2, 1), torch.nan)))
    with pytest.raises(of.DataError, match=r"needs the covariates that drive .* sample_at\(t, count, batch\)"):
        latent(4, 1).sample(3)


def test_samples_have_the_covariates_of_series() -> None:
    """Each sample of each series is the flow's under its covariates, at its times."""
    model, batch = latent(4, 1), driven(3, 1)
    torch.manual_seed(0)
    drawn = model.sample(2, batch)
    torch.manual_seed(0)
    z0 = torch.randn(2, 3, 3)
    torch.testing.assert_close(drawn["x"], model.decode(model.path(z0, batch.t, batch)))
    assert torch.equal(drawn["t"], batch.t.expand(2, 3, -1))
    with pytest.raises(of.DataError, match=r"needs the covariates .* sample\(count, series\)"):
        model.sample(2)


# Trajectories


@pytest.mark.parametrize("segment", [None, 3])
def test_trajectories_follow_switched_inputs(segment: int | None) -> None:
    """dx/dt = u + s, with u switched at each trajectory's own times, is their integral, segment by segment, and exact."""
    t = torch.tensor([[0.0, 0.5, 1.0, 2.0, 3.0], [1.0, 1.5, 2.5, 3.0, 3.0]], dtype=torch.float64)
    u = torch.tensor([[1.0, -2.0, 3.0, 0.5, 7.0], [2.0, 1.0, -1.0, 4.0, torch.nan]], dtype=torch.float64)
    static = torch.tensor([[0.25], [-1.0]], dtype=torch.float64)
    step = t.diff(dim=1) * (u[:, :-1].nan_to_num() + static)
    x = torch.cat([torch.zeros(2, 1, dtype=torch.float64), step.cumsum(1)], dim=1)[..., None]
    exists = torch.ones_like(x, dtype=torch.bool)
    exists[1, -1] = False
    batch = of.Series(t, x, exists, exists, covariates=u[..., None], static=static)
    field = Equations({"x": "a*(u + s)"}, {"a": 1.0}, inputs=["u", "s"])
    task = Trajectory(field, RK4(step_size=0.5), distance="mse", segment=segment, covariates=Rectilinear()).double()
    assert float(task.loss(batch, "train").detach()) == pytest.approx(0, abs=1e-20)
    assert torch.allclose(task.predict_step(batch, 0)[exists], x[exists], atol=1e-10)


def test_trajectories_of_a_network_with_inputs() -> None:
    """The width of a network counts the covariates; predictions are the flow's under them, figures are drawn."""
    torch.manual_seed(0)
    task = Trajectory(MLP(dim=2), RK4(num_steps=8), num_covariates=1, extrapolate=2.0, covariates=Hermite())
    batch = driven(3, 1)
    path = of.paths.Hermite(batch.t[0], batch.covariates)
    inputs = of.paths.Joined(path, of.paths.Constant(torch.zeros(3, 1)))
    wanted = task.flow.trajectory(batch.y[:, 0], batch.t[0], context=inputs).y.movedim(0, 1)
    assert torch.allclose(task.predict_step(batch, 0), wanted, atol=1e-5)
    assert torch.allclose(task(batch.y[:, 0], batch.t[0], batch), wanted, atol=1e-6)
    task.loss(batch, "train").backward()
    assert set(task.figures(batch)) == {"phase_portrait"}
    task.tested = batch
    assert set(task.test_figures()) == {"forecast", "extrapolation"}


def test_equations_and_a_network_have_the_same_inputs() -> None:
    """A sum of equations, which name the inputs, and of a network, whose width counts them, is the sum of both."""
    torch.manual_seed(0)
    equations, network = Equations({"x": "a*u - x"}, {"a": 2.0}, inputs=["u"]), MLP(dim=2)
    both, y = Sum([equations, network]), torch.randn(5, 2)
    assert (both.width, both.inputs) == (1, ("u",))
    assert torch.equal(
        both(torch.tensor(0.0), y), equations(torch.tensor(0.0), y) + network(torch.tensor(0.0), y)[:, :1]
    )
    task = Trajectory(both, RK4(num_steps=8), num_covariates=1)
    assert task.predict_step(driven(3, 1), 0).shape == (3, T, 1)
    with pytest.raises(
        of.SettingError,
        match=r"Sum expects terms of one width and of the same inputs; got Equations of width 1 and inputs u, MLP of width 1",
    ):
        Sum([equations, MLP(dim=1)])


def test_sizes_of_trajectories_with_inputs() -> None:
    """The error of a wrong width, or of other inputs than the equations have, gives the number that is needed."""
    batch = driven(2, 1)
    narrow = Trajectory(MLP(dim=3), RK4(num_steps=4), num_covariates=1)
    with pytest.raises(of.DataError, match="must be 2: 1 states, augment=0 and num_covariates=1; it is 3"):
        narrow.predict_step(batch, 0)
    with pytest.raises(
        of.DataError, match=r"Trajectory\(num_covariates=0\) expects .* these have 1. Set num_covariates=1"
    ):
        Trajectory(MLP(dim=1), RK4(num_steps=4)).predict_step(batch, 0)
    with pytest.raises(of.SettingError, match="Equations has the inputs u, but the data have num_covariates=2"):
        Trajectory(Equations({"x": "a*u"}, {"a": 1.0}, inputs=["u"]), RK4(num_steps=4), num_covariates=2)


# Tables


def frame() -> pl.DataFrame:
    """Twelve series of unequal lengths, with a temperature, of which a cell is empty, a constant weight, and the future."""
    rows = [
        {
            "id": n,
            "t": k / 2,
            "y": None if k > 5 else n + k / 7,
            "heat": None if (n, k) == (0, 2) else 20.0 + n * k,
            "kg": 50.0 + n,
        }
        for n in range(12)
        for k in range(8 + n % 3)
    ]
    return pl.DataFrame(rows)


def table(source: pl.DataFrame, **options: Any) -> SeriesTable:
    return SeriesTable(source, series="id", time="t", covariates=["heat"], static=["kg"], **options)


def test_columns_of_covariates() -> None:
    """Batches hold them in the units of the training series, also after the last value, and nan where cells are empty."""
    data = table(frame(), standardise=False)
    data.setup("predict")
    assert (data.dim, data.num_covariates, data.features) == (1, 2, ["y"])
    whole = data.predicted
    assert whole.covariates.shape == (12, 10, 1)
    assert whole.static.flatten().tolist() == [50.0 + n for n in range(12)]
    for n in range(12):
        wanted = [20.0 + n * k for k in range(8 + n % 3)]
        found = whole.covariates[n, : len(wanted), 0].tolist()
        assert [a for k, a in enumerate(found) if (n, k) != (0, 2)] == [
            a for k, a in enumerate(wanted) if (n, k) != (0, 2)
        ]
        assert whole.covariates[n, len(wanted) :].isnan().all()
    assert whole.covariates[0, 2].isnan().all()
    (batch,) = data.predict_dataloader()
    assert batch.t.shape[1] == 10  # the last rows have covariates only


def test_covariates_are_standardised_by_the_model() -> None:
    """By the moments of the training series, which a later file is standardised by, too."""
    data = table(frame())
    data.setup("fit")
    known = ~data.train.covariates.isnan()
    values = data.train.covariates[known]
    assert float(values.mean()) == pytest.approx(0, abs=1e-5)
    assert float(values.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert data.units.condition.features == ("heat", "kg")
    later = table(frame().with_columns(pl.col("heat") + 10.0))
    later.load_state_dict(data.state_dict())
    data.setup("predict")
    later.setup("predict")
    shift = (later.predicted.covariates - data.predicted.covariates)[~data.predicted.covariates.isnan()]
    assert torch.allclose(shift, torch.full_like(shift, 10 / data.units.condition.scale[0]), atol=1e-5)


def test_a_static_column_is_constant() -> None:
    """A static column that varies, or has an empty cell, is an error that names the series and the other option."""
    for wrong in (1.0, None):
        source = frame().with_columns(
            pl.when((pl.col("id") == 3) & (pl.col("t") == 1.0)).then(wrong).otherwise(pl.col("kg")).alias("kg")
        )
        data = table(source)
        with pytest.raises(of.DataError, match=r"series 3 has several values in column 'kg', or .* --data.covariates"):
            data.setup("fit")
    with pytest.raises(of.SettingError, match="column 'heat' is named twice"):
        table(frame(), columns=["y", "heat"])
