"""Plugins in loose files, named by --plugins and $ODEFLOW_PLUGINS; and plugins that do not work."""

import os
import shutil

import pytest

LOAD = """
import odeflow
solver = odeflow.load({!r}, plugins={!r}).flow.solver
print(type(solver).__name__, solver.control.num_steps)
"""
SHORT = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.log_every_n_steps", "1")
PLUGIN = """
import odeflow as of

class {}(of.RungeKutta):
    \"\"\"A plugin of a test's.\"\"\"

    tableau = of.Tableau(order=1, c=(0,), a=((),), b=(1,))
"""


@pytest.fixture(scope="module")
def checkpoint(examples, shell, tmp_path_factory):
    """A checkpoint of the spiral, trained with the loose file's solver for two batches."""
    folder = tmp_path_factory.mktemp("run")
    words = ["fit", "-c", "spiral", "--plugins", str(examples / "heun3.py"), "--model.solver", "Heun3"]
    (ended,) = shell(folder).session([*words, "--model.solver.num_steps", "5", *SHORT])
    assert ended.status == 0, ended.err
    (best,) = folder.glob("runs/spiral/version_0/checkpoints/best.ckpt")
    return best


@pytest.fixture
def broken_package(tmp_path):
    """A folder in which a plugin package is installed whose import fails."""
    site = tmp_path / "site"
    metadata = site / "unwell-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: unwell\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[odeflow.plugins]\nill = unwell_package\n")
    (site / "unwell_package.py").write_text("raise RuntimeError('it wants list[int] and [/dev/gpu]')\n")
    return site


def test_checkpoint_needs_its_file(checkpoint, examples, shell, tmp_path):
    """Without the file, command line and `load` name plugin and remedy; with it, both work, though it was renamed.

    Another solver in its place needs no file.
    """
    shutil.copy(examples / "heun3.py", tmp_path / "renamed.py")
    tested, replaced, refused, loaded, again = shell(tmp_path).session(
        ["test", "--ckpt_path", str(checkpoint)],
        ["test", "--ckpt_path", str(checkpoint), "--model.solver", "Dopri5"],
        LOAD.format(str(checkpoint), []),
        LOAD.format(str(checkpoint), ["renamed.py"]),
        ["test", "--ckpt_path", str(checkpoint), "--plugins", "renamed.py"],
    )
    assert tested.status == 2
    assert tested.err.startswith("error: ")
    assert "Traceback" not in tested.err
    assert refused.status == 1
    assert "PluginError" in refused.err
    for message in (tested.err, refused.err):
        assert "Heun3" in message
        assert "load its file" in message
        assert "--plugins FILE" in message
    assert (loaded.status, loaded.out) == (0, "Heun3 5\n"), loaded.err
    for ended in (replaced, again):
        assert ended.status == 0, ended.err
        assert "test/loss" in ended.out


def test_environment_and_folders_name_plugins_too(examples, shell, tmp_path):
    """$ODEFLOW_PLUGINS takes files and folders, separated as in $PATH; a name of two plugins is an error with both."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("First", "Second"):
        (folder / f"{name.lower()}.py").write_text(PLUGIN.format(name))
    (tmp_path / "other.py").write_text(PLUGIN.format("Second"))
    named = os.pathsep.join([str(examples / "heun3.py"), "folder"])
    listed, twice = shell(tmp_path, ODEFLOW_PLUGINS=named).session(
        ["plugins", "list", "solver"], ["plugins", "--plugins", "other.py", "list"]
    )
    assert listed.status == 0, listed.err
    names = [line.split()[1] for line in listed.out.splitlines()]
    assert {"Heun3", "First", "Second", "Dopri5"} <= set(names)
    assert twice.status == 2
    assert twice.err.startswith("error: two solver plugins are called Second: ")
    assert "second.Second" in twice.err
    assert "other.Second" in twice.err


def test_broken_package_is_listed_and_harmless(checkpoint, examples, broken_package, shell, tmp_path):
    """An installed package that cannot be imported is listed with its reason, and all else works beside it.

    What the user himself named must import: otherwise the command ends and names the file and the reason.
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "broken.py").write_text("import torch\n\nundefined\n")
    (tmp_path / "wanting.py").write_text("import surely_not_installed\n")
    listed, tested, in_file, in_folder, wanting, absent = shell(tmp_path, PYTHONPATH=broken_package).session(
        ["plugins", "list"],
        ["test", "--ckpt_path", str(checkpoint), "--plugins", str(examples / "heun3.py")],
        ["fit", "-c", "spiral", "--plugins", "folder/broken.py"],
        ["fit", "-c", "spiral", "--plugins", "folder"],
        ["fit", "-c", "spiral", "--plugins=wanting.py"],
        ["fit", "-c", "spiral", "--plugins", "absent.py"],
    )
    assert listed.status == 0, listed.err
    assert "Dopri5" in listed.out
    assert "ill (unwell_package) could not be imported: RuntimeError: it wants list[int] and [/dev/gpu]" in listed.out
    assert tested.status == 0, tested.err
    assert "test/loss" in tested.out
    reasons = {
        "broken.py cannot be imported: NameError: name 'undefined' is not defined": (in_file, in_folder),
        "wanting.py cannot be imported: No module named 'surely_not_installed'": (wanting,),
        "there is no plugin file absent.py": (absent,),
    }
    for reason, outcomes in reasons.items():
        for ended in outcomes:
            assert ended.status == 2
            assert ended.err.startswith("error: ")
            assert "Traceback" not in ended.err
            assert reason in ended.err
