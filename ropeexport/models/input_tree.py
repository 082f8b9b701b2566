"""The arguments of ``forward`` as a tree: each tensor in it is an input of the file, by its path.

A tree is any nesting that torch knows (lists, tuples, dicts, registered classes).  Between stages
tensors travel flat, by name; whoever calls the module puts them back into their places.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from ropeexport.errors import UsageError, first_line
from ropeexport.manifest import Argument, TreePath

T = TypeVar("T")

_KEY = re.compile(r"[\w.\-]+")  # a shape's option, 'past.0.key:1x2', parts names by : and ,


@dataclass(frozen=True)
class _Input:
    """The place of a tensor."""

    name: str


@dataclass(frozen=True)
class InputTree:
    """Where each input goes in the arguments, and what is fixed beside them.

    Attributes
    ----------
    paths : dict
        Of each input, in order; the first part is the argument's name.
    """

    paths: dict[str, TreePath]
    _leaves: tuple[Any, ...]
    _spec: pytree.TreeSpec

    def __deepcopy__(self, memo: dict[int, Any]) -> InputTree:
        """Copy what is fixed; of torch's own part a copy warns, and nothing changes it."""
        return InputTree(self.paths, copy.deepcopy(self._leaves, memo), self._spec)

    @property
    def is_flat(self) -> bool:
        """Whether each argument is a tensor."""
        arguments = self._spec.children()
        return len(arguments) == len(self.paths) and all(x.is_leaf() for x in arguments)

    @property
    def names(self) -> tuple[str | None, ...]:
        """The name of each leaf, None for what is fixed."""
        return tuple(x.name if isinstance(x, _Input) else None for x in self._leaves)

    def names_in(self, program: ExportedProgram) -> dict[str, str]:
        """Return a program's name of each input, and its own; fixed arguments come last in it."""
        pairs = zip(placeholders(program), self.names, strict=False)
        return {placeholder: name for placeholder, name in pairs if name is not None}

    def filled(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the arguments with tensors, by name, in their places."""
        leaves = [tensors[x.name] if isinstance(x, _Input) else x for x in self._leaves]
        filled: dict[str, Any] = pytree.tree_unflatten(leaves, self._spec)
        return filled


def placeholders(program: ExportedProgram) -> list[str]:
    """Return a program's names of the leaves of its arguments, in order."""
    specs = program.graph_signature.input_specs
    return [spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT]


def returned(program: ExportedProgram) -> list[Any]:
    """Return a program's nodes of the leaves that the module returns, and numbers as they are."""
    nodes = program.graph.output_node().args[0]
    specs = program.graph_signature.output_specs
    pairs = zip(specs, nodes, strict=True)
    return [node for spec, node in pairs if spec.kind is OutputKind.USER_OUTPUT]


def tree_of(arguments: Mapping[str, Any]) -> InputTree:
    """Return the tree of some arguments.

    Raises
    ------
    UsageError
        Where a path has no name that a file can have, or two have the same.

    Examples
    --------
    >>> import torch
    >>> key, value = torch.zeros(1, 2), torch.zeros(1, 2)
    >>> tree = tree_of({"past": [{"key": key, "value": value}], "scale": 2.0})
    >>> tree.paths
    {'past.0.key': ('past', 0, 'key'), 'past.0.value': ('past', 0, 'value')}
    >>> tree.filled({"past.0.key": key, "past.0.value": value})["scale"]
    2.0
    """
    try:
        found, spec = pytree.tree_flatten_with_path(dict(arguments))
    except ValueError as error:  # what torch says of a class that has no keys
        raise UsageError(f"inputs: {first_line(error)}", code="RX116") from error
    paths: dict[str, TreePath] = {}
    leaves = []
    for keys, value in found:
        leaves.append(value)
        path = path_of(keys)
        if isinstance(value, np.ndarray):
            raise UsageError(
                f"{joined(path)}: expected a tensor, got ndarray; pass torch.from_numpy(...)",
                code="RX116",
            )
        if isinstance(value, Tensor):
            name = _name(path)
            if name in paths:
                raise UsageError(
                    f"{name}: expected one input of that name, got {paths[name]} and {path}",
                    code="RX116",
                )
            paths[name], leaves[-1] = path, _Input(name)
    return InputTree(paths, tuple(leaves), spec)


def tensors_of(arguments: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors among the leaves, in the order of the tree's names."""
    return [x for x in pytree.tree_leaves(dict(arguments)) if isinstance(x, Tensor)]


def has_tensor(value: object) -> bool:
    """Say whether a tree has a tensor among its leaves."""
    return any(isinstance(x, Tensor) for x in pytree.tree_leaves(value))


def path_of(keys: Sequence[Any]) -> TreePath:
    """Return torch's path to a leaf in names and whole numbers."""
    kinds = ("key", "idx", "name")
    parts = (next(getattr(key, kind) for kind in kinds if hasattr(key, kind)) for key in keys)
    return tuple(part if isinstance(part, str | int) else str(part) for part in parts)


def paths_of(spec: pytree.TreeSpec) -> list[TreePath]:
    """Return the path to each leaf of a tree."""
    tree = pytree.tree_unflatten(range(spec.num_leaves), spec)
    try:
        return [path_of(keys) for keys, _ in pytree.tree_flatten_with_path(tree)[0]]
    except ValueError:  # of a class that was registered without its keys: in order
        return [(index,) for index in range(spec.num_leaves)]


def joined(path: TreePath) -> str:
    """Return a path as one name."""
    return ".".join(map(str, path))


def _name(path: TreePath) -> str:
    for part in path:
        if not _KEY.fullmatch(str(part)):
            raise UsageError(
                f"inputs: {joined(path)!r}: expected keys of letters, digits, '_', '-' and '.', "
                f"got {part!r}; an input of the file has the name of its path",
                code="RX116",
            )
    return joined(path)


def by_leaf(given: Mapping[str, T], names: Sequence[str], what: str) -> Iterator[tuple[str, T]]:
    """Yield what is given for each leaf, by its own name or that of a tree around it.

    What is given for a tree comes before what is given for a part of it.

    Raises
    ------
    UsageError
        For a name that stands for no leaf.
    """
    for name in sorted(given, key=len):
        found = [leaf for leaf in names if leaf == name or leaf.startswith(f"{name}.")]
        if not found:
            raise UsageError(
                f"{what}: no input {name!r}; the example has {', '.join(names)}", code="RX116"
            )
        yield from ((leaf, given[name]) for leaf in found)


def shaped(value: Any, make: Callable[[Any], Any]) -> Any:
    """Return a tree with what is made of each leaf in its place, as torch.export wants its shapes.

    A class that is registered may take nothing but tensors, so its parts come as a list.
    """
    if pytree.tree_is_leaf(value):
        return make(value)
    parts, spec = pytree.tree_flatten(value, is_leaf=lambda x: x is not value)
    made = [shaped(part, make) for part in parts]
    is_plain = type(value) in pytree.BUILTIN_TYPES or pytree.is_namedtuple_instance(value)
    return pytree.tree_unflatten(made, spec) if is_plain else made


def recorded(inputs: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Argument]:
    """Return the arguments as a manifest holds them, those as unknown that JSON cannot hold."""
    found = {name: _recorded(value, (name,)) for name, value in inputs.items()}
    found |= {name: _recorded(value, None) for name, value in constants.items()}
    return {name: argument or Argument(kind="unknown") for name, argument in found.items()}


def _recorded(value: Any, path: TreePath | None) -> Argument | None:
    """Return a part of an argument; without a path a tensor in it is fixed, and unknown."""
    if isinstance(value, Tensor):
        return None if path is None else Argument(kind="input", value=joined(path))
    if type(value) in (list, tuple, dict):
        items = dict(value if isinstance(value, dict) else enumerate(value))
        parts = [
            _recorded(part, None if path is None else (*path, key)) for key, part in items.items()
        ]
        known = tuple(part for part in parts if part is not None)
        if len(known) < len(parts) or not all(type(key) in (str, int) for key in items):
            return None
        kind = type(value).__name__
        return Argument(kind=kind, keys=tuple(items) if kind == "dict" else (), parts=known)
    is_plain = value is None or type(value) in (bool, int, str)
    is_number = type(value) is float and math.isfinite(value)  # JSON has no others
    return Argument(kind="fixed", value=value) if is_plain or is_number else None


def restored(argument: Argument, tensors: Mapping[str, Tensor]) -> Any:
    """Return an argument as a manifest holds it, with tensors in their places."""
    if argument.kind == "input":
        name = str(argument.value)
        if name not in tensors:
            raise UsageError(
                f"arguments: expected inputs of the file, {', '.join(tensors)}, got {name!r}; "
                "export again",
                code="RX310",
            )
        return tensors[name]
    if argument.kind == "fixed":
        return argument.value
    parts = [restored(part, tensors) for part in argument.parts]
    if argument.kind == "dict":
        return dict(zip(argument.keys, parts, strict=True))
    return tuple(parts) if argument.kind == "tuple" else parts
