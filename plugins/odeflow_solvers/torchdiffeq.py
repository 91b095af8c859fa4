"""TorchDiffEq: the solvers of the torchdiffeq package as an odeflow solver."""

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

import odeflow as of
from odeflow.engine.equation.state import Field
from odeflow.engine.loop.adaptive import check_tolerances
from odeflow.engine.loop.fixed import MOST_FIXED, check_count
from odeflow.engine.loop.stepper import naming
from odeflow.engine.tape import UNOBSERVED, Observer, Quadrature, Segment

ORDERS = {
    "euler": 1,
    "midpoint": 2,
    "heun2": 2,
    "heun3": 3,
    "rk4": 4,
    "explicit_adams": 4,
    "implicit_adams": 4,
    "fixed_adams": 4,
    "adaptive_heun": 2,
    "fehlberg2": 2,
    "bosh3": 3,
    "dopri5": 5,
    "dopri8": 8,
    "scipy_solver": 5,
}
SCIPY_ORDERS = {"RK45": 5, "RK23": 3, "DOP853": 8, "Radau": 5, "BDF": 5, "LSODA": 5}
"""The methods of scipy.integrate.solve_ivp with their orders; for BDF and LSODA the maximal order when stiff."""

MOST_STEPS = 10_000
"""Default maximum for an adaptive method between two output times; torchdiffeq itself has none."""

FIXED = {"euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", "fixed_adams"}


