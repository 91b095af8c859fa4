"""Rewrites of compiled code that make small fields fast on a CPU."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch._inductor import inductor_prims
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

aten = torch.ops.aten
SMALL = 2**15  # multiplications of a product up to which a fused loop beats the call of a library
LANES = 8  # columns from which on vector instructions go over them
LIMIT = 7.9  # beyond this |x| tanh is ±1 in float32
ABOVE = (0.9999999943622309, 0.1345066269974041, 0.0035790422870437735, 2.20240861283524e-05, 1.5429177775501355e-08)
BELOW = (1.0, 0.467839907121792, 0.02619242852185828, 0.0003423733278391279, 8.599264041946748e-07)
"""The coefficients of 1, x², x⁴ … in tanh x = x P(x²)/Q(x²) for |x| ≤ 7.9, by Lawson's iteration for the least relative
error: 5.7e-9, and 3.3e-7 (three units in the last place) once evaluated in float32."""


class SmallFields(CustomGraphPass):
    """Small matrix products become sums that fuse with their neighbours, and tanh in float32 a rational function."""

    def uuid(self) -> bytes:
        """The key of compiled code in the cache on disk."""
        return get_hash_for_files((__file__,))

    def __call__(self, graph: Graph) -> None:
        stored: dict[tuple[Node, bool], Node] = {}
        for node in list(graph.nodes):
            rewrite = REWRITES.get(node.target)
            if rewrite is None or not _on_cpu(node):
                continue
            with graph.inserting_before(node):
                made = rewrite(node, _Builder(graph, node, stored))
            if made is not None:
                node.replace_all_uses_with(made)
                graph.erase_node(node)


def _on_cpu(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.device.type == "cpu" and value.is_floating_point()


class _Builder:
    """Adds nodes to a graph, with the metadata that the compiler needs."""

    def __init__(self, graph: Graph, like: Node, stored: dict[tuple[Node, bool], Node]) -> None:
        self.graph, self.mode, self.stored = graph, like.meta["val"].fake_mode, stored

    def __call__(self, target: Callable[..., Any], *args: Any) -> Node:
        node = self.graph.call_function(target, args)
        values = [each.meta["val"] if isinstance(each, Node) else each for each in args]
        with self.mode:
            node.meta["val"] = target(*values)
        return node

    def rows(self, matrix: Node) -> Node:
        """A matrix in memory by rows, so that loops over its columns do not compute or gather its entries again."""
        base = _transposed(matrix)
        key = (matrix, False) if base is None else (base, True)  # each evaluation of a field transposes its weights
        if key not in self.stored:
            self.stored[key] = self(inductor_prims.force_stride_order, matrix, (matrix.meta["val"].shape[1], 1))
        return self.stored[key]

    def stored_once(self, matrix: Node) -> Node:
        """A matrix in memory, by rows or by columns."""
        base = _transposed(matrix)
        return self.rows(matrix) if base is None else self.transposed(self.rows(base))

    def transposed(self, matrix: Node) -> Node:
        """The transpose of a matrix."""
        return _transposed(matrix) or self(aten.permute.default, matrix, [1, 0])


def _transposed(matrix: Node) -> Node | None:
    """The matrix of which this is the transpose, if it is one."""
    return cast(Node, matrix.args[0]) if matrix.target == aten.permute.default else None


def _product(node: Node, add: _Builder) -> Node | None:
    """A matrix product, or one with an addition, as a sum of products."""
    *bias, left, right = node.args
    assert isinstance(left, Node)
    assert isinstance(right, Node)
    sizes = (*left.meta["val"].shape, right.meta["val"].shape[1])
    if node.kwargs or not all(isinstance(size, int) for size in sizes) or sizes[0] * sizes[1] * sizes[2] > SMALL:
        return None
    turned = sizes[2] < LANES <= sizes[0] and _transposed(left) is not None
    if turned:
        left, right = add.transposed(right), add.transposed(left)
    left = add.stored_once(left)
    # the fused loop goes over many columns, and otherwise over what is summed
    right = add.rows(right) if turned or sizes[2] >= LANES else add.stored_once(right)
    products = add(aten.mul.Tensor, add(aten.unsqueeze.default, left, 2), add(aten.unsqueeze.default, right, 0))
    total = add(aten.sum.dim_IntList, products, [1])
    total = add.transposed(total) if turned else total
    return add(aten.add.Tensor, total, bias[0]) if bias else total


def _tanh(node: Node, add: _Builder) -> Node | None:
    (argument,) = node.args
    if node.meta["val"].dtype != torch.float32:
        return None
    x = add(aten.clamp_max.default, add(aten.clamp_min.default, argument, -LIMIT), LIMIT)
    square = add(aten.mul.Tensor, x, x)

    def polynomial(coefficients: tuple[float, ...]) -> Node:
        total: Any = coefficients[-1]
        for coefficient in reversed(coefficients[:-1]):
            total = add(aten.add.Tensor, add(aten.mul.Tensor, square, total), coefficient)
        return total

    return add(aten.div.Tensor, add(aten.mul.Tensor, x, polynomial(ABOVE)), polynomial(BELOW))


REWRITES: dict[Any, Callable[[Node, _Builder], Node | None]] = {
    aten.mm.default: _product,
    aten.addmm.default: _product,
    aten.tanh.default: _tanh,
}
