"""Replay: the passes of a program's loops as captured graphs of a GPU.

A loop that asks the host whether to go on waits for the device in every pass. Here a pass decides for itself: behind
the end it changes nothing. So the host launches many passes, one graph each, and reads once behind them whether the
loop has ended. Where there is no GPU the same passes can be called instead of replayed, by which tests run them.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from odeflow.engine.loop.program import ATTEMPTS, Loop, Pull

Tensors = tuple[Tensor, ...]
Code = Callable[..., Tensors]
Compiling = Callable[[Code, Tensors], Code]

WARM_UP = 3
"""Calls before a capture, in which libraries allocate what they need."""
FIRST_PASSES = 16
"""Attempts of the first solve before the first look at its numbers."""


def replays(device: torch.device) -> bool:
    """Whether solves on this device are replayed."""
    return device.type == "cuda"


class Replay:
    """Functions that change their buffers, each captured as a graph.

    A graph reads and writes where its tensors were when it was captured. So it has buffers of its own, and reads
    weights where they are. A tensor that is elsewhere in a later call gets a buffer, too, and all is captured anew.

    Args:
        functions: (*buffers, *tensors) ↦ tensors, which are discarded.
        buffers: What the functions change or get anew in each call.
        tensors: The tensors of the field.
        compiling: Compiles a function for its inputs.

    Attributes:
        buffers: Own buffers of these forms.
        passes: The functions, without arguments.
    """

    def __init__(self, functions: Sequence[Code], buffers: Tensors, tensors: Tensors, compiling: Compiling) -> None:
        self.buffers, self.tensors = buffers, list(tensors)
        self.copied: set[int] = set()
        self.codes = [compiling(function, (*buffers, *tensors)) for function in functions]
        self.passes = self._captured()

    def load(self, given: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Copies the values of a call into the buffers."""
        moved = {
            number
            for number, (own, other) in enumerate(zip(self.tensors, tensors, strict=True))
            if own.data_ptr() != other.data_ptr()
        }
        for number in moved - self.copied:
            self.tensors[number] = torch.empty_like(tensors[number])
        if moved - self.copied:
            self.copied |= moved
            self.passes = self._captured()
        for number in moved:
            self.tensors[number].copy_(tensors[number])
        for own, other in zip(self.buffers, given, strict=True):
            _like(own, other).copy_(other)

    def store(self, given: Sequence[Tensor], changed: Sequence[int]) -> None:
        """Copies the values of changed buffers back."""
        for number in changed:
            given[number].copy_(_like(self.buffers[number], given[number]))

    def _captured(self) -> list[Callable[[], object]]:
        runs = [partial(code, *self.buffers, *self.tensors) for code in self.codes]
        device = self.buffers[0].device
        if device.type != "cuda":
            return list(runs)
        with torch.cuda.device(device):
            return [_capture(run) for run in runs]


def _like(own: Tensor, other: Tensor) -> Tensor:
    """The part of a buffer that holds a tensor: a tape of one's own has room for a step more."""
    return own if own.shape == other.shape else own[: len(other)]


def _capture(run: Callable[[], object]) -> Callable[[], object]:
    """A call as a graph: its replay."""
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may talk to the device
        run()
    return graph.replay


class ReplayedForward:
    """`Loop.forward`, attempt by attempt.

    Args:
        loop: The code of the solve.
        inputs: As of `Loop.forward`.
        compiling: Compiles a function for its inputs.
    """

    def __init__(self, loop: Loop, inputs: Tensors, compiling: Compiling) -> None:
        settings, numbers, first, states, clock, slopes, *tensors = inputs
        stages = loop.method.stages + 1
        buffers = (
            torch.zeros_like(settings),
            torch.zeros_like(numbers),
            torch.zeros_like(first),
            *(
                each.new_zeros(len(each) + more, *each.shape[1:])
                for each, more in ((states, 1), (clock, 4), (slopes, stages))
            ),
        )  # an attempt behind a full tape writes there
        self.replay = Replay((loop.begin, loop.attempt), buffers, tuple(tensors), compiling)
        self.expected = FIRST_PASSES

    def __call__(self, *inputs: Tensor) -> Tensors:
        """As of `Loop.forward`."""
        given = inputs[:6]
        self.replay.load(given, inputs[6:])
        begin, attempt = self.replay.passes
        begin()
        done = before = int(given[1][ATTEMPTS])
        count = self.expected
        while True:
            for _ in range(count):
                attempt()
            attempts = int(self.replay.buffers[1][ATTEMPTS])
            ended, done = attempts < done + count, attempts
            if ended:
                break
            count = max(4, (done - before) // 4)
        self.expected = done - before + 1  # one that changes nothing, by which the end is seen
        self.replay.store(given, range(1, 6))
        return (self.replay.buffers[1][ATTEMPTS],)


class ReplayedBackward:
    """`Loop.backward`, step by step.

    Args:
        loop: The code of the solve.
        pull: The vector–Jacobian product of a step.
        inputs: As of `Loop.backward`, behind `pull`.
        compiling: Compiles a function for its inputs.
    """

    def __init__(self, loop: Loop, pull: Pull, inputs: Tensors, compiling: Compiling) -> None:
        rows = 2 * loop.method.rows
        self.size = 4 + rows + len(pull.used)
        self.changed = (1, *range(4 + rows, self.size))
        buffers = tuple(torch.zeros_like(each, device=inputs[1].device) for each in inputs[: self.size])
        buffers[0].fill_(1)  # a step must be left to be captured
        self.replay = Replay((partial(loop.retreat, pull),), buffers, inputs[self.size :], compiling)

    def __call__(self, *inputs: Tensor) -> Tensors:
        """As of `Loop.backward`."""
        given = inputs[: self.size]
        self.replay.load(given, inputs[self.size :])
        (step,) = self.replay.passes
        for _ in range(int(given[0])):
            step()
        self.replay.store(given, self.changed)
        return (given[0],)
