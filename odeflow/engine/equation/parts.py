"""The parts of a field: the tensors that its values depend on, and a key of everything else."""

import copy
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from odeflow.engine.equation.state import Field
from odeflow.errors import OdeflowError
from odeflow.paths import Path
from odeflow.plugin.plugin import Plugin

INTERNAL = frozenset(vars(nn.Module()))
"""The attributes of every module; all others are its own."""
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
PLAIN = (int, float, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


class CompileError(OdeflowError):
    """A solve cannot be compiled. The message is the reason."""


@dataclass(frozen=True)
class Parts:
    """A field taken apart.

    Attributes:
        key: Equal for fields that differ in the values of `tensors` only.
        tensors: The parameters and buffers of its modules, and the tensors of its other parts.
        modules: Its modules.
        held: The objects that the key identifies by address. Whoever stores the key holds them.
    """

    key: Hashable
    tensors: tuple[Tensor, ...]
    modules: tuple[nn.Module, ...]
    held: tuple[object, ...]


def parts_of(field: Field) -> Parts:
    """The parts of a field: a module, or a tree of dataclasses, paths and plugins with modules as leaves.

    Raises:
        CompileError: The field contains something whose changes cannot be seen, such as a function made anew for each
            solve, or a module with hooks.
    """
    walk = _Walk()
    key = walk.part(field)
    return Parts(key, tuple(walk.tensors), tuple(walk.modules), tuple(walk.held))


class _Walk:
    """A walk through the parts of a field."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.modules: list[nn.Module] = []
        self.held: list[object] = []
        self.seen: dict[int, int] = {}
        self.entered: set[int] = set()  # objects whose own attributes are in the key

    def part(self, value: object) -> Hashable:
        """The key of a part."""
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, nn.Module):
            self.modules.append(value)
            return self.module(value)
        if isinstance(value, PLAIN):
            return _plain(value)
        if isinstance(value, tuple | list):
            return type(value), *map(self.part, cast(tuple[object, ...], value))
        if isinstance(value, dict):
            entries = cast(dict[Hashable, object], value).items()
            return dict, *((name, self.part(each)) for name, each in entries)
        if isinstance(value, MethodType):
            return value.__func__, self.part(value.__self__)
        if isinstance(value, FunctionType):
            raise CompileError("only modules are compiled, since a function may be made anew for each solve")
        if isinstance(value, partial):
            return self.part((value.func, *value.args, *value.keywords.items()))
        if is_dataclass(value) or isinstance(value, Path | Plugin):
            return type(value), *((name, self.part(each)) for name, each in vars(value).items() if name != "breaks")
        name = getattr(value, "__qualname__", type(value).__name__)
        raise CompileError(f"it contains {name}, which may change between solves unseen")

    def tensor(self, value: Tensor) -> Hashable:
        """The key of a tensor; a second occurrence refers to the first."""
        number = self.seen.get(id(value))
        if number is not None:
            return number
        self.seen[id(value)] = len(self.tensors)
        self.tensors.append(value)
        return *_form(value), value.requires_grad

    def module(self, module: nn.Module) -> Hashable:
        """The key of a module: classes, modes, parameters, buffers and attributes of all submodules."""
        entries = vars(module)
        if "_orig_mod" in entries["_modules"] or entries.get("_compiled_call_impl"):
            raise CompileError("it is, or contains, a module that is compiled itself")
        if any(entries[hooks] for hooks in HOOKS):
            raise CompileError(f"its {type(module).__name__} has hooks")
        key: list[Hashable] = [type(module), entries["training"]]
        for tensors in (entries["_parameters"], entries["_buffers"]):
            for name, value in tensors.items():
                key.append((name, None if value is None else self.tensor(value)))
        for name, value in entries.items():
            if name not in INTERNAL:
                key.append((name, self.attribute(value)))
        for name, child in entries["_modules"].items():
            key.append((name, None if child is None else self.module(child)))
        return tuple(key)

    def attribute(self, value: object) -> Hashable:
        """The key of an attribute of a module: its value if that is plain, otherwise its address and attributes."""
        if isinstance(value, PLAIN):
            return _plain(value)
        if isinstance(value, tuple | list | deque):
            return type(value), *map(self.attribute, cast(tuple[object, ...], value))
        if isinstance(value, dict):
            entries = cast(dict[Hashable, object], value).items()
            return dict, *((name, self.attribute(each)) for name, each in entries)
        if isinstance(value, set | frozenset):
            return type(value), frozenset(map(self.attribute, cast(set[object], value)))
        if isinstance(value, np.ndarray):
            raise CompileError("a NumPy array may change between solves unseen; make it a buffer")
        if isinstance(value, Tensor):
            if value.requires_grad and id(value) not in self.seen:
                raise CompileError(
                    "a tensor that requires a gradient is neither a parameter nor a buffer of its module"
                )
            self.held.append(value)
            return id(value), *_form(value)
        if isinstance(value, MethodType):
            owner = value.__self__  # a module's own attributes are in the key
            return value.__func__, id(owner) if isinstance(owner, nn.Module) else self.attribute(owner)
        self.held.append(value)
        if id(value) in self.entered or isinstance(value, type | ModuleType):
            return id(value)
        self.entered.add(id(value))
        return id(value), *(self.attribute(each) for each in _inside(value))


def _plain(value: object) -> Hashable:
    """The key of a plain value, which tells 1 from True and 1.0, and 0.0 from -0.0."""
    return type(value), value.hex() if isinstance(value, float) else value


def _form(value: Tensor) -> tuple[Hashable, ...]:
    """What code for a tensor depends on, besides its values."""
    return value.shape, value.stride(), value.dtype, value.device, value.is_neg(), value.is_conj()


def _inside(value: object) -> list[object]:
    """What an object consists of: attributes, slots, arguments, and what a function has from where it was made."""
    found: list[object] = [dict(getattr(value, "__dict__", {}))]
    if isinstance(value, FunctionType):
        found += [value.__defaults__, value.__kwdefaults__, *(cell.cell_contents for cell in value.__closure__ or ())]
    if isinstance(value, partial):
        inner = cast("partial[Any]", value)
        found += [inner.func, inner.args, inner.keywords]
    slots = (name for kind in type(value).__mro__ for name in _listed(getattr(kind, "__slots__", ())))
    return found + [getattr(value, name) for name in slots if hasattr(value, name) and not name.startswith("__")]


def _listed(slots: str | Iterable[str]) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


class Replaced(nn.Module):
    """A field with other tensors in place of its own, for tracing.

    Args:
        field: The field.
        parts: Its parts.
    """

    def __init__(self, field: Field, parts: Parts) -> None:
        super().__init__()
        self.fields = (field,)  # in a tuple, so that its modules are registered once
        self.inner = nn.ModuleList(parts.modules)
        self.numbers = {id(tensor): number for number, tensor in enumerate(parts.tensors)}
        self.names = {
            f"{prefix}.{name}": self.numbers[id(value)]
            for prefix, module in self.named_modules()
            for name, value in (*module.named_parameters("", False, False), *module.named_buffers("", False, False))
        }

    def forward(self, tensors: tuple[Tensor, ...], t: Tensor, y: Tensor) -> Tensor:
        """The value of the field."""
        return cast(Field, _replace(self.fields[0], dict(zip(self.numbers, tensors, strict=True))))(t, y)

    def over(self, tensors: tuple[Tensor, ...]) -> Field:
        """The field with these tensors, in the order of `Parts.tensors`."""
        values = {name: tensors[number] for name, number in self.names.items()}

        def field(t: Tensor, y: Tensor) -> Tensor:
            return torch.func.functional_call(self, values, (tensors, t, y), tie_weights=False)

        return field


def _replace(value: Any, tensors: Mapping[int, Tensor]) -> Any:
    """A copy of a part with other tensors; modules stay."""
    again: Callable[[Any], Any] = partial(_replace, tensors=tensors)
    if isinstance(value, Tensor):
        return tensors[id(value)]
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return type(cast(list[Any], value))(map(again, cast(list[Any], value)))
    if isinstance(value, dict):
        return {name: again(each) for name, each in cast(dict[Any, Any], value).items()}
    if isinstance(value, MethodType):
        return MethodType(value.__func__, again(value.__self__))
    if isinstance(value, partial):
        found = cast("partial[Any]", value)
        return partial(found.func, *again(found.args), **{name: again(each) for name, each in found.keywords.items()})
    if not isinstance(value, nn.Module | type) and (is_dataclass(value) or isinstance(value, Path | Plugin)):
        made = copy.copy(value)
        for name, each in vars(value).items():
            object.__setattr__(made, name, again(each))
        return made
    return value
