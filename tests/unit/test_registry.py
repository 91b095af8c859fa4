"""Laws of the registry: it shows the concrete subclasses, once each, and helps those who mistype."""

from abc import ABC
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import odeflow as of
from odeflow.plugin import registry
from odeflow_solvers import RK4

BUILT_IN = {
    "solver": {
        *("Bosh3", "CashKarp45", "Dopri5", "Dopri8", "Euler", "Fehlberg45", "Heun", "HeunEuler", "Kutta3", "Midpoint"),
        *("RK38", "RK4", "Ralston", "TorchDiffEq", "Tsit5"),
    },
    "gradient": {"Adjoint", "Backprop", "Checkpointed"},
    "dynamics": {
        *("Controlled", "ConvNet", "Galerkin", "Hypernetwork", "Linear", "MLP", "Normed", "Piecewise", "PlanarCNF"),
        *("Transformer", "UNet"),
    },
    "divergence": {"Exact", "HutchPlusPlus", "Hutchinson"},
    "regularizer": {"JacobianNorm", "Kinetic", "Taylor"},
    "task": {"Classification", "Density", "Regression", "Trajectory"},
    "data": {"Crossing", "Digits", "MNIST", "Spheres", "Spiral"},
}


@pytest.mark.parametrize("kind", registry.CONTRACTS)
def test_built_in_plugins_are_found(kind: str) -> None:
    """Every plugin that comes with odeflow is found under its class name, and every contract is abstract."""
    assert registry.plugins(kind).keys() >= BUILT_IN[kind]
    with pytest.raises(TypeError, match="abstract"):
        registry.contract(kind)()


def test_only_concrete_classes_with_an_address_are_plugins() -> None:
    """Abstract classes and classes inside functions are no choices."""

    class Hidden(of.RungeKutta):
        tableau = of.Tableau(order=1, c=(0,), a=((),), b=(1,))

    assert issubclass(Hidden, ABC)
    assert not {"Hidden", "RungeKutta", "ImplicitRungeKutta"} & registry.plugins("solver").keys()


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "solver",
            "RK5",
            r"no solver named 'RK5'\. Did you mean RK4\?  available: AdamsBashforth, AdamsBashforthMoulton, Bosh3",
        ),
        ("solver", "dopri5", r"no solver named 'dopri5'\. Did you mean Dopri5\?"),
        ("solver", "xyz", r"no solver named 'xyz'\.  available: AdamsBashforth"),
        ("solvr", "RK4", r"no kind of plugin named 'solvr'\. Did you mean solver\?  available: solver, dynamics"),
    ],
)
def test_unknown_names_are_explained(kind: str, name: str, message: str) -> None:
    """What is unknown names the nearest and lists what there is."""
    with pytest.raises(of.PluginError, match=message):
        registry.look_up(kind, name)


def test_one_plugin_is_found_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """To find a plugin, packages named after its kind are imported first, and no further one once it is there."""
    entries = [EntryPoint(name, f"{name}_package", registry.GROUP) for name in ("data", "more", "solvers", "tasks")]
    loaded: list[str] = []

    def load(entry: EntryPoint) -> None:
        loaded.append(entry.name)
        if entry.name == "more":
            raise ImportError("no such thing")

    monkeypatch.setattr(registry, "packages", lambda: entries)
    monkeypatch.setattr(registry, "_failures", {})
    monkeypatch.setattr(EntryPoint, "load", load)
    assert registry.find("solver", "Dopri5").__name__ == "Dopri5"
    assert not loaded
    with pytest.raises(of.PluginError, match=r"no solver named 'Dopri6'\. Did you mean"):
        registry.find("solver", "Dopri6")
    assert loaded == ["solvers", "data", "more", "tasks"]
    assert registry.failures() == {"more (more_package)": "ImportError: no such thing"}


