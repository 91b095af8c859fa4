"""Laws of Regression: what it predicts, its loss, its options and its pictures."""

import io
from collections.abc import Callable

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics import MLP, Controlled, Galerkin
from odeflow_solvers import RK4, Dopri5
from odeflow_tasks import Head, Perceptron, Regression


class Drift(of.Dynamics):
    """dy/dt = c, so that φ(y) = y + (t₁ − t₀) c."""

    def __init__(self, *rates: float) -> None:
        super().__init__()
        self.width, self.rates = len(rates), nn.Parameter(torch.tensor(rates))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.rates.expand_as(y)


def drift(*rates: float, **options: object) -> Regression:
    return Regression(Drift(*rates), RK4(num_steps=1), **options)


def drawn(task: Regression, x: Tensor, targets: Tensor) -> Figure:
    """The one picture of a batch, once it has been rendered."""
    task.eval()
    with torch.no_grad():
        (figure,) = task.figures((x, targets)).values()
    figure.savefig(io.BytesIO(), dpi=40)
    return figure


def panels(figure: Figure) -> list[Axes]:
    """The axes other than the colour bar."""
    return [axes for axes in figure.axes if axes.get_title()]


def test_without_a_head_the_first_features_are_compared() -> None:
    """The loss is the mean square error of the first k features of φ(x), in every stage; the others do not count."""
    task = drift(1.0, -2.0, 5.0, num_outputs=2, flow=of.FlowOptions(augment=1, t1=0.5))
    x, targets = torch.randn(6, 2), torch.randn(6, 2)
    wanted = (x + torch.tensor([0.5, -1.0]) - targets).square().mean()
    for stage in ("train", "val", "test"):
        torch.testing.assert_close(task.loss((x, targets), stage), wanted)
    (rates,) = torch.autograd.grad(task.loss((x, targets), "train"), task.flow.dynamics.rates)
    assert (rates != 0).tolist() == [True, True, False]


def test_a_linear_head_sees_all_features() -> None:
    """With a head the prediction is W φ(x) + b, the appended features among φ(x)."""
    task = drift(1.0, -2.0, 5.0, num_outputs=4, head=Perceptron(()), flow=of.FlowOptions(augment=1))
    x, targets = torch.randn(6, 2), torch.randn(6, 4)
    end = torch.cat([x, torch.zeros(6, 1)], dim=1) + torch.tensor([1.0, -2.0, 5.0])
    prediction = end @ task.head.layers[0].weight.T + task.head.layers[0].bias
    torch.testing.assert_close(task(x), prediction)
    torch.testing.assert_close(task.loss((x, targets), "val"), (prediction - targets).square().mean())


def test_only_a_linear_head_has_parameters_besides_the_field() -> None:
    """Without a head the task learns the field alone; a linear one has k (width + 1) parameters more."""
    count = sum(param.numel() for param in drift(1.0, 2.0).parameters())
    assert count == 2
    assert sum(param.numel() for param in drift(1.0, 2.0, num_outputs=3, head=Perceptron(())).parameters()) == count + 9


def test_predictions_need_no_targets() -> None:
    """Prediction is of the inputs, with or without targets in the batch."""
    task = drift(1.0, 2.0)
    x = torch.randn(3, 2)
    for batch in ((x, torch.zeros(3, 1)), [x], x):
        torch.testing.assert_close(task.predict_step(batch, 0), x[:, :1] + 1)


def test_the_flow_gets_its_options() -> None:
    """Learned lift, regularisers and STEER act in training."""
    task = Regression(
        MLP(3),
        RK4(num_steps=2),
        of.Backprop(),
        flow=of.FlowOptions(augment=2, lift="learned", regularizers=[of.Kinetic(0.1)], steer=0.3),
    )
    x, targets = torch.randn(5, 1), torch.randn(5, 1)
    torch.manual_seed(0)
    losses = {float(task.loss((x, targets), "train").detach()) for _ in range(3)}
    assert len(losses) == 3
    assert task.flow.penalties.keys() == {"kinetic"}
    assert task.flow.lift.weight.shape == (2, 1)
    assert isinstance(task.flow.gradient, of.Backprop)
    task.eval()
    assert len({float(task.loss((x, targets), "val").detach()) for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("dynamics", "head"),
    [(MLP(1), None), (MLP(1), Perceptron(())), (Controlled(MLP(2)), None), (Galerkin(MLP(1)), None)],
)
def test_on_a_line_trajectories_are_drawn_over_time(dynamics: of.Dynamics, head: Head | None) -> None:
    """One panel: each input's curve and start, above the field; the targets where they are to be reached."""
    task = Regression(dynamics, Dopri5(), head=head)
    x = torch.linspace(-1, 1, 5)[:, None]
    figure = drawn(task, x, -x)
    (axes,) = panels(figure)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$t$", "$y_1$")
    assert axes.get_xlim() == (0, 1)
    curves = [line for line in axes.lines if len(line.get_xdata()) == 61]
    ends = torch.tensor([line.get_ydata()[-1] for line in curves])
    assert torch.allclose(ends, task.flow(x)[:, 0], atol=1e-3)
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == (["target"] if head is None else []) + ["learned field", "start"]
    assert figure.axes[-1].get_ylabel() == "target"


def test_time_may_run_backwards_in_a_picture() -> None:
    """Where t1 < 0 the curves begin at the right, on the field's slopes."""
    (axes,) = panels(drawn(drift(2.0, flow=of.FlowOptions(t1=-1.0)), torch.zeros(1, 1), torch.zeros(1, 1)))
    assert axes.get_xlim() == (-1, 0)
    t, y = axes.lines[0].get_data()
    assert (t[0], t[-1]) == (0, -1)
    assert y[-1] == pytest.approx(-2)


def test_the_field_in_a_picture_has_the_dynamics_slopes() -> None:
    """The stream lines of dy/dt = 2 y₂, where y₂ is held at its mean over the samples, rise by that."""

    class Shear(of.Dynamics):
        width = 2

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.stack([2 * y[:, 1], torch.ones_like(t).expand(len(y))], dim=1)

    task = Regression(Shear(), RK4(num_steps=10), flow=of.FlowOptions(augment=1))
    axes, _ = panels(drawn(task, torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1)))
    lines = axes.collections[0].get_segments()
    starts, ends = (torch.tensor([line[at].tolist() for line in lines]) for at in (0, -1))
    run, rise = (ends - starts).T
    middle = (starts + ends)[:, 0] / 2
    moved = run > 1e-4
    assert torch.allclose(rise[moved] / run[moved], 2 * middle[moved], atol=0.1)


