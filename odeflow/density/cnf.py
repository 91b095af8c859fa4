"""CNF: a continuous normalizing flow."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints

from odeflow.density.bijections import Bijection
from odeflow.engine.equation.equation import StochasticField
from odeflow.errors import SettingError, StateError
from odeflow.flow.divergence import Divergence, Exact
from odeflow.flow.flow import Flow
from odeflow.flow.options import FlowOptions
from odeflow.plugin.plugin import check_kind


class CNF(nn.Module):
    """A continuous normalizing flow: x = φ(z) with z from a base density.

        log p(x) = log p_base(z) + log |det ∂z/∂x|,    log |det ∂z/∂x| = −∫ tr ∂f/∂y dt  from t₀ to t₁

    Each flow maps its input from t₀, on the side of the base, to t₁. `cnf()` is a distribution in the sense of
    `torch.distributions`; `cnf(context)` is a batch of distributions, one per row of the context.

        cnf = CNF([Flow(MLP(2), Dopri5())], shape=(2,))
        loss = -cnf().log_prob(x).mean()
        x, log_prob = cnf().sample_and_log_prob((1000,))

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 4; Grathwohl et al. (2019), "FFJORD".

    Args:
        transforms: Flows and bijections, from the base to the data.
        shape: The event shape: the shape of one x.
        base: The distribution of z, with the same event shape, or a module that returns it when called; standard normal
            by default.
        divergence: The divergence of the flows; `Exact()` by default.

    Raises:
        SettingError: There is no transform, the dynamics of one is stochastic, or the base has another event shape.
    """

    zero: Tensor

    def __init__(
        self,
        transforms: Flow | Bijection | Sequence[Flow | Bijection],
        shape: Sequence[int],
        base: Distribution | Callable[[], Distribution] | None = None,
        divergence: Divergence | None = None,
    ) -> None:
        super().__init__()
        transforms = (transforms,) if isinstance(transforms, Flow | Bijection) else transforms
        if not transforms or not all(isinstance(each, Flow | Bijection) for each in transforms):  # pyright: ignore[reportUnnecessaryIsInstance]
            came = ", ".join(type(each).__name__ for each in transforms) or "none"
            raise SettingError(f"a CNF needs at least one transform, each a Flow or Bijection; got {came}")
        for each in transforms:
            if isinstance(each, Flow) and isinstance(each.dynamics, StochasticField):
                raise SettingError(
                    f"a CNF needs ordinary equations: solved backward, {type(each.dynamics).__name__} with its noise "
                    "is not the inverse of the forward solve, so it has no density. Use dynamics without noise"
                )
        check_kind("divergence", divergence or Exact(), Divergence, "Exact()")
        self.given_base = base
        self.transforms, self.shape, self.divergence = nn.ModuleList(transforms), Size(shape), divergence or Exact()
        self.register_buffer("zero", torch.zeros(self.shape), persistent=False)  # holds device and dtype
        if tuple(self.base.event_shape) != self.shape:
            raise SettingError(
                f"the base's events have shape {tuple(self.base.event_shape)}, the data's {tuple(shape)}; "
                "make them one event with torch.distributions.Independent"
            )

    @property
    def base(self) -> Distribution:
        """The distribution of z."""
        given = self.given_base
        if given is not None:
            return given if isinstance(given, Distribution) else given()
        return Independent(Normal(self.zero, torch.ones_like(self.zero), validate_args=False), len(self.shape))

    def forward(self, context: Tensor | None = None) -> "FlowDistribution":
        """The distribution of x.

        Args:
            context: (…, c), concatenated with the state: the fields are called with [y, context].

        Returns:
            A distribution with the event shape of the data and the batch shape (…).
        """
        return FlowDistribution(self, context)

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(z, log |det ∂z/∂x|) of the shapes (B, *shape) and (B,)."""
        total = x.new_zeros(len(x))
        for transform in reversed(self.transforms):
            if isinstance(transform, Flow):
                t0, t1 = transform.span()
                x, log_det = _carried(transform, x, (t1, t0), self.divergence, context)
            else:
                assert isinstance(transform, Bijection)
                x, log_det = transform.inverse(x)
            total = total + log_det
        return x, total

    def from_base(self, z: Tensor, context: Tensor | None = None, with_log_det: bool = True) -> tuple[Tensor, Tensor]:
        """(x, log |det ∂x/∂z|) of the shapes (B, *shape) and (B,); the latter is zero without `with_log_det`."""
        total = z.new_zeros(len(z))
        divergence = self.divergence if with_log_det else None
        for transform in self.transforms:
            if isinstance(transform, Flow):
                z, log_det = _carried(transform, z, transform.span(), divergence, context)
            else:
                z, log_det = transform(z)
            total = total + log_det
        return z, total

    def leading(self, progress: float) -> "CNF":
        """The flow truncated at a position between base and data. It shares the parts of this one.

        All `Flow` parts have the same length; bijections have none and act when reached. If there are only bijections,
        they have the same length.

        Args:
            progress: The position, from 0 (base) to 1 (data).

        Raises:
            SettingError: `progress` is not between 0 and 1.
        """
        if not 0 <= progress <= 1:
            raise SettingError(f"progress must lie between 0 and 1; got {progress}")
        part = CNF([*self.transforms], self.shape, self.given_base, self.divergence)  # pyright: ignore[reportArgumentType]
        if progress < 1:
            part.transforms = nn.ModuleList(self._until(progress))
        return part.train(self.training).to(self.zero)

    def _until(self, progress: float) -> list[nn.Module]:
        flows = [number for number, transform in enumerate(self.transforms) if isinstance(transform, Flow)]
        stages = flows or [*range(len(self.transforms))]
        whole, rest = divmod(progress * len(stages), 1)
        number = stages[int(whole)]
        leading, last = list(self.transforms)[: number if progress else 0], self.transforms[number]
        if isinstance(last, Flow) and rest > 1e-6:
            t0, t1 = last.options.t0, last.options.t1
            leading.append(
                Flow(last.dynamics, last.solver, last.gradient, FlowOptions(t0=t0, t1=t0 + rest * (t1 - t0)))
            )
        return leading

    @torch.no_grad()
    def inconsistency(self, x: Tensor, context: Tensor | None = None) -> float:
        """The round-trip error of x through the base: the root mean square, in the units of x."""
        z, _ = self.to_base(x, context)
        again, _ = self.from_base(z, context, with_log_det=False)
        return (again - x).square().mean().sqrt().item()


