"""Laws of Plugin: it remembers how it was built, as plain data."""

import copy
import json
import math
import pickle
import typing
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import odeflow as of
from odeflow.plugin import registry
from odeflow_data import MNIST, BidirectionalSpirals, Crossing, Digits, PeriodicSeries, Power, Shares, Spheres, Spiral
from odeflow_dynamics import MLP, ConvNet, Cubic, Linear, PlanarCNF, Transformer, UNet
from odeflow_solvers import RK4, Dopri5, ImplicitEuler, Kvaerno5, TorchDiffEq
from odeflow_tasks import RNN, Classification, ConvStem, Dequantisation, Perceptron, RNNEncoder, Trajectory


def test_spec_nests_and_holds_defaults() -> None:
    """A spec names the class, holds positional, keyword and default arguments, and those of plugins inside."""
    task = Trajectory(MLP(2, hidden=(8,)), RK4(num_steps=3), gradient=of.Adjoint(Dopri5(rtol=1e-8)))
    spec = task.spec
    assert spec["class_path"] == "odeflow_tasks.Trajectory"
    options = spec["init_args"]
    assert options["dynamics"]["init_args"] == {
        "dim": 2,
        "hidden": [8],
        "activation": "tanh",
        "time": "concat",
        "power": 1,
        "zero_init": False,
    }
    assert options["solver"]["init_args"] == {
        "step_size": None,
        "num_steps": 3,
        "max_steps": None,
        "compile": False,
        "jump_ts": None,
    }
    assert options["gradient"]["init_args"]["solver"]["init_args"]["rtol"] == 1e-8
    assert options["distance"] == "mae"
    assert json.loads(json.dumps(spec)) == spec


def test_build_is_the_inverse_of_spec() -> None:
    """A plugin built from another's spec has the same spec and, with the same weights, the same values."""
    first = Classification(ConvNet(8), RK4(num_steps=1), stem=ConvStem(1), shape=(1, 10, 10), num_classes=3)
    second = registry.build(json.loads(json.dumps(first.spec)))
    assert second.spec == first.spec
    second.load_state_dict(first.state_dict())
    images = torch.randn(2, 1, 10, 10)
    assert torch.equal(first(images), second(images))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"])
def test_copies_remember_too(clone: object) -> None:
    """Deep copies and pickles of a plugin are whole, and have its spec."""
    field = MLP(3, hidden=[4])
    twin = clone(field)
    assert twin.spec == field.spec
    y = torch.randn(2, 3)
    assert torch.equal(twin(torch.zeros(()), y), field(torch.zeros(()), y))


def test_later_changes_do_not_reach_the_spec() -> None:
    """A list that was given and changed afterwards is remembered as it was; a path is remembered as a string."""
    widths = [4, 4]
    field = MLP(3, hidden=widths)
    widths.append(5)
    assert field.spec["init_args"]["hidden"] == [4, 4]
    assert registry.look_up("data", "MNIST")(root=Path("here")).spec["init_args"]["root"] == "here"


def test_what_is_not_plain_is_refused_when_it_is_stored() -> None:
    """A plugin may be built with any object, but its spec then says which argument is in the way."""
    layer = nn.Linear(2, 2)
    layer.width, layer.states, layer.inputs, layer.driven = 2, (), (), False  # pyright: ignore
    task = Trajectory(layer, RK4(num_steps=1))  # pyright: ignore
    with pytest.raises(of.PluginError, match=r"Trajectory cannot be stored: its argument dynamics is Linear"):
        _ = task.spec


