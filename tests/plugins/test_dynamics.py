"""Laws of the vector fields: shapes kept and checked, time seen, derivatives of all kinds, published sizes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics import MLP, ConvNet, Linear, PlanarCNF, Transformer, UNet
from odeflow_dynamics.group_norm import group_norm
from odeflow_dynamics.time_embedding import TimeEmbedding
from odeflow_solvers import RK4

ZERO = torch.zeros(())
HALF = torch.full((), 0.5)
TIMED: dict[str, tuple[Callable[[], of.Dynamics], tuple[int, ...]]] = {
    "MLP concat": (lambda: MLP(3), (5, 3)),
    "MLP concat_squash": (lambda: MLP(3, time="concat_squash"), (5, 2, 3)),
    "MLP sinusoidal": (lambda: MLP(3, time="sinusoidal"), (5, 2, 3)),
    "Linear concat": (lambda: Linear(3, time="concat"), (5, 2, 3)),
    "PlanarCNF": (lambda: PlanarCNF(3), (5, 2, 3)),
    "ConvNet": (lambda: ConvNet(8), (3, 8, 5, 4)),
    "UNet": (lambda: UNet(3, hidden=8, groups=4), (3, 3, 8, 12)),
    "Transformer": (lambda: Transformer(3, hidden=8, num_heads=2), (3, 5, 3)),
    "Transformer leading": (lambda: Transformer(3, hidden=8, num_heads=2), (3, 2, 5, 3)),
    "Transformer patches": (lambda: Transformer(3, hidden=8, num_heads=2, patch=2), (3, 3, 4, 6)),
}
AUTONOMOUS: dict[str, tuple[Callable[[], of.Dynamics], tuple[int, ...]]] = {
    "MLP none": (lambda: MLP(3, time="none"), (5, 2, 3)),
    "Linear": (lambda: Linear(3), (5, 2, 3)),
    "Linear without bias": (lambda: Linear(3, bias=False), (5, 3)),
}
FIELDS = TIMED | AUTONOMOUS
ITS_OWN_WARNING = "ignore:.*torch.jit.script.* is deprecated"  # torch's, in its forward mode


def field_and_state(name: str, dtype: torch.dtype = torch.float32) -> tuple[of.Dynamics, Tensor]:
    torch.manual_seed(0)
    make, shape = FIELDS[name]
    return make().to(dtype), torch.randn(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, 1), (3, 1), (4, 1), (10, 2), (32, 8), (37, 1), (48, 12), (64, 32), (100, 25), (128, 32)],
)
def test_groups_have_several_channels(channels: int, groups: int) -> None:
    """There are 32 groups from 64 channels on, below groups of at least four channels, and always a divisor."""
    assert group_norm(channels).num_groups == groups


def size(field: nn.Module) -> int:
    return sum(param.numel() for param in field.parameters())


@pytest.mark.parametrize("name", FIELDS)
def test_the_slope_has_the_shape_of_the_state(name: str) -> None:
    """f(t, y) is shaped as y, and `width` is the size of its features or channels."""
    field, y = field_and_state(name)
    assert field(ZERO, y).shape == y.shape
    images = isinstance(field, (ConvNet, UNet)) or "patches" in name
    assert field.width == y.shape[1 if images else -1]


@pytest.mark.parametrize("name", FIELDS)
def test_time_enters_where_it_should(name: str) -> None:
    """A field with time changes with t; an autonomous one does not."""
    field, y = field_and_state(name)
    if name in AUTONOMOUS:
        assert torch.equal(field(ZERO, y), field(ZERO + 1, y))
    else:
        assert (field(ZERO, y) - field(ZERO + 1, y)).abs().mean() > 0.01


@pytest.mark.parametrize("name", FIELDS)
def test_samples_do_not_see_each_other(name: str) -> None:
    """The slope of a sample does not depend on its batch mates."""
    field, y = field_and_state(name)
    assert torch.allclose(field(HALF, y)[:2], field(HALF, y[:2]), atol=1e-6)


@pytest.mark.parametrize("name", FIELDS)
def test_samples_may_have_times_of_their_own(name: str) -> None:
    """At t of shape (B,) the slope is each sample's at its own time, also where B is the size of another dimension."""
    field, y = field_and_state(name, torch.float64)
    for count in (len(y), min(y.shape)):
        t = torch.linspace(-1, 1, count, dtype=torch.float64)
        wanted = torch.cat([field(time, state[None]) for time, state in zip(t, y, strict=False)])
        assert torch.allclose(field(t, y[:count]), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FIELDS)
