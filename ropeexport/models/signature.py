"""How a module's ``forward`` is called and what it returns, as a manifest holds it.

Who has only the file calls it as the module was called, and returns what that returned.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils import _pytree as pytree

from ropeexport.manifest import Argument, Forward
from ropeexport.models.example import Example, traceable_arguments, unchanged
from ropeexport.models.input_tree import recorded, returned
from ropeexport.models.wrappers import argument_names

_RETURNS_CLASS = "return_dict"  # the libraries' name of the choice between a class and a tuple


def forward_of(example: Example, program: ExportedProgram, outputs: Sequence[str]) -> Forward:
    """Return the record of an example's forward.

    Parameters
    ----------
    example : Example
        What was traced.
    program : ExportedProgram
        Its trace, which has the tree of what it returned.
    outputs : sequence of str
        Names of the tensors in that, in order.
    """
    parameters = inspect.signature(example.module.forward).parameters
    given = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    spec = program.call_spec.out_spec
    tree = _unflattened(spec, _leaves(program), outputs) if spec is not None else None
    return Forward(
        parameters=tuple(argument_names(example.module)),
        defaults={n: x for n, x in recorded({}, given).items() if x.kind != "unknown"},
        returns=_described(tree),
        returns_class=_of_class(example, tree, outputs) if given.get(_RETURNS_CLASS) else None,
    )


class _Output:
    """The place of an output; a class of its own, which no library takes for data."""

    def __init__(self, name: str) -> None:
        self.name = name


def _leaves(program: ExportedProgram) -> list[Any]:
    """Return what a program returns: tensors, and what is fixed as it is."""
    leaves = returned(program)
    return [leaf.meta.get("val") if isinstance(leaf, Node) else leaf for leaf in leaves]


def _unflattened(spec: pytree.TreeSpec, leaves: Sequence[Any], outputs: Sequence[str]) -> Any:
    """Return a tree with places of outputs for its tensors; None where it has other leaves."""
    names = iter(outputs)
    places = [_Output(next(names, "")) if isinstance(x, Tensor) else x for x in leaves]
    if sum(isinstance(x, Tensor) for x in leaves) != len(outputs):
        return None
    try:
        return pytree.tree_unflatten(places, spec)
    except Exception:  # a class that refuses what is no tensor
        return None


def _of_class(example: Example, tree: Any, outputs: Sequence[str]) -> Argument | None:
    """Return what forward returns with ``return_dict=True``, which fake tensors tell."""
    found = _described(tree)
    if found is None or found.kind == "class":
        return found
    with unchanged(example.module):
        made = _returned_class(example.module, traceable_arguments(example))
    leaves, spec = pytree.tree_flatten(made)
    found = _described(_unflattened(spec, leaves, outputs))
    return found if found is not None and found.kind == "class" else None


def _returned_class(module: nn.Module, arguments: Mapping[str, Any]) -> Any:
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(x: Tensor) -> Tensor:
        return mode.from_tensor(x) if not isinstance(x, FakeTensor) else x

    inputs = pytree.tree_map_only(Tensor, fake, dict(arguments))
    try:
        with mode, torch.no_grad():
            return module(**inputs | {_RETURNS_CLASS: True})
    except Exception:  # a forward that asks for numbers: what it returns is not known then
        return None


def _described(value: Any) -> Argument | None:
    """Return a tree as a manifest holds it; None where that cannot."""
    if isinstance(value, _Output):
        return Argument(kind="output", value=value.name)
    if value is None or type(value) in (bool, int, float, str):
        return Argument(kind="fixed", value=value)
    items = list(_items(value))
    parts = [_described(part) for _, part in items]
    known = tuple(part for part in parts if part is not None)
    if not items or len(known) < len(parts):
        return None
    keys = tuple(key for key, _ in items)
    if type(value) in (list, tuple):
        return Argument(kind="list" if type(value) is list else "tuple", parts=known)
    if type(value) is dict:
        return Argument(kind="dict", keys=keys, parts=known)
    kind = type(value)
    name = f"{kind.__module__}:{kind.__qualname__}"
    return Argument(kind="class", value=name, keys=keys, parts=known)


def _items(value: Any) -> Iterator[tuple[str | int, Any]]:
    """Yield the parts of a container by their keys; of a class that is none, nothing."""
    if isinstance(value, Mapping):  # transformers' and diffusers' output classes too
        yield from value.items()
    elif pytree.is_namedtuple_instance(value):
        yield from zip(value._fields, value, strict=True)
    elif type(value) in (list, tuple):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
