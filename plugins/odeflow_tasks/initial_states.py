"""InitialStates: the initial states of trajectories and of their segments, observed or learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_tasks import missing


@dataclass(frozen=True)
class Initial(of.OptionGroup):
    """How the initial states of trajectories are determined.

    Attributes:
        mode: "observed": no entry is learned; "completed": those that were not observed are; "learned": all are, with
            the field, since observations are noisy. Learned entries require the same trajectories in every batch.
        start: Initial values by state, of entries that were not observed; by default 0.
        known: The states whose initial value is exactly that of `start`.
        shared: The states whose initial value is learned once for all trajectories.
    """

    mode: Literal["observed", "completed", "learned"] = "observed"
    start: dict[str, float] | None = None
    known: list[str] | None = None
    shared: list[str] | None = None


class InitialStates(nn.Module):
    """The states at the starts of S segments of B trajectories: observed, known, or learned.

    A learned entry begins at its observation; one that was not observed begins at `start`. Learned entries are stored
    in units of the standard deviation of the observations of their state. They belong to the trajectories of the first
    batch, except for those that all trajectories share.

    Args:
        states: The names of the d states.
        options: How they are determined.

    Attributes:
        free: (F,), the learned entries that belong to one trajectory, relative to where they began.
        common: (d,), the shared ones.
        place: (S, B, d), index of each entry in `free`; -1 if it is not there.
        begun: (S, B, d), where the entries began.
        observed: (S + 1, B, d), the observations at the starts and at the end of the last segment; nan where missing.
        final: (B, d), the final states of the last training step.
        key: (B,), the keys of the trajectories; -1 without one.
        scale: (d,), the unit of each state; nan before the first batch.
        centre: (d,), where the shared entries began; nan before the first batch.

    Raises:
        SettingError: A state is unknown, or known without a value.
    """

    free: Tensor
    common: Tensor
    place: Tensor
    begun: Tensor
    observed: Tensor
    final: Tensor
    key: Tensor
    scale: Tensor
    centre: Tensor
    start: Tensor
    known: Tensor
    shared: Tensor

    def __init__(self, states: Sequence[str], options: Initial) -> None:
        super().__init__()
        mode, start, known, shared = options.mode, options.start or {}, options.known or (), options.shared or ()
        for option, names in (("start", start), ("known", known), ("shared", shared)):
            for name in names:
                if name not in states:
                    raise of.SettingError(
                        f"Trajectory: initial.{option} names the state {name!r}; the states are {', '.join(states)}"
                    )
        valueless = [name for name in known if name not in start]
        if valueless:
            raise of.SettingError(f"Trajectory: initial.known needs a value in start for {', '.join(valueless)}")
        self.states, self.mode, self.learned = tuple(states), mode, mode == "learned"
        for name, size, trained in (("free", 0, mode != "observed"), ("common", len(states), bool(shared))):
            if trained:
                self.register_parameter(name, nn.Parameter(torch.zeros(size)))
            else:
                self.register_buffer(name, torch.zeros(size))
        for name in ("begun", "observed", "final"):
            self.register_buffer(name, torch.empty(0))
        for name in ("place", "key"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int64))
        for name in ("scale", "centre"):
            self.register_buffer(name, torch.full((len(states),), torch.nan))
        given = torch.tensor([start.get(name, torch.nan) for name in states], dtype=torch.float64)
        self.register_buffer("start", given, persistent=False)
        for option, names in (("known", known), ("shared", shared)):
            mask = torch.tensor([name in names for name in states])
            self.register_buffer(option, mask, persistent=False)
        self.register_load_state_dict_pre_hook(_make_room)

    def forward(self, batch: of.Series, rows: Tensor) -> Tensor:
        """The states at the starts of the segments of a training batch.

        Args:
            batch: B trajectories.
            rows: (S + 1,), the indices of the times at which segments start, and of the last time.

        Returns:
            (S, B, d).

        Raises:
            DataError: An entry was not observed and is not learned, or entries are learned and the trajectories differ
                from those of the first batch.
        """
        observed = missing.observed(batch)[:, rows].movedim(1, 0)
        states, wanted = self._given(observed[:-1])
        if not bool(wanted.any()):
            return states
        if self.mode == "observed":
            names = ", ".join(name for name, each in zip(self.states, wanted.flatten(0, 1).any(0), strict=True) if each)
            raise of.DataError(
                f"Trajectory: {names} was not observed where a trajectory or segment starts. Learn it by initial.mode "
                "'completed' or 'learned', or with one value for all trajectories by initial.shared; or give its value "
                "by initial.start and initial.known"
            )
        key = torch.full_like(batch.t[:, 0], -1).long() if batch.key is None else batch.key
        if not self.place.numel():
            self._begin(batch, rows, states, wanted)
            self.observed, self.key, self.final = observed, key, self.begun[-1]
        elif not (missing.same(observed, self.observed) and torch.equal(key, self.key)):
            raise of.DataError(
                "learned states belong to trajectories that are the same in every batch; in this one they are others. "
                "Let each batch contain the whole trajectories, without noise that is drawn anew (for pieces: "
                "batch_time as many as there are, batch_size 1), or use initial.mode 'observed'"
            )
        return self._learned().where(self.place >= 0, states)

    def prepare(self, batch: of.Series) -> None:
        """Sets the unit of each state, and where the shared entries begin, by the first training batch."""
        if not bool(self.scale.isnan().any()):
            return
        values, start = missing.observed(batch), self.start.to(self.scale)
        for number in range(len(self.states)):
            seen, first = (each[~each.isnan()] for each in (values[..., number], values[:, 0, number]))
            given = start[number]
            spread = seen.std() if len(seen) > 1 else given.abs()
            self.scale[number] = spread if spread > 0 else given.abs() if given.abs() > 0 else 1.0
            self.centre[number] = given if not given.isnan() else first.mean() if len(first) else 0.0

    def applies(self, batch: of.Series) -> bool:
        """Whether the states of this batch are observed, shared, or those that were learned."""
        first = missing.observed(batch)[:, 0]
        if not bool(self._given(first[None])[1].any()):
            return True
        key = self.key if batch.key is None else batch.key
        return bool(self.place.numel()) and missing.same(first, self.observed[0]) and torch.equal(key, self.key)

    def keep(self, final: Tensor) -> None:
        """Stores the final states (B, d) of a training step, for forecasts from there."""
        if self.place.numel():
            self.final = final.detach().clone()

    def best(self, batch: of.Series) -> Tensor:
        """The best estimate of initial states: what was learned for these trajectories, or else from observations.

        A trajectory is one that trained if its key and its observations at the first time are the same. An entry that
        was neither observed nor learned is the mean over the trajectories that trained, or its value in `start`.

        Args:
            batch: B trajectories.

        Returns:
            (B, d).
        """
        first = missing.observed(batch)[:, 0]
        states = self._given(first[None])[0][0]
        guess = self.start.to(states).nan_to_num(0.0)
        if not self.place.numel():
            return states.where(~states.isnan(), guess)
        learned = self._learned()
        guess = learned[0].mean(0).where((self.place[0] >= 0).any(0), guess)
        states = states.where(~states.isnan(), guess)
        for values, own, seen in (
            (self.final, torch.ones_like(self.final, dtype=torch.bool), self.observed[-1]),
            *zip(learned.flip(0), self.place.flip(0) >= 0, self.observed[:-1].flip(0), strict=True),
        ):
            same = missing.equal(first[:, None], seen).all(-1)  # (B, trajectories that trained)
            if batch.key is not None and bool((self.key >= 0).all()):
                same = same & (batch.key[:, None] == self.key)
            beside = torch.eye(*same.shape, dtype=same.dtype, device=same.device)
            nearest = (same.int() + (same & beside).int()).argmax(1)
            states = values[nearest].where(same.any(1)[:, None] & own[nearest], states)
        return states

    def _learned(self) -> Tensor:
        """(S, B, d), the learned entries; the others as they were at the first batch."""
        return torch.where(self.place >= 0, self.begun + self.scale * self.free[self.place.clamp(min=0)], self.begun)

    def _given(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        """The states that are observed, known or shared, nan where missing, and which ones are learned per trajectory.

        Args:
            observed: (S, B, d).
        """
        first = torch.zeros_like(observed, dtype=torch.bool)
        first[0] = True
        known, learned = first & self.known, observed.isnan() | self.learned
        shared = first & self.shared & learned & ~known
        common = self.centre.nan_to_num(0.0) + self.scale.nan_to_num(1.0) * self.common
        states = self.start.to(observed).where(known, common.where(shared, observed))
        return states, learned & ~known & ~shared

    def _begin(self, batch: of.Series, rows: Tensor, states: Tensor, wanted: Tensor) -> None:
        """Allocates the learned entries, which begin at their observation, the start value, or the next observation."""
        near = missing.filled(missing.observed(batch))[:, rows[:-1]].movedim(1, 0)
        start = self.start.to(states).expand_as(near)
        guess = near.where(~near.isnan(), start)
        guess[0] = start[0].where(~start[0].isnan(), near[0])
        self.begun = states.where(~states.isnan(), guess.nan_to_num(0.0)).detach()
        self.place = torch.full_like(states, -1, dtype=torch.int64)
        self.place[wanted] = torch.arange(int(wanted.sum()), device=states.device)
        self.free.data = states.new_zeros(int(wanted.sum()))


def _make_room(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Resizes what belongs to trajectories to the sizes in a checkpoint."""
    assert isinstance(module, InitialStates)
    for name in ("free", "begun", "observed", "final", "place", "key"):
        if prefix + name in state:
            value: Tensor = getattr(module, name)
            value.data = value.new_empty(state[prefix + name].shape)  # in the precision of this run
