"""The example scripts do what they say, each in a fresh process."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import json, runpy, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", ".*torch.jit.script.* is deprecated")
found = runpy.run_path({path!r})["main"]({steps})
print(json.dumps(found))
"""
LAWS = {
    "spiral": (150, lambda error, still: error < 0.5 * still),
    "classifier": (2, lambda accuracy: accuracy > 0.75),
    "density": (30, lambda test, mass: test < 2.2 and abs(mass - 1) < 0.03),
    "latent_ode": (120, lambda error, simple: error < 0.6 * simple),
    "bouncing_ball": (12, lambda elasticity: abs(elasticity - 0.8) < 0.06),
    "robertson": ("", lambda steps, drift, slope: max(steps.values()) < 200 and drift < 1e-12 and 0.1 < slope < 0.3),
    "controlled": (25, lambda before, after: after < before / 3),
    "sde": (
        30,
        lambda orders, drift: (
            abs(orders["EulerMaruyama"] - 0.5) < 0.15 and abs(orders["Milstein"] - 1) < 0.15 and abs(drift - 0.2) < 0.05
        ),
    ),
    "learning_physics": (40, lambda k, c, without, together: abs(k - 2) < 0.1 and together < 0.6 * without),
}
"""Of each script: the steps that suffice, and what is then true of what its `main` returns."""


@pytest.mark.parametrize("script", LAWS)
def test_script_does_what_it_says(script, shell, tmp_path):
    """Its `main` reaches the result by which its first line announces it; it is shorter than 80 lines."""
    path, (steps, law) = ROOT / "examples" / f"{script}.py", LAWS[script]
    assert len(path.read_text().splitlines()) < 80
    (ended,) = shell(tmp_path, PYTHONPATH=f"{ROOT}:{ROOT / 'plugins'}").session(RUN.format(path=str(path), steps=steps))
    assert ended.status == 0, ended.err
    found = json.loads(ended.out.splitlines()[-1])
    assert law(*found) if isinstance(found, list) else law(found), found