def test_specs_build_registered_plugins_only() -> None:
    """A spec cannot make anything run that is not a plugin; the message says how to get the plugin."""
    for path in ("os.system", "subprocess.Popen", "torch.nn.Conv2d", "elsewhere.RK45"):
        with pytest.raises(of.PluginError, match=r"is not registered\. Install its package, or load its file with"):
            registry.build({"class_path": path, "init_args": {}})


def test_specs_of_another_version_are_explained() -> None:
    """An option that the class does not have, as an older checkpoint may, is named beside those that it has."""
    message = r"RK4 has no option 'num_step'\. Did you mean num_steps\?  options: .*step_size"
    with pytest.raises(of.PluginError, match=message):
        registry.build({"class_path": "odeflow_solvers.RK4", "init_args": {"num_step": 2}})


def test_a_plugin_that_moved_is_found_by_its_name() -> None:
    """An old import path still finds the class of that name."""
    assert registry.build({"class_path": "old_home.RK4", "init_args": {"num_steps": 2}}).control.num_steps == 2


LOOSE = """
import odeflow as of

class {name}(of.RungeKutta):
    '''Euler once more.'''
    tableau = of.Tableau(order=1, c=(0,), a=((),), b=(1,))
"""


def test_specs_store_public_names(tmp_path: Path) -> None:
    """A stored class is named by the outermost package that exports it, by its module where none does, and is found."""
    (tmp_path / "unexported.py").write_text(LOOSE.format(name="Unexported"))
    (module,) = registry.load_named(str(tmp_path / "unexported.py"))
    for plugin, path in (
        (of.Checkpointed(), "odeflow.Checkpointed"),
        (of.Kinetic(weight=1.0), "odeflow.Kinetic"),
        (RK4(num_steps=1), "odeflow_solvers.RK4"),
        (module.Unexported(num_steps=1), "unexported.Unexported"),
    ):
        assert plugin.spec["class_path"] == path
        assert registry.class_of(path) is type(plugin)


def test_two_plugins_of_one_name_are_an_error(tmp_path: Path) -> None:
    """The error names both, wherever they come from."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"twin_{folder}.py").write_text(LOOSE.format(name="Twin"))
    (first,) = registry.load_named(str(tmp_path / "one"))
    assert registry.look_up("solver", "Twin") is first.Twin
    (second,) = registry.load_named(str(tmp_path / "two" / "twin_two.py"))
    with pytest.raises(of.PluginError, match=r"two solver plugins are called Twin: twin_one\.Twin and twin_two\.Twin"):
        registry.plugins("solver")
    second.Twin.__module__ = first.Twin.__module__  # as if it were the same class defined again
    assert registry.look_up("solver", "Twin") is second.Twin


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("absent.py", None, "there is no plugin file .*absent.py"),
        ("no_such_module", None, "there is no plugin file, folder or module no_such_module"),
        ("wrong.py", "import no_such_package", "plugins from .*wrong.py cannot be imported: No module named 'no_such"),
        ("bad.py", "1 / 0", "plugins from .*bad.py cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_what_the_user_names_must_import(tmp_path: Path, name: str, source: str | None, message: str) -> None:
    """A file or module that is absent or broken is an error with its reason."""
    if source is not None:
        (tmp_path / name).write_text(source)
    with pytest.raises(of.PluginError, match=message):
        registry.load_named(str(tmp_path / name) if name.endswith(".py") else name)


def test_a_name_of_several_kinds_needs_its_path() -> None:
    """Plugins of different kinds may share a name; without its kind the name alone does not say which one is meant."""
    assert registry.look_up("dynamics", "Linear") is registry.class_of("odeflow_dynamics.Linear")
    with pytest.raises(
        of.PluginError, match=r"several plugins are named Linear; write which one: odeflow_dyn.* or ode"
    ):
        registry.class_of("Linear")


def test_options_that_a_group_lacks_are_the_plugins_defaults() -> None:
    """A stored group of options that names some has the plugin's own defaults for the others."""
    data = registry.build({"class_path": "PhysioNet2012", "init_args": {"split": {"seed": 4}}})
    assert (data.split.val, data.split.seed, data.seen.share) == (0.05, 4, 1.0)