def test_every_parameter_is_trained(name: str) -> None:
    """A loss on the slope has a gradient in every parameter."""
    field, y = field_and_state(name)
    (field(HALF, y) - 1).square().sum().backward()
    for param_name, param in field.named_parameters():
        assert param.grad is not None, param_name
        assert param.grad.abs().max() > 1e-6, param_name


@pytest.mark.parametrize("name", FIELDS)
def test_the_slope_has_the_dtype_of_the_field(name: str) -> None:
    """In float64 the slope is float64 and agrees with float32; a float32 time does no harm."""
    field, y = field_and_state(name)
    single, double = field(HALF, y), field.double()(HALF.double(), y.double())
    assert double.dtype == field(HALF, y.double()).dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-5)


@pytest.mark.parametrize("name", FIELDS)
def test_autocast(name: str) -> None:
    """Under bfloat16 autocast the slope is the same to about its two digits, and so are its gradients."""
    field, y = field_and_state(name)
    params = tuple(field.parameters())
    truth = field(HALF, y)
    wanted = torch.cat([grad.flatten() for grad in torch.autograd.grad(truth.square().sum(), params)])
    with torch.autocast("cpu", torch.bfloat16):
        slope = field(HALF, y)
    assert torch.allclose(slope.float(), truth, atol=0.1)
    grads = torch.cat([grad.flatten() for grad in torch.autograd.grad(slope.float().square().sum(), params)])
    assert (grads - wanted).norm() < 0.1 * wanted.norm()


