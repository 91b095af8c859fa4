"""Steps compiled by torch.compile: all stages of a step and their combination in one call."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from odeflow.engine.equation.field import Counted, Mixed, SameNoise
from odeflow.engine.equation.state import Field, PackedField
from odeflow.engine.step.stages import ExplicitStages, Stages
from odeflow.engine.step.tableau import Tableau

Step = Callable[[Tensor, Tensor, Tensor | None, bool], tuple[Tensor, Tensor, Tensor | None]]
"""((t, h), y, k₁ or None to evaluate it, whether to compute the error) ↦ (y₁, stage derivatives, error / h or None)."""
KEPT = 8  # maximum number of compiled fields per solver


class CompiledSteps:
    """The compiled steps of one solver, by field. A copy of the solver compiles its own.

    If compilation fails, the step runs uncompiled, with a warning.
    """

    def __init__(self) -> None:
        self.kept: dict[Field, Step] = {}

    def __deepcopy__(self, memo: object) -> "CompiledSteps":
        return CompiledSteps()

    def __reduce__(self) -> tuple[type["CompiledSteps"], tuple[()]]:
        return CompiledSteps, ()

    def of(self, tableau: Tableau, field: Field) -> Step:
        """The compiled step of a method and a field. Only modules persist across solves, so only these are compiled."""
        module = field.field if isinstance(field, Mixed) else field
        module = module.field if isinstance(module, PackedField) else module
        if not isinstance(module, nn.Module):
            _warn(module, "only modules are compiled, since a function may be made anew for each solve")
            return step_of(tableau, field)
        if field not in self.kept:
            if len(self.kept) >= KEPT:
                del self.kept[next(iter(self.kept))]
            self.kept[field] = self._compiled(tableau, field, module)
        return self.kept[field]

    def _compiled(self, tableau: Tableau, field: Field, module: nn.Module) -> Step:
        plain = step_of(tableau, field)
        # torch caches compilations, and limits their number, per code object: each field gets its own
        plain.__code__ = plain.__code__.replace(co_name=f"step_{len(self.kept)}")
        compiled = torch.compile(plain, fullgraph=True)

        def guarded(
            clock: Tensor, y: Tensor, first: Tensor | None, judged: bool
        ) -> tuple[Tensor, Tensor, Tensor | None]:
            try:
                return compiled(clock, y, first, judged)
            except Exception as problem:  # a compiler raises many types
                # If the field itself fails, the user should see its own error
                result = plain(clock, y, first, judged)
                _warn(module, f"{type(problem).__name__}: {str(problem).strip().partition(chr(10))[0]}")
                self.kept[field] = plain
                return result

        return guarded


def _warn(field: object, reason: str) -> None:
    name = getattr(field, "__qualname__", type(field).__name__)
    warnings.warn(f"compile=True: steps over {name} run as they are, not compiled: {reason}", stacklevel=2)


def step_of(tableau: Tableau, field: Field) -> Step:
    """A step of a method as a pure function of tensors."""
    count, error_weights = tableau.stages - tableau.fsal, tableau.error_weights

    def combined(y: Tensor, h: Tensor, weights: Sequence[float], slopes: list[Tensor]) -> Tensor:
        for weight, slope in zip(weights, slopes, strict=False):
            if weight:
                y = y + (h * weight).to(y) * slope
        return y

    def step(clock: Tensor, y: Tensor, first: Tensor | None, judged: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        t, h = clock[0], clock[1]
        slopes = [field(t.to(y), y) if first is None else first]
        for number in range(1, count):
            stage = combined(y, h, tableau.a[number], slopes)
            slopes.append(field((t + tableau.c[number] * h).to(y), stage))
        y1 = combined(y, h, tableau.b[:count], slopes)
        if tableau.fsal and judged:
            slopes.append(field((t + h).to(y), y1))
        error = None
        if error_weights and judged:
            kept = [slope.detach() for slope in slopes]
            error = combined(torch.zeros_like(kept[0]), torch.ones_like(h), error_weights, kept)
        return y1, torch.stack(slopes), error

    return step


class CompiledStages(ExplicitStages):
    """Stages whose steps run compiled, with or without autograd.

    Only the field passed to `solve`, which is the same in every solve, is compiled. Fields wrapped by a gradient and
    random fields run uncompiled.

    Args:
        tableau: The method.
        field: The vector field.
        steps: The solver's compiled steps.
        judged: Whether error estimates are needed.
    """

    def __init__(self, tableau: Tableau, field: Field, steps: CompiledSteps, judged: bool = True) -> None:
        super().__init__(tableau, field)
        self.steps, self.judged = steps, judged
        self.first: Tensor | None = None
        self.slopes: Tensor | None = None  # (count, or count + 1 with the value at the step's end, *state)

    @property
    def traced(self) -> Callable[[Field], Stages]:
        return partial(CompiledStages, self.tableau, steps=self.steps, judged=False)

    def first_slope(self, t: float, y: Tensor) -> Tensor:
        if self.first is None:
            self.first = self.evaluate(t, y)
        return self.first

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        inner = self.field.field if isinstance(self.field, Counted) else self.field
        if isinstance(inner, SameNoise) and inner.draws is None:
            self.first_slope(t, y)  # reveals whether the field is random
        count = self.count - (self.first is not None) + (self.tableau.fsal and self.judged)
        if isinstance(inner, SameNoise) and inner.draws is False:
            step = self.steps.of(self.tableau, inner.field)
            if isinstance(self.field, Counted):
                self.field.evaluations += count
        else:
            step = step_of(self.tableau, self.field)
        clock = torch.tensor((t, h), dtype=torch.float64)
        self.y1, self.slopes, self.estimate = step(clock, y, self.first, self.judged)
        self.evaluations += count
        self.t, self.h, self.y, self.first = t, h, y, self.slopes[0]
        return self.y1

    def error(self) -> Tensor:
        assert self.estimate is not None
        return self.estimate.reshape(-1).clone()

    def last_slope(self) -> Tensor:
        assert self.slopes is not None
        if len(self.slopes) == self.count:
            self.slopes = torch.cat((self.slopes, self.evaluate(self.t + self.h, self.y1)[None]))
        return self.slopes[self.count]

    def dense(self, theta: Sequence[float]) -> Tensor:
        self.last_slope()
        assert self.slopes is not None
        weights = self.dense_weights(theta, self.slopes)
        rows = torch.addmm(self.y.reshape(1, -1), weights, self.slopes.reshape(len(self.slopes), -1), alpha=self.h)
        return rows.view(len(theta), *self.y.shape)

    def flat_slopes(self) -> Tensor | None:
        return None if self.slopes is None else self.slopes.detach().reshape(len(self.slopes), -1)

    def keep(self) -> None:
        """Every step makes slopes of its own."""

    def advance(self) -> None:
        assert self.slopes is not None
        self.first = self.slopes[-1] if len(self.slopes) > self.count else None

    def forget_slope(self) -> None:
        self.first = None
