"""`odeflow check` and `odeflow env`."""

import re
from importlib.metadata import version
from pathlib import Path

import torch


def test_recipes_are_built_and_described(done):
    """A line for each recipe says its task, number of parameters and data; nothing is written."""
    out = done("check spiral digits/ode_net --model.solver RK4 --model.solver.num_steps 4").out.splitlines()
    assert out[0] == "spiral: Trajectory, 252 parameters, on Spiral"  # 2·50 + 50 + 50·2 + 2
    assert re.fullmatch(r"digits/ode_net: Classification, [\d,]+ parameters, on Digits", out[1])
    assert not Path("runs").exists()


def test_what_cannot_be_built_is_named(command):
    """One wrong recipe does not hide the others, and the exit status is 2."""
    Path("wrong.yaml").write_text("model: {init_args: {solver: {class_path: Dopri5, init_args: {rtoll: 1e-3}}}}")
    Path("coarse.yaml").write_text("model: {init_args: {solver: {init_args: {rtol: 1e-2}}}}")
    outcome = command("check spiral nope -c coarse.yaml")
    assert outcome.status == 2
    assert outcome.out.startswith("spiral: Trajectory")
    assert "nope: error: no recipe or file named 'nope'" in outcome.err
    outcome = command("check spiral -c wrong.yaml")
    assert outcome.status == 2
    assert "rtoll" in outcome.err


def test_a_recipe_is_needed(refused):
    """Without one the message shows a command that has one."""
    assert "odeflow check spiral" in refused("check --trainer.max_epochs 3")


def test_the_environment_names_versions(done, refused):
    """Versions are those of the installed packages."""
    facts = dict(line.split(maxsplit=1) for line in done("env").out.splitlines())
    assert facts["odeflow"] == version("odeflow")
    assert facts["torch"] == torch.__version__
    assert {"python", "system", "devices"} <= set(facts)
    assert "takes no options" in refused("env --all")