def _carried(
    flow: Flow, y: Tensor, t: tuple[float, float], divergence: Divergence | None, context: Tensor | None
) -> tuple[Tensor, Tensor]:
    result = flow.trajectory(y, t, divergence=divergence, context=context).y
    if isinstance(result, Tensor):
        return result[-1], result.new_zeros(len(y))
    states, log_dets = result
    return states[-1], log_dets[-1]


class FlowDistribution(Distribution):
    """The distribution of a `CNF`, with the interface of `torch.distributions`.

    Args:
        cnf: The flow.
        context: (…, c), or None.
    """

    has_rsample = True

    def __init__(self, cnf: CNF, context: Tensor | None = None) -> None:
        self.cnf, self.context = cnf, context
        batch = Size() if context is None else context.shape[:-1]
        super().__init__(batch, cnf.shape, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """No constraints: arguments are checked where they are used."""
        return {}

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        """All real vectors, unless a bijection has another codomain."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """(…), log p(x) in nats.

        Args:
            value: (…, *event_shape); the leading dimensions are broadcast with the batch shape.

        Raises:
            StateError: The shape of `value` does not end with the event shape.
        """
        events = len(self.event_shape)
        if value.shape[value.dim() - events :] != self.event_shape:
            raise StateError(f"log_prob takes (…, {', '.join(map(str, self.event_shape))}); got {tuple(value.shape)}")
        lead = torch.broadcast_shapes(value.shape[: value.dim() - events], self.batch_shape)
        x = value.expand(lead + self.event_shape).reshape(-1, *self.event_shape)
        z, log_det = self.cnf.to_base(x, self._contexts(lead))
        return (self.cnf.base.log_prob(z) + log_det).view(lead)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(*sample_shape, *batch_shape, *event_shape), differentiable with respect to the flow's parameters."""
        lead = Size(sample_shape) + self.batch_shape
        z = self.cnf.base.sample(Size([math.prod(lead)]))
        return self.cnf.from_base(z, self._contexts(lead), with_log_det=False)[0].view(lead + self.event_shape)

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Samples as of `rsample` and their log p(x), in a single solve."""
        lead = Size(sample_shape) + self.batch_shape
        z = self.cnf.base.sample(Size([math.prod(lead)]))
        x, log_det = self.cnf.from_base(z, self._contexts(lead))
        return x.view(lead + self.event_shape), (self.cnf.base.log_prob(z) - log_det).view(lead)

    @torch.no_grad()
    def sample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """As `rsample_and_log_prob`, without a gradient."""
        return self.rsample_and_log_prob(sample_shape)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "FlowDistribution":
        """The same distribution over a larger batch.

        Raises:
            SettingError: The distribution has no context, and hence no batch shape to expand.
        """
        if self.context is None:
            raise SettingError("a CNF without context is a single distribution; draw more samples instead")
        return FlowDistribution(self.cnf, self.context.expand(Size(batch_shape) + self.context.shape[-1:]))

    def _contexts(self, lead: Size) -> Tensor | None:
        """(B, c), the context of each event."""
        if self.context is None:
            return None
        return self.context.expand(lead + self.context.shape[-1:]).reshape(-1, self.context.shape[-1])
