import re
import runpy

import torch

CODE = """
import runpy, sys
runpy.run_path(sys.argv[1], run_name="__main__")
print("lightning" in sys.modules)
"""


def losses(text):
    return [float(loss) for loss in re.findall(r"loss ([\d.]+)", text)]


def test_learns_without_lightning(examples, shell, tmp_path):
    """The script as a user runs it brings the loss near zero, says so, and nothing that it imports is Lightning."""
    ended = shell(tmp_path).run("-c", CODE, examples / "plain_pytorch.py")
    assert (ended.status, ended.err) == (0, "")
    first, last = losses(ended.out)
    assert first > 0.5
    assert last < 0.05
    assert ended.out.splitlines()[-1] == "False"


def test_main_returns_the_loss_that_it_prints_last(examples, capsys):
    """Its `main` gives a caller the loss of the last step."""
    with torch.random.fork_rng():
        loss = runpy.run_path(str(examples / "plain_pytorch.py"))["main"](steps=2)
    assert f"{loss:.4f}" == f"{losses(capsys.readouterr().out)[-1]:.4f}"