class TorchDiffEq(of.Solver):
    """Runs `torchdiffeq.odeint`, with any of its methods.

    It is a black box: `Checkpointed` reruns it as a whole, and the statistics contain evaluations only. The method
    "scipy_solver" is `scipy.integrate.solve_ivp`, which autograd cannot differentiate: use `Adjoint`.

    Args:
        method: A method of torchdiffeq: "dopri5", "rk4", "implicit_adams", …
        rtol: Relative tolerance, for adaptive methods.
        atol: Absolute tolerance, for adaptive methods.
        options: torchdiffeq's options of the method, such as `{"step_size": 0.1}`, or `{"solver": "Radau"}` for one of
            scipy's methods; the default is LSODA.

    Raises:
        SettingError: torchdiffeq does not have the method, scipy does not have the solver, or both tolerances are 0.

    Source: Chen (2018), https://github.com/rtqichen/torchdiffeq.
    """

    order = 5

    def __init__(
        self,
        method: str = "dopri5",
        rtol: float = 1e-7,
        atol: float = 1e-9,
        options: dict[str, Any] | None = None,
    ) -> None:
        if method not in ORDERS:
            raise of.SettingError(f"torchdiffeq has no method {method!r}; it has {', '.join(ORDERS)}")
        with naming("TorchDiffEq"):
            check_tolerances(rtol, atol)
        self.method, self.rtol, self.atol, self.options = method, rtol, atol, options
        self.order = ORDERS[method]
        if method == "scipy_solver":
            name = (options or {}).get("solver", "LSODA")
            if name not in SCIPY_ORDERS:
                raise of.SettingError(f"scipy has no solver {name!r}; it has {', '.join(SCIPY_ORDERS)}")
            self.order = SCIPY_ORDERS[name]

    def time_resolution(self, span: float) -> float:
        return 10 * (self.rtol or self.atol) * span

    def integrate(
        self,
        field: Field,
        y0: Tensor,
        t: Tensor,
        observer: Observer = UNOBSERVED,
    ) -> of.Solution:
        stats = of.Stats()

        def counted(time: Tensor, y: Tensor) -> Tensor:
            stats.nfe_forward += 1
            return field(time, y)

        if self.method == "scipy_solver":
            self._check_gradient(field, y0, t, observer)
        if observer.jump is not None or observer.quadrature is not None:
            return of.Solution(t, self._piecewise(counted, y0, t, observer), stats)
        y = self._odeint(counted, y0, t)
        if observer.tape is not None:
            span = (float(t[0]), float(t[-1]))
            observer.tape.append(Segment(y0, partial(self._rerun, t), slice(1, len(t)), None, span))
        return of.Solution(t, y, stats)

    def _odeint(self, field: Any, y0: Any, t: Tensor, **options: Any) -> Any:
        bound = {} if self.method in FIXED or self.method == "scipy_solver" else {"max_num_steps": MOST_STEPS}
        own = {**bound, **(self.options or {}), **options}
        leaves = y0 if isinstance(y0, tuple) else (y0,)
        if not leaves[0].numel():  # torchdiffeq's norm of an empty state is nan
            rows = tuple(leaf.expand(len(t), *leaf.shape) for leaf in leaves)
            return rows if isinstance(y0, tuple) else rows[0]
        if own.get("step_size"):
            check_count(float((t[-1] - t[0]).detach().abs()), own["step_size"], MOST_FIXED, "take larger ones")
        times = t.to(leaves[0].device)
        import torchdiffeq  # imported here: it imports scipy, which takes longer than all other solvers

        with warnings.catch_warnings():  # torchdiffeq passes min_step to every scipy solver; most warn
            warnings.filterwarnings("ignore", "The following arguments have no effect.*min_step", UserWarning)
            try:
                return torchdiffeq.odeint(
                    field, y0, times, method=self.method, rtol=self.rtol, atol=self.atol, options=own or None
                )
            except AssertionError as problem:  # raised by torchdiffeq for too small or too many steps
                raise of.SolveError(
                    f"torchdiffeq's {self.method} gave up: {problem}. The solution may blow up, be stiff, or become "
                    "non-finite; loosen rtol and atol, or use a solver of odeflow, which says where"
                ) from problem

    def _check_gradient(self, field: Field, y0: Tensor, t: Tensor, observer: Observer) -> None:
        """Rejects solves that would silently lose a gradient.

        Raises:
            GradientError: A gradient through scipy is requested.
        """
        wanted = observer.tape is not None
        if not wanted and torch.is_grad_enabled():
            wanted = y0.requires_grad or field(t[0].to(y0), y0).requires_grad
        if wanted:
            raise of.GradientError(
                "scipy computes outside autograd, so that no gradient goes through its steps: use gradient=Adjoint(), "
                "or a solver of odeflow"
            )

    def _rerun(self, t: Tensor, field: Field, y0: Tensor) -> tuple[Tensor, Tensor | None]:
        y = self._odeint(field, y0, t)
        return y[-1], y[1:]

    def _piecewise(self, field: Field, y0: Tensor, t: Tensor, observer: Observer) -> Tensor:
        """The solution interval by interval; side results are integrated as additional states without error control."""
        rows, y = [y0], y0
        for number in range(1, len(t)):
            y = self._interval(field, y, t[number - 1 : number + 1], observer.quadrature)
            rows.append(y)
            y = observer.jump(number, y) if observer.jump else y
        return torch.stack(rows)

    def _interval(self, field: Field, y0: Tensor, t: Tensor, quadrature: Quadrature | None) -> Tensor:
        if quadrature is None:
            return self._odeint(field, y0, t)[-1]
        field(t[0].to(y0), y0)  # finds the side results and their shapes
        present = [number for number, value in enumerate(quadrature.integrand) if value is not None]
        zeros = [torch.zeros_like(quadrature.integrand[number]) for number in present]  # pyright: ignore[reportArgumentType]

        def with_sides(time: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            f = field(time, state[0])
            return f, *(quadrature.integrand[number] for number in present)  # pyright: ignore[reportReturnType]

        norm = {} if self.method in FIXED else {"norm": _norm_of_state}
        y, *sides = self._odeint(with_sides, (y0, *zeros), t, **norm)
        total: list[Tensor | None] = [None] * len(quadrature.integrand)
        for number, side in zip(present, sides, strict=True):
            total[number] = side[-1]
        quadrature.add(1.0, total)
        return y[-1]


def _norm_of_state(state: tuple[Tensor, ...]) -> Tensor:
    """The root mean square of the state without its side results."""
    return state[0].square().mean().sqrt()