@pytest.mark.parametrize("name", FIELDS)
def test_two_reverse_derivatives(name: str) -> None:
    """‖uᵀ ∂f/∂y‖² has a gradient in y, which agrees with differences, and one in the parameters."""
    field, y = field_and_state(name, torch.float64)
    t, u, v = HALF.double(), torch.randn_like(y), torch.randn_like(y)

    def penalty(y: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(field(t, y), y, u, create_graph=True)
        return product.square().sum()

    start = y.clone().requires_grad_()
    params = [param for param in field.parameters() if param.dim() > 1]
    grad, *grads = torch.autograd.grad(penalty(start), (start, *params), materialize_grads=True)
    assert any(bool(grad.any()) for grad in grads)
    ahead, behind = ((y + side * 1e-5 * v).requires_grad_() for side in (1, -1))
    difference = (penalty(ahead) - penalty(behind)) / 2e-5
    assert torch.allclose((grad * v).sum(), difference, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings(ITS_OWN_WARNING)
@pytest.mark.parametrize("name", FIELDS)
def test_two_forward_derivatives(name: str) -> None:
    """df/dt and d²f/dt² along the solution, by forward mode, agree with differences, and so do their gradients."""
    field, y = field_and_state(name, torch.float64)
    t = HALF.double()

    def first(t: Tensor, y: Tensor) -> Tensor:
        return torch.func.jvp(field, (t, y), (torch.ones_like(t), field(t, y)))[1]

    def second(t: Tensor, y: Tensor) -> Tensor:
        return torch.func.jvp(first, (t, y), (torch.ones_like(t), field(t, y)))[1]

    slope, v = field(t, y).detach(), torch.randn_like(y)
    for function, derivative in ((field, first), (first, second)):
        difference = (function(t + 1e-5, y + 1e-5 * slope) - function(t - 1e-5, y - 1e-5 * slope)) / 2e-5
        assert torch.allclose(derivative(t, y), difference, rtol=1e-5, atol=1e-5)
        (grad,) = torch.autograd.grad(derivative(t, start := y.clone().requires_grad_()).sum(), start)
        difference = (derivative(t, y + 1e-5 * v) - derivative(t, y - 1e-5 * v)).sum() / 2e-5
        assert torch.allclose((grad * v).sum(), difference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FIELDS)
def test_batches_of_flows(name: str) -> None:
    """A flow with fixed steps goes through vmap, and agrees with a loop; so does its gradient."""
    field, y = field_and_state(name)
    flow, states = of.Flow(field, RK4(num_steps=2), of.Backprop()), torch.stack([y, -y])
    assert torch.allclose(torch.func.vmap(flow)(states), torch.stack([flow(y), flow(-y)]), atol=1e-5)

    def energy(y: Tensor) -> Tensor:
        return flow(y).square().sum()

    (grad,) = torch.autograd.grad(energy(start := y.clone().requires_grad_()), start)
    assert torch.allclose(torch.func.vmap(torch.func.grad(energy))(states)[0], grad, rtol=1e-4, atol=1e-4)


def test_power_feeds_the_powers_alone() -> None:
    """With power=3 the perceptron sees y³."""
    torch.manual_seed(0)
    cubed = MLP(2, power=3)
    torch.manual_seed(0)
    plain = MLP(2)
    y = torch.randn(4, 2)
    assert torch.equal(cubed(ZERO, y), plain(ZERO, y**3))


def test_concat_squash_gates_and_shifts() -> None:
    """Each layer of FFJORD's field is (Wx + b) sigmoid(ut + v) + wt."""
    field, y = MLP(2, hidden=(4,), time="concat_squash"), torch.randn(5, 2)
    x = y
    for number in (0, 1):
        gate, shift = field.gates[number], field.shifts[number]
        x = (
            field.layers[2 * number](x) * torch.sigmoid(gate.weight[:, 0] * HALF + gate.bias)
            + shift.weight[:, 0] * HALF
        )
        x = x.tanh() if number == 0 else x
    assert torch.allclose(field(HALF, y), x, atol=1e-6)


def test_plain_perceptrons_are_their_layers() -> None:
    """With the time as an input or without it, an MLP has no parameters but those of its layers."""
    for field in (MLP(3), MLP(3, time="none")):
        names = [f"layers.{number}.{kind}" for number in (0, 2, 4) for kind in ("weight", "bias")]
        assert list(field.state_dict()) == names


def test_linear_systems_have_their_solutions() -> None:
    """The flow of dy/dt = Ay is exp(A), that of dy/dt = ct + b is y + c/2 + b."""
    field, y = Linear(3, bias=False).double(), torch.randn(4, 3, dtype=torch.float64)
    flow = of.Flow(field, RK4(num_steps=100))
    assert torch.allclose(flow(y), y @ torch.linalg.matrix_exp(field.layer.weight).mT, atol=1e-8)
    field = Linear(3, time="concat").double()
    nn.init.zeros_(field.layer.weight[:, :3])
    shift = field.layer.weight[:, 3] / 2 + field.layer.bias
    assert torch.allclose(of.Flow(field, RK4(num_steps=2))(y), y + shift)


def test_published_sizes() -> None:
    """The convolutional field with 64 channels is the size of the published ODE-Net's block; others as documented."""
    assert size(ConvNet(64)) == 75_392
    assert size(UNet(1)) == 630_881
    assert size(UNet(1, hidden=16)) == 161_073
    assert size(Transformer(3)) == 85_443


def test_a_deeper_unet_sees_farther() -> None:
    """One more halving doubles the channels at the bottom; sides may be odd on any level."""
    images = torch.randn(2, 3, 8, 12)
    assert UNet(3, hidden=8, depth=1)(HALF, images[..., :6, :10]).shape == (2, 3, 6, 10)
    assert UNet(3, hidden=8, depth=2)(HALF, images[..., :7, :5]).shape == (2, 3, 7, 5)
    assert UNet(3, hidden=8, depth=2)(HALF, images).shape == images.shape
    assert (
        UNet(3, hidden=8, depth=2).middle.conv1.in_channels == 2 * UNet(3, hidden=8, depth=1).middle.conv1.in_channels
    )


def test_time_survives_norms_of_one_channel() -> None:
    """The time enters the U-Net's blocks even where every channel is normalised by itself."""
    field, images = UNet(2, hidden=8, depth=1, groups=8), torch.randn(2, 2, 4, 4)
    assert not torch.allclose(field(ZERO, images), field(HALF, images), atol=1e-3)


def test_tokens_are_seen_with_their_places() -> None:
    """Tokens in another order have other slopes, and the same ones once their places are hidden; any number will do."""
    torch.manual_seed(0)
    field, tokens = Transformer(3, hidden=8, num_heads=2), torch.randn(2, 6, 3)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    assert not torch.allclose(field(HALF, tokens[:, order]), field(HALF, tokens)[:, order], atol=1e-2)
    nn.init.zeros_(field.locate.weight)
    assert torch.allclose(field(HALF, tokens[:, order]), field(HALF, tokens)[:, order], atol=1e-6)
    assert field(HALF, tokens[:, :1]).shape == (2, 1, 3)


def test_patches_go_back_to_where_they_came_from() -> None:
    """Without attention a pixel changes the slope of its own patch and of no other; images of any size will do."""
    field, image = Transformer(2, hidden=8, patch=2), torch.randn(1, 2, 4, 6)
    for block in field.blocks:
        nn.init.zeros_(block.join.weight)
    changed = image.clone()
    changed[0, 1, 2, 5] += 1  # in the patch of rows 2, 3 and columns 4, 5
    moved = (field(HALF, changed) - field(HALF, image)).abs() > 1e-6
    assert bool(moved[..., 2:, 4:].all())
    assert int(moved.sum()) == 2 * 2 * 2
    assert field(HALF, torch.randn(1, 2, 8, 2)).shape == (1, 2, 8, 2)


def test_fused_attention_is_attention() -> None:
    """PyTorch's fused attention gives the slopes and gradients of the plain one."""
    plain, fused = (Transformer(3, hidden=8, num_heads=2, fused=fused) for fused in (False, True))
    fused.load_state_dict(plain.state_dict())
    tokens = torch.randn(2, 6, 3)
    assert torch.allclose(fused(HALF, tokens), plain(HALF, tokens), atol=1e-6)
    grads = [torch.autograd.grad(f(HALF, tokens).square().sum(), f.blocks[0].heads.weight)[0] for f in (plain, fused)]
    assert torch.allclose(*grads, atol=1e-5)


def test_the_time_embedding_is_of_size_one() -> None:
    """sin² + cos² = 1 for each of its frequencies, at all times, so that ‖φ‖² is half the number of features."""
    embed = TimeEmbedding(32)
    times = torch.linspace(-3, 30, 50)
    assert embed(ZERO).shape == (32,)
    assert torch.allclose(embed(times).square().sum(-1), torch.full((50,), 16.0))
    assert torch.allclose(embed(times)[7], embed(times[7]))
    assert torch.pdist(embed(times)).min() > 0.3


def test_the_time_embedding_has_the_periods_it_was_given() -> None:
    """The first frequency has the longest period, the last the shortest."""
    embed = TimeEmbedding(8, shortest=0.5, longest=4.0)
    periods = torch.tensor([4.0, 2.0, 1.0, 0.5])
    assert torch.allclose(2 * torch.pi / embed.frequencies, periods)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MLP(3)(ZERO, torch.randn(5, 2)), of.StateError, r"MLP\(dim=3\) takes states \(…, 3\); got \(5, 2\)"),
        (lambda: MLP(3)(ZERO, ZERO), of.StateError, r"takes states \(…, 3\); got \(\)"),
        (
            lambda: Linear(3)(ZERO, torch.randn(5, 2)),
            of.StateError,
            r"Linear\(dim=3\) takes states \(…, 3\); got \(5, 2\)",
        ),
        (
            lambda: ConvNet(8)(ZERO, torch.randn(5, 4, 3, 3)),
            of.StateError,
            r"images \(B, 8, H, W\); got \(5, 4, 3, 3\)",
        ),
        (lambda: ConvNet(8)(ZERO, torch.randn(5, 8)), of.StateError, r"got \(5, 8\)"),
        (
            lambda: UNet(16)(ZERO, torch.randn(2, 16, 3, 8)),
            of.StateError,
            r"UNet\(depth=2\) takes images \(B, 16, H, W\) with H and W of at least 4; got \(2, 16, 3, 8\): use larger images or a smaller depth",
        ),
        (
            lambda: UNet(16)(ZERO, torch.randn(2, 8, 8, 8)),
            of.StateError,
            r"images \(B, 16, H, W\) .* got \(2, 8, 8, 8\)",
        ),
        (lambda: UNet(16)(ZERO, torch.randn(2, 16)), of.StateError, r"got \(2, 16\)"),
        (
            lambda: Transformer(3)(ZERO, torch.randn(2, 3, 4, 4)),
            of.StateError,
            r"Transformer\(dim=3\) takes tokens \(…, N, 3\); got \(2, 3, 4, 4\). For images, set patch",
        ),
        (lambda: Transformer(3)(ZERO, torch.randn(3)), of.StateError, r"got \(3,\)"),
        (
            lambda: Transformer(3, patch=4)(ZERO, torch.randn(2, 3, 8, 6)),
            of.StateError,
            r"Transformer\(patch=4\) takes images \(B, 3, H, W\) with H and W divisible by 4; got \(2, 3, 8, 6\): pad the images or use another patch",
        ),
        (lambda: Transformer(3, patch=4)(ZERO, torch.randn(2, 8, 3)), of.StateError, r"got \(2, 8, 3\)"),
        (lambda: MLP(3, activation="sine"), of.SettingError, "knows no activation 'sine'; choose from tanh, softplus"),
        (
            lambda: MLP(3, time="late"),
            of.SettingError,
            "time must be 'concat', 'none', 'concat_squash' or 'sinusoidal'; got 'late'",
        ),
        (lambda: Linear(3, time="late"), of.SettingError, "Linear: time must be 'none' or 'concat'; got 'late'"),
        (lambda: UNet(3, depth=0), of.SettingError, "depth must be at least 1; got 0. For no halving, use ConvNet"),
        (lambda: UNet(3, hidden=12), of.SettingError, "hidden must be a positive multiple of groups; got 12 and 8"),
        (lambda: UNet(3, groups=0), of.SettingError, "multiple of groups; got 32 and 0"),
        (lambda: Transformer(3, num_heads=5), of.SettingError, "num_heads must divide hidden; got 5 and 64"),
        (lambda: Transformer(3, num_layers=0), of.SettingError, "Transformer: num_layers must be at least 1; got 0"),
        (lambda: Transformer(3, patch=0), of.SettingError, "Transformer: patch must be at least 1; got 0"),
        (lambda: TimeEmbedding(7), of.SettingError, "size must be an even number, at least 2; got 7"),
        (lambda: TimeEmbedding(8, shortest=0), of.SettingError, "0 < shortest <= longest; got 0 and 32"),
    ],
)
def test_mistakes_are_named(call: object, error: type[Exception], message: str) -> None:
    """A state of the wrong shape and an unknown option are refused with what was wanted and what came."""
    with pytest.raises(error, match=message):
        call()