@pytest.mark.parametrize(
    ("cls", "option", "message"),
    [
        (RK4, "stepsize", r"RK4 has no option 'stepsize'\. Did you mean step_size\?  options: step_size, num_steps, "),
        (
            Kvaerno5,
            "compile",
            r"no option 'compile'\.  options: rtol, .* is an option of Bosh3, .*Dopri5, .*Tsit5",
        ),
        (MLP, "layers", r"MLP has no option 'layers'\.  options: dim, hidden"),
        (
            of.Exact,
            "probes",
            r"Exact has no option 'probes'\.  options: none  probes is an option of HutchPlusPlus, Hutch",
        ),
    ],
    ids=str,
)
def test_unknown_options_are_named(cls: type[of.Plugin], option: str, message: str) -> None:
    """An option that a plugin does not have is an error that names the nearest, all it has, and which plugins have it."""
    with pytest.raises(of.SettingError, match=message):
        cls(**{option: 1})


def shipped(kind: str) -> dict[str, type]:
    """The plugins of a kind by name, without those of tests."""
    return {name: cls for name, cls in registry.plugins(kind).items() if cls.__module__.startswith("odeflow")}


@pytest.mark.parametrize("kind", registry.kinds())
def test_every_plugin_knows_its_options(kind: str) -> None:
    """Every registered plugin refuses an option that it does not have in those words."""
    for cls in shipped(kind).values():
        with pytest.raises(of.SettingError, match=f"{cls.__name__} has no option 'nonsense'"):
            cls(nonsense=1)


def test_other_wrong_calls_say_what_python_says() -> None:
    """A call of a plugin that is wrong in another way raises the ordinary TypeError of its constructor."""
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'dim'"):
        MLP()  # pyright: ignore


def test_a_gradient_says_what_it_needs_and_lacks() -> None:
    """A gradient without `needs_params`, or with an unknown feature, is refused at its definition, with the values."""
    with pytest.raises(of.PluginError, match=r"the gradient Plain must set needs_params: True if .*, False if"):

        class Plain(of.Gradient):  # pyright: ignore[reportUnusedClass]
            differentiate = of.Backprop.differentiate

    with pytest.raises(of.PluginError, match=r"Lacking: unsupported must hold features among 'dense .*; got 'dense'$"):

        class Lacking(of.Backprop):  # pyright: ignore[reportUnusedClass]
            unsupported = frozenset({"dense"})  # pyright: ignore[reportAssignmentType]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in registry.kinds() for name in shipped(kind)])
def test_numbers_are_finite(kind: str, name: str) -> None:
    """No plugin takes inf or nan, also in a list; what is unbounded is None."""
    cls = registry.look_up(kind, name)
    own = typing.get_type_hints(cls.__init__) if cls.__init__ is not object.__init__ else {}
    for option in (option for option, hint in own.items() if "float" in str(hint)):
        for value in (math.nan, [1.0, -math.inf]):
            with pytest.raises(of.SettingError, match=rf"{name}: {option}.* must be a finite number; got (nan|-inf)"):
                cls(**{option: value})


