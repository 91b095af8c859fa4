"""How many class-conditional samples of a model of MNIST are the digit that they should be, by the shipped ODE-Net.

    python benchmarks/sampled_digits.py runs/matching/mnist/version_0/checkpoints/best.ckpt
    python benchmarks/sampled_digits.py recipes/matching/weights/mnist.safetensors --scale 1,1.5 --steps 2,4,8

A line for each scale of guidance and number of steps: evaluations of the field for a sample, those of the free field
included, and the share of samples that `recipes/mnist/weights/ode_net.safetensors` puts into their class, with its
standard error. The ODE-Net is right on 99.67 % of the test images themselves.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import odeflow as of
from odeflow.plugin.registry import look_up

JUDGE = Path(__file__).parents[1] / "recipes/mnist/weights/ode_net.safetensors"
MEAN, STD = 0.1307, 0.3081
"""By which the judge's images are standardised."""
AT_ONCE = 250


def main(words: Sequence[str] | None = None) -> None:
    """Prints a line for each setting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--solver", default="Heun")
    parser.add_argument("--steps", default="10")
    parser.add_argument("--scale", default="1")
    options = parser.parse_args(words)
    task: Any = of.load(options.checkpoint)
    judge: Any = of.load(JUDGE)
    for scale in map(float, options.scale.split(",")):
        task.flow.dynamics.scale = scale
        for steps in map(int, options.steps.split(",")):
            task.flow.solver = look_up("solver", options.solver)(num_steps=steps)
            torch.manual_seed(0)
            right = torch.cat([judged(task, judge, start) for start in range(0, options.count, AT_ONCE)]).double()
            share, error = right.mean().item(), (right.var() / len(right)).sqrt().item()
            evaluations = task.flow.stats.nfe_forward * (1 if scale == 1 else 2)
            setting = f"{options.solver}, {steps} steps, scale {scale:g}, {evaluations} evaluations"
            print(f"{setting}: {100 * share:.1f} ± {100 * error:.1f} % of {len(right)}", flush=True)


@torch.no_grad()
def judged(task: Any, judge: Any, start: int) -> Tensor:
    """(AT_ONCE,), whether samples, of each class in turn, are in their class by the judge."""
    label = torch.arange(start, start + AT_ONCE) % 10
    x = task.cnf(torch.nn.functional.one_hot(label, 10).float()).sample().view(-1, 1, 28, 28).clamp(0, 1)
    return judge((x - MEAN) / STD).argmax(1) == label


if __name__ == "__main__":
    main()
