"""Measurements of a trained flow: error and evaluations by tolerance, states and densities over time."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from odeflow.analysis.replay import Solve, leaves, mapped
from odeflow.density.cnf import CNF
from odeflow.engine.gradients import Adjoint, Checkpointed, Gradient
from odeflow.engine.output.solution import SolveError
from odeflow.engine.solver import Solver
from odeflow.errors import OdeflowError, StateError


@dataclass(frozen=True)
class Effort:
    """Error and cost at one tolerance, summed over several solves; nan if a solve failed.

    Attributes:
        tolerance: rtol and atol of the solver.
        error: ‖y − y*‖ / ‖y*‖ over all times, samples and dimensions, in float64, against a much tighter solve y*.
        nfe_forward: Evaluations of the field in the forward pass.
        seconds: Median duration of the forward pass.
        nfe_adjoint: Evaluations in the backward pass of `Adjoint`.
        nfe_checkpointed: Evaluations in the backward pass of `Checkpointed`.
    """

    tolerance: float
    error: float
    nfe_forward: float
    seconds: float
    nfe_adjoint: float
    nfe_checkpointed: float


@dataclass(frozen=True)
class Activations:
    """The state of a flow over time.

    Attributes:
        t: (T,), the times.
        y: (T, B, d), the state's features, or its channels at one pixel.
        pixel: The index of the pixel, the central one; () for vectors.
        state: (T, B, n), the whole state, flattened.
    """

    t: Tensor
    y: Tensor
    pixel: tuple[int, ...]
    state: Tensor


@dataclass(frozen=True)
class Components:
    """Principal components of states.

    Attributes:
        scores: (…, count), the coordinates along the components, in order of decreasing variance.
        shares: (count,), the fraction of the total variance of each component; 0 if the states do not vary.
    """

    scores: Tensor
    shares: Tensor

    @property
    def names(self) -> list[str]:
        """The axis label of each component, such as "component 1 (97.3 %)"."""
        return [f"component {number} ({100 * share:.3g} %)" for number, share in enumerate(self.shares.tolist(), 1)]


@dataclass(frozen=True)
class Moment:
    """A density of the plane on its way from the base to the data.

    Attributes:
        progress: The position between base (0) and data (1).
        x: (B, 2), samples.
        entropy: −E[log p(x)] in nats, estimated from the samples.
        reach: Half the side of the plotted square around the origin.
        p: (n, n), the density at the centre of each cell of the square, rows from bottom to top.
    """

    progress: float
    x: Tensor
    entropy: float
    reach: float
    p: Tensor

    @property
    def mass(self) -> float:
        """The probability mass of the square."""
        return (self.p.sum() * (2 * self.reach / len(self.p)) ** 2).item()


def efforts(
    solves: Sequence[Solve],
    solver: Callable[[float], Solver],
    tolerances: Sequence[float],
    reference: Solver,
    repeats: int = 5,
) -> list[Effort]:
    """Error and cost of solves at each tolerance: Figure 3 of Chen et al. (2018).

    The error is that of the solver: it and the reference solver run in float64, on the CPU. Evaluations and time are
    measured in the flow's own dtype and on its device.

    Args:
        solves: The solves, from `record`.
        solver: Tolerance ↦ solver.
        tolerances: The tolerances to measure.
        reference: A solver much tighter than all of them.
        repeats: Number of timed forward passes; the median duration is reported.

    Returns:
        One result per tolerance, in order.

    Raises:
        StateError: The dynamics do not work in float64.
    """
    _or_nan(lambda: _forward(solves, solver(max(tolerances)))[1])  # warm-up before timing
    exact = [_in_float64(solve) for solve in solves]
    try:
        truth = _states(exact, reference)
    except SolveError:
        truth = torch.tensor(math.nan)
    return [_effort(solves, exact, truth, solver(tolerance), tolerance, repeats) for tolerance in tolerances]


def _effort(
    solves: Sequence[Solve], exact: Sequence[Solve], truth: Tensor, solver: Solver, tolerance: float, repeats: int
) -> Effort:
    passes: list[tuple[int, float]] = []

    def forward() -> float:
        passes.extend(_forward(solves, solver) for _ in range(repeats))
        return passes[0][0]

    return Effort(
        tolerance=tolerance,
        error=_or_nan(lambda: float((_states(exact, solver) - truth).norm() / truth.norm())),
        nfe_forward=_or_nan(forward),
        seconds=statistics.median(seconds for _, seconds in passes) if len(passes) == repeats else math.nan,
        nfe_adjoint=_or_nan(lambda: sum(_nfe_backward(solve, solver, Adjoint()) for solve in solves)),
        nfe_checkpointed=_or_nan(lambda: sum(_nfe_backward(solve, solver, Checkpointed()) for solve in solves)),
    )


def _or_nan(number: Callable[[], float]) -> float:
    """The number, or nan if its solve fails."""
    try:
        return number()
    except SolveError:
        return math.nan


def _forward(solves: Sequence[Solve], solver: Solver) -> tuple[int, float]:
    """(evaluations, seconds) of a forward pass."""
    device = leaves(solves[0].y0)[0].device
    with torch.no_grad():
        start = _clock(device)
        evaluations = sum(solve.again(solver).stats.nfe_forward for solve in solves)
        return evaluations, _clock(device) - start


def _clock(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _states(solves: Sequence[Solve], solver: Solver) -> Tensor:
    """All states of the solves, flattened and concatenated, without the initial states."""
    try:
        with torch.no_grad():
            states = [leaf[1:].flatten() for solve in solves for leaf in leaves(solve.again(solver).y)]
    except OdeflowError:
        raise
    except (RuntimeError, TypeError) as problem:  # the dynamics may require float32
        reason = str(problem).partition("\n")[0]
        raise StateError(f"the error is measured in float64, where the dynamics failed: {reason}") from problem
    return torch.cat(states)


def _in_float64(solve: Solve) -> Solve:
    shared = {id(part): part for part in (solve.flow.solver, solve.flow.gradient)}  # not copied
    flow = copy.deepcopy(solve.flow, shared).cpu().double()
    context = None if solve.context is None else solve.context.cpu().double()
    y0 = mapped(lambda leaf: leaf.cpu().double(), solve.y0)
    return replace(solve, flow=flow, y0=y0, t=solve.t.cpu().double(), context=context, cotangent=())


def _nfe_backward(solve: Solve, solver: Solver, gradient: Gradient) -> int:
    params = [param for param in solve.flow.parameters() if param.requires_grad]
    with torch.enable_grad():
        wanted = replace(solve, y0=mapped(lambda leaf: leaf.detach().requires_grad_(), solve.y0))
        solution = wanted.again(solver, gradient)
        inputs = [*leaves(wanted.y0), *params]
        torch.autograd.grad(leaves(solution.y), inputs, solve.cotangent, allow_unused=True)
    return solution.stats.nfe_backward


def activations(solve: Solve) -> Activations:
    """The state of a solve at equidistant times, computed by the flow's own solver.

    For a tuple state this is the first tensor. For images it is one pixel rather than the mean, which is constant if
    the dynamics end with a normalisation.

    Args:
        solve: A solve from `record`.

    Returns:
        Activations at as many times as the solve takes evaluations, but at least 101 and at most 1001.
    """
    with torch.no_grad():
        points = min(max(solve.again().stats.nfe_forward, 101), 1001)
        times = torch.linspace(float(solve.t[0]), float(solve.t[-1]), points, dtype=torch.float64)
        y = leaves(solve.again(t=times).y)[0].cpu()
    y = y[..., None] if y.dim() == 2 else y
    pixel = tuple(size // 2 for size in y.shape[3:])
    return Activations(times, y[(..., *pixel)], pixel, y.flatten(2))


def components(y: Tensor, count: int = 2) -> Components:
    """The principal components of states, fitted over all times and samples.

    Args:
        y: (…, n).
        count: Number of components; those beyond the number of features or of states are 0.

    Returns:
        Components with deterministic signs.
    """
    from sklearn.decomposition import PCA  # imported here: only figures need it

    rows = y.detach().flatten(0, -2).cpu().double().numpy()
    model = PCA(min(count, *rows.shape), random_state=0)
    with np.errstate(invalid="ignore"):  # zero variance
        scores = torch.from_numpy(model.fit_transform(rows)).unflatten(0, y.shape[:-1])
    shares = torch.from_numpy(np.nan_to_num(model.explained_variance_ratio_))
    missing = (0, count - len(shares))
    return Components(F.pad(scores, missing), F.pad(shares, missing))


def liveliest(y: Tensor, count: int) -> list[int]:
    """The indices of the `count` features of y (T, B, d) that vary most over time, in ascending order."""
    moved = y.std(0).mean(0)
    return sorted(moved.topk(min(count, len(moved))).indices.tolist())


@torch.no_grad()
def evolution(cnf: CNF, frames: int, samples: int, cells: int = 80) -> list[Moment]:
    """The density in the plane at equidistant moments from base to data, with the same samples at each.

    Args:
        cnf: The flow.
        frames: Number of moments; the last one is at the data.
        samples: Number of samples.
        cells: Number of grid cells along a side.
    """
    z = cnf.base.sample(torch.Size([samples]))
    ways = [index / max(frames - 1, 1) for index in range(frames - 1)] + [1.0]
    carried: list[tuple[Tensor, Tensor]] = []
    for progress in ways:
        x, log_det = cnf.leading(progress).from_base(z)
        carried.append((x, cnf.base.log_prob(z) - log_det))
    reach = 1.1 * max(x.abs().max().item() for x, _ in carried)
    at = reach * ((2 * torch.arange(cells, dtype=z.dtype, device=z.device) + 1) / cells - 1)
    grid = torch.cartesian_prod(at, at).flip(1)
    return [
        Moment(
            progress=progress,
            x=x.cpu(),
            entropy=-log_prob.mean().item(),
            reach=reach,
            p=cnf.leading(progress)().log_prob(grid).exp().view(cells, cells).cpu(),
        )
        for progress, (x, log_prob) in zip(ways, carried, strict=True)
    ]