SENSELESS: list[tuple[Callable[[], object], str]] = [
    (lambda: MLP(2, power=0), "MLP: power must be at least 1; got 0"),
    (lambda: MLP(2, hidden=[0]), r"MLP: hidden must be at least 1; got \[0\]"),
    (lambda: MLP(-1), "MLP: dim must be at least 1; got -1"),
    (lambda: ConvNet(0), "ConvNet: channels must be at least 1; got 0"),
    *((partial(cls, dim=0), "dim must be at least 1; got 0") for cls in (Cubic, Linear, PlanarCNF, Transformer)),
    (lambda: UNet(0), "UNet: channels must be at least 1; got 0"),
    *(
        (partial(registry.look_up("solver", name), rtol=1e30), f"{name}: rtol must be below 1")
        for name in ("Bosh3", "Dopri5", "Kvaerno5", "Rodas4", "TorchDiffEq")
    ),
    (lambda: TorchDiffEq(atol=-1.0), "TorchDiffEq: rtol and atol must not be negative"),
    (lambda: Dopri5(controller=[0.0]), "first gain must be positive"),
    (lambda: Dopri5(controller=[1e30]), "gains are of size 10 at most"),
    (lambda: Dopri5(controller=[0.7, 1e30]), "gains are of size 10 at most"),
    (lambda: Kvaerno5(newton_tol=1e30), "newton_tol must be positive and below 1"),
    (lambda: ImplicitEuler(num_steps=1, newton_tol=1e30), "newton_tol must be positive and below 1"),
    (lambda: Classification(shape=(1, 0, 8)), r"Classification: shape must be at least 1; got \[1, 0, 8\]"),
    (lambda: Classification(num_classes=-1), "Classification: num_classes must be at least 1; got -1"),
    (lambda: RNN(dim=2, width=0), "RNN: width must be at least 1; got 0"),
    (lambda: Perceptron(hidden=[0]), "Perceptron: hidden must be at least 1"),
    (lambda: RNN(dim=2, num_classes=-1), "RNN: num_classes must be at least 1"),
    (
        lambda: RNNEncoder(width=0),
        "RNNEncoder: width must be at least 1",
    ),
    (lambda: Dequantisation(alpha=-1.0), "alpha must lie between 0 and 0.5; got -1.0"),
    *(
        (partial(cls, batch_size=0), f"{cls.__name__}: batch_size must be at least 1; got 0")
        for cls in (Digits, MNIST, Power)
    ),
    *((partial(cls, seed=-1), "seed must be at least 0; got -1") for cls in (Digits, MNIST, Power, Spheres, Crossing)),
    (lambda: Spiral(t1=0.0), r"Spiral: t1 must lie in \(0, inf\); got 0.0"),
    (lambda: Spiral(noise=-1.0), "Spiral: noise must be at least 0; got -1.0"),
    (lambda: PeriodicSeries(series=0), "PeriodicSeries: series must be at least 1; got 0"),
    (lambda: PeriodicSeries(frequency=(-1.0, 1.0)), "PeriodicSeries: frequency must be at least 0"),
    (lambda: Shares(val=-1.0), "val and test must be positive and leave a share to train on"),
    (lambda: BidirectionalSpirals(spirals=0), "BidirectionalSpirals: spirals must be at least 1; got 0"),
]


@pytest.mark.parametrize(("build", "message"), SENSELESS)
def test_numbers_make_sense(build: Callable[[], object], message: str) -> None:
    """A number with which nothing can be computed or learned is refused when the plugin is built, by name."""
    with pytest.raises(of.SettingError, match=message):
        build()


def test_choices_are_those_of_the_annotation() -> None:
    """An argument annotated by literals has one of these values, in plugins and in groups of options."""

    class Chooser(of.Plugin):
        def __init__(self, how: typing.Literal["fast", "exact", 2] | None = None, other: "Missing" = 0) -> None:  # noqa: F821
            pass

    class Listed(Chooser):
        def __init__(self, how: typing.Literal["fast", "exact", 2] | None = None) -> None:
            super().__init__(how)

    Chooser("slow")  # an annotation that only type checkers resolve turns the check off
    for how in ("fast", "exact", 2, None):
        Listed(how)
    with pytest.raises(of.SettingError, match=r"^Listed: how must be 'fast', 'exact', 2 or None; got 'slow'$"):
        Listed("slow")
    with pytest.raises(of.SettingError, match=r"^FlowOptions: lift must be 'zero' or 'learned'; got 'high'$"):
        of.FlowOptions(lift="high")


def test_a_range_names_its_interval() -> None:
    """Ends of an interval are included as its brackets say; every entry of a list must lie in it."""
    owner = Dequantisation()
    of.check_range(owner, "[0, 1)", a=0, b=[0.0, 0.5], c=None)
    of.check_range(owner, "(0, inf)", a=1e300)
    for options, message in (({"a": 1}, r"a must lie in \[0, 1\); got 1"), ({"b": [0.5, -1]}, r"got \[0.5, -1\]")):
        with pytest.raises(of.SettingError, match=f"^Dequantisation: .*{message}$"):
            of.check_range(owner, "[0, 1)", **options)
    with pytest.raises(of.SettingError, match=r"must lie in \(0, 1\]; got nan"):
        of.check_range(owner, "(0, 1]", a=math.nan)
