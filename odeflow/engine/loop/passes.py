"""What makes compiled code of small fields fast on a CPU: rewrites of its graph, and loops that keep their buffers."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import torch
from torch import Tensor
from torch._inductor import inductor_prims
from torch._inductor.codegen import common
from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu
from torch._inductor.codegen.wrapper import WrapperLine
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._inductor.graph import SubgraphLowering
from torch._inductor.ir import ShapeAsConstantBuffer
from torch._inductor.utils import IndentedBuffer
from torch.fx import Graph, Node

aten = torch.ops.aten
KEPT = 2**17  # bytes of a buffer up to which a loop keeps it
SMALL = 2**15  # multiplications of a product up to which a fused loop beats the call of a library
THIN = 4  # terms of the sums of a product up to which this is so whatever the number of sums
SHORT = 128  # terms up to which this is so for the sums of few columns, which are products of rows
LANES = 8  # columns from which on vector instructions go over them
LIMIT = 7.9  # beyond this |x| tanh is ±1 in float32
ABOVE = (0.9999999943622309, 0.1345066269974041, 0.0035790422870437735, 2.20240861283524e-05, 1.5429177775501355e-08)
BELOW = (1.0, 0.467839907121792, 0.02619242852185828, 0.0003423733278391279, 8.599264041946748e-07)
"""The coefficients of 1, x², x⁴ … in tanh x = x P(x²)/Q(x²) for |x| ≤ 7.9, by Lawson's iteration for the least relative
error: 5.7e-9, and 3.3e-7 (three units in the last place) once evaluated in float32."""


class SmallFields(CustomGraphPass):
    """Matrix products in the form that is fastest for their sizes, and tanh in float32 as a rational function.

    Small products become sums that fuse with their neighbours, narrow ones are computed the other way round, and
    additions are left to the neighbours.
    """

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
    if matrix.target != aten.permute.default:
        return None
    base, order = cast(tuple[Node, list[int]], matrix.args)
    return base if order[0] % 2 else None  # the other order of two dimensions changes nothing


def _by_columns(matrix: Node) -> bool:
    """Whether a matrix is in memory by columns."""
    return matrix.meta["val"].stride(0) == 1


def _product(node: Node, add: _Builder) -> Node | None:
    """A matrix product, or one with an addition, in the form that is fastest for its sizes."""
    *bias, left, right = node.args
    assert isinstance(left, Node)
    assert isinstance(right, Node)
    sizes = (*left.meta["val"].shape, right.meta["val"].shape[1])
    if node.kwargs or not all(isinstance(size, int) for size in sizes):
        return None
    fused = prod(sizes) <= SMALL or sizes[1] <= THIN or (_narrow(left, right) and sizes[1] <= SHORT)
    total = _sum_of_products(left, right, add) if fused else _library_product(left, right, add)
    return add(aten.add.Tensor, total, bias[0]) if bias else total


def _narrow(left: Node, right: Node) -> bool:
    """Whether a product has few columns, and its sums go along the rows of the left factor."""
    few = right.meta["val"].shape[1] < LANES <= len(left.meta["val"])
    return few and _transposed(left) is None


def _sum_of_products(left: Node, right: Node, add: _Builder) -> Node:
    """A matrix product as a sum that fuses with its neighbours."""
    rows, columns = len(left.meta["val"]), right.meta["val"].shape[1]
    turned = columns < LANES <= rows and _transposed(left) is not None
    if turned:
        left, right = add.transposed(right), add.transposed(left)
    left = add.stored_once(left)
    # the fused loop goes over many columns, and otherwise over what is summed
    if turned or columns >= LANES:
        right = add.rows(right)
    elif _narrow(left, right):
        right = add.transposed(add.rows(add.transposed(right)))
    else:
        right = add.stored_once(right)
    products = add(aten.mul.Tensor, add(aten.unsqueeze.default, left, 2), add(aten.unsqueeze.default, right, 0))
    total = add(aten.sum.dim_IntList, products, [1])
    return add.transposed(total) if turned else total


def _library_product(left: Node, right: Node, add: _Builder) -> Node:
    """A matrix product by a library, which is slow where there are few columns, and not where there are few rows."""
    if right.meta["val"].shape[1] < LANES <= len(left.meta["val"]):
        first, second = add.transposed(right), add.transposed(left)
        if _by_columns(first) and _by_columns(second):  # the slowest form of all
            first = add.rows(first)
        turned = add.transposed(add(aten.mm.default, first, second))
        return add(inductor_prims.force_stride_order, turned, (turned.meta["val"].shape[1], 1))
    return add(aten.mm.default, left, right)


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


@dataclass
class OwnOutput(WrapperLine):
    """A line behind a subgraph: its output is copied unless it was allocated anew.

    Attributes:
        wrapper: The generator.
        inner: The output's name in the subgraph.
        outer: Its name outside.
    """

    wrapper: "KeptBuffers"
    inner: str
    outer: str

    def codegen(self, code: IndentedBuffer) -> None:
        """Writes the line."""
        if self.inner not in self.wrapper.fresh:
            copied = f"AtenTensorHandle own; AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_clone({self.outer}, &own));"
            code.writeline(f"{{ {copied} {self.outer} = RAIIAtenTensorHandle(own); }}")


class KeptBuffers(CppWrapperCpu):
    """C++ code whose loops allocate a small buffer in their first pass and use it in all others and in later calls.

    Allocations take twice as long as the arithmetic of a step over a small state. Each thread has its own buffers. What
    a pass returns is in none of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fresh: set[str] = set()  # buffers that are allocated in each pass

    @staticmethod
    def create(
        is_subgraph: bool, subgraph_name: str | None, parent_wrapper: Any, partition_signatures: Any = None
    ) -> "KeptBuffers":
        """The generator of a program."""
        return KeptBuffers()

    def make_allocation(
        self,
        name: str,
        device: torch.device,
        dtype: torch.dtype,
        shape: Sequence[Any],
        stride: Sequence[Any],
        allocation_shape: Sequence[Any] | None = None,
        is_pinned: bool = False,
    ) -> str:
        """The declaration of a buffer, after the lines that allocate it."""
        graph = self.get_codegened_graph()
        inner = isinstance(graph, SubgraphLowering) and name not in graph.get_output_names()
        plain = device.type == "cpu" and allocation_shape in (None, shape)
        known = self.is_statically_known_list_of_ints(shape)
        if not (inner and plain and known and prod(map(int, shape)) * dtype.itemsize <= KEPT):
            self.fresh.add(name)
            return super().make_allocation(name, device, dtype, shape, stride, allocation_shape, is_pinned)
        add_line = self.wrapper_call.writeline
        sizes, strides = (
            self.codegen_int_array_var(self.codegen_shape_tuple(each), add_line, known_statically=True, graph=graph)
            for each in (shape, stride)
        )
        form = f"{len(shape)}, {sizes}, {strides}, {self.codegen_dtype(dtype)}, {self.codegen_device(device)}"
        add_line(f"static thread_local RAIIAtenTensorHandle {name}_kept;")
        add_line(f"AtenTensorHandle {name}_handle;")
        add_line(f"if (!{name}_kept.get()) {{")
        add_line(f"AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided({form}, &{name}_handle));")
        add_line(f"{name}_kept = RAIIAtenTensorHandle({name}_handle); }}")
        add_line(f"AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_assign_tensors_out({name}_kept, &{name}_handle));")
        return f"RAIIAtenTensorHandle {name}({name}_handle);"

    def codegen_subgraph_suffix(self, subgraph: Any, outer_inputs: list[str], outer_outputs: list[str]) -> None:
        """Hands the outputs of a subgraph to those outside."""
        super().codegen_subgraph_suffix(subgraph, outer_inputs, outer_outputs)
        for inner, outer in zip(subgraph.graph.graph_outputs, outer_outputs, strict=True):
            if not isinstance(inner, ShapeAsConstantBuffer):
                self.writeline(OwnOutput(self, inner.get_name(), outer))


@contextmanager
def kept_buffers() -> Generator[None]:
    """Code that is compiled meanwhile for the CPU has `KeptBuffers`."""
    common.init_backend_registration()
    usual = common.device_codegens["cpu"]
    common.device_codegens["cpu"] = replace(usual, cpp_wrapper_codegen=KeptBuffers)
    try:
        yield
    finally:
        common.device_codegens["cpu"] = usual
