"""How far the marginals of models' samples are from those of Lorenz's attractor with noise.

    python benchmarks/marginals.py runs/sde/lorenz/version_0/checkpoints/best.ckpt runs/sde/lorenz_ode/version_0/checkpoints/best.ckpt

Prints W₁ of each coordinate between `--count` samples of a model's prior and as many series of another seed than that
of training, averaged over ten times, in standardised units. The first row is that of two sets of series, the least
that samples of this number can reach; the second that of a normal distribution with the mean and the standard
deviation of all values.
"""  # noqa: E501

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

import odeflow as of
from odeflow_sde import StochasticLorenz

TIMES = 10


def wasserstein(x: Tensor, y: Tensor) -> Tensor:
    """(T, d), W₁ between the samples x and y, each (N, T, d)."""
    return (x.sort(0).values - y.sort(0).values).abs().mean(0)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--count", type=int, default=1024)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = StochasticLorenz(count=options.count)
    data.setup("test")
    assert data.units is not None
    t = torch.linspace(0.0, data.t1, data.times)[(data.times - 1) // TIMES :: (data.times - 1) // TIMES]

    def truth(seed: int) -> Tensor:
        assert data.units is not None
        return data.units.standardised(data.simulated(options.count, seed))[:, (data.times - 1) // TIMES :][
            :, :: (data.times - 1) // TIMES
        ]

    wanted = truth(1001)
    rows: dict[str, Callable[[], Tensor]] = {
        "series of another seed": lambda: truth(1002),
        "a normal distribution": lambda: torch.randn(options.count, len(t), 3),
    }
    for path in options.checkpoints:
        model = of.load(path).eval()
        rows[f"{type(model).__name__}, {path}"] = lambda model=model: model.sample_at(t, options.count)
    print("| | x | y | z | mean |\n|---|---:|---:|---:|---:|")
    for name, drawn in rows.items():
        with torch.no_grad():
            found = wasserstein(drawn(), wanted).mean(0)
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in (*found.tolist(), float(found.mean())))} |")


if __name__ == "__main__":
    main()