@pytest.mark.parametrize(
    ("augment", "xlabel", "ylabel"), [(1, "$y_1$", "$y_2$"), (4, r"component 1 \(", r"component 2 \(")]
)
def test_an_augmented_line_is_drawn_in_the_plane_too(augment: int, xlabel: str, ylabel: str) -> None:
    """The second panel has the trajectories of both features, or of the first two components, with start and end."""
    task = Regression(MLP(1 + augment), RK4(num_steps=4), flow=of.FlowOptions(augment=augment))
    x = torch.linspace(-1, 1, 5)[:, None]
    figure = drawn(task, x, -x)
    second = panels(figure)[1]
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["target", "field, other features at their mean", "start", "end"]
    assert second.get_title() == "trajectories in the plane"
    for label, wanted in ((second.get_xlabel(), xlabel), (second.get_ylabel(), ylabel)):
        assert label.startswith(wanted.replace("\\", ""))
    assert len(second.lines) == 3 * 5 + 1


@pytest.mark.parametrize(
    ("dim", "augment", "zlabel"), [(2, 0, None), (2, 1, "$y_3$"), (3, 0, "$y_3$"), (2, 5, "component 3 (")]
)
def test_points_are_drawn_before_and_after(dim: int, augment: int, zlabel: str | None) -> None:
    """In the plane: the input and the flow's end; of wider states a view in space, of features or components."""
    task = Regression(MLP(dim + augment), RK4(num_steps=4), flow=of.FlowOptions(augment=augment), num_outputs=2)
    x, targets = torch.randn(20, dim), torch.randn(20, 2)
    before, after, *space = panels(drawn(task, x, targets))
    assert [before.get_title(), after.get_title()] == ["input", "end of the flow"]
    assert torch.allclose(torch.tensor(before.collections[0].get_offsets().tolist()), x[:, :2])
    assert torch.allclose(torch.tensor(after.collections[0].get_offsets().tolist()), task.flow(x)[:, :2])
    assert [axes.get_zlabel()[: len(zlabel)] for axes in space] == ([] if zlabel is None else [zlabel])


def test_components_are_those_of_the_largest_variance() -> None:
    """The components in a picture are orthogonal directions of falling variance, and their shares are told."""
    task = drift(*[0.0] * 5, num_outputs=1)
    x = torch.randn(200, 5) * torch.tensor([1.0, 10.0, 0.1, 3.0, 0.2])
    (_, _, space) = panels(drawn(task, x, x[:, :1]))
    points = torch.tensor([part.tolist() for part in space.collections[0]._offsets3d])
    covariance = points.cov()
    assert torch.allclose(covariance, covariance.diag().diag(), atol=1e-2)
    torch.testing.assert_close(covariance.diag(), torch.linalg.eigvalsh(x.T.cov()).flip(0)[:3], rtol=1e-3, atol=1e-3)
    share = 100 * covariance[0, 0] / x.var(0).sum()
    assert space.get_xlabel() == f"component 1 ({share:.3g} %)"


@pytest.mark.parametrize("dim", [1, 2])
def test_one_sample_can_be_drawn(dim: int) -> None:
    """A batch of one sample has its picture too, with all its panels."""
    task = Regression(MLP(5), RK4(num_steps=1), flow=of.FlowOptions(augment=5 - dim))
    assert len(panels(drawn(task, torch.ones(1, dim), torch.ones(1, 1)))) == (2 if dim == 1 else 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: drift(1.0, 2.0, num_outputs=3),
            "the dynamics' width 2 has no num_outputs=3 features to compare; widen",
        ),
        (lambda: drift(1.0, num_outputs=0), "num_outputs must be at least 1; got 0"),
        (lambda: drift(1.0, 2.0, flow=of.FlowOptions(augment=2)), "augment=2 leaves nothing of the dynamics' width 2"),
        (
            lambda: drift(1.0, 2.0, flow=of.FlowOptions(augment=-1)),
            "augment must be a whole number, and not negative; got -1",
        ),
        (lambda: drift(1.0, flow=of.FlowOptions(t1=0.0)), "t0 and t1 must differ"),
        (
            lambda: drift(1.0, 2.0, flow=of.FlowOptions(augment=1, lift="high")),
            "lift must be 'zero' or 'learned'; got 'high'",
        ),
    ],
)
def test_senseless_settings_are_refused(make: Callable[[], Regression], message: str) -> None:
    """An option out of its range is refused with the value that came."""
    with pytest.raises(of.SettingError, match=message):
        make()


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 1, 1)])
def test_targets_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """Targets are never broadcast against predictions: that would be another loss."""
    message = r"Regression\(num_outputs=1\) expects targets of shape \(4, 1\); got \(4,.*: num_outputs is the number"
    with pytest.raises(of.DataError, match=message):
        drift(1.0).loss((torch.zeros(4, 1), torch.zeros(shape)), "train")
