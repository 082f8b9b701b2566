"""The names of a file's inputs and outputs: no two alike, and none that of a weight.

Inputs have the names of their paths, and weights those that the module has for them: both are the
caller's and stay.  Outputs, and what lies in between, make way for them.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from itertools import chain, count
from typing import Literal

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, nn

from ropeexport.errors import UsageError
from ropeexport.exporting.readers import Readers, read_less, readers_of
from ropeexport.manifest import TreePath
from ropeexport.models.example import Example
from ropeexport.models.input_tree import joined, paths_of, placeholders, returned


def name_inputs(model: ir.Model, example: Example, exported: torch.export.ExportedProgram) -> None:
    """Give inputs the names of their paths; tensors in fixed arguments become constants.

    Parameters
    ----------
    model : ir.Model
        As torch lowered it.
    example : Example
        What was traced.
    exported : ExportedProgram
        Its program, whose arguments have torch's names.

    Raises
    ------
    UsageError
        For an input with the name of a weight.
    """
    names = example.tree.names_in(exported)
    # fixed arguments come after the inputs
    constants = placeholders(exported)[len(example.tree.names) :]
    leaves = zip(constants, example.constant_leaves, strict=True)
    fixed = {name: x for name, x in leaves if isinstance(x, Tensor)}
    graph = model.graph
    for value in tuple(graph.inputs):
        torch_name = str(value.name)
        value.name = names.get(torch_name, torch_name)
        if torch_name in fixed:
            graph.inputs.remove(value)
            value.name = _free(str(value.name), {*example.tensors, *held(example)})
            x = fixed[torch_name].detach().cpu().contiguous().clone()
            value.const_value = TorchTensor(x, value.name)
            graph.register_initializer(value)
    taken = next((str(v.name) for v in graph.inputs if v.name in graph.initializers), None)
    if taken is not None:
        raise UsageError(
            f"inputs: {taken!r} is a weight or a buffer of the module too; call the argument, or "
            "its key, another name",
            code="RX115",
        )
    reserved = {str(value.name) for value in graph.inputs} | graph.initializers.keys()
    between = {str(x.name): x for node in graph.all_nodes() for x in node.outputs}
    for name in reserved & between.keys():
        between[name].name = _free(name, {*reserved, *between})


def held(example: Example) -> dict[str, Tensor]:
    """Return the weights and buffers of an example's module."""
    module: nn.Module = example.module
    parameters = dict[str, Tensor](module.named_parameters(remove_duplicate=False))
    return parameters | dict(module.named_buffers(remove_duplicate=False))


def names_without_tensor(
    module: nn.Module,
    program: torch.export.ExportedProgram,
    model: ir.Model,
    read: Readers,
) -> tuple[dict[str, str], dict[str, Literal["unused", "computed"]]]:
    """Return the names of a state dict whose values are not, or not all, those of an initializer.

    Parameters
    ----------
    module : nn.Module
        What was exported.
    program : ExportedProgram
        Its program.
    model : ir.Model
        As it is written.
    read : mapping
        What read each initializer before the passes, see ``readers_of``.

    Returns
    -------
    dict
        Of a tensor that has several names: the name that the file has it by.
    dict
        Of others: ``unused``, where the program's results do not depend on it; ``computed``, where
        a pass has computed with its values, be it in one place of several.
    """
    baked = read_less(read, readers_of(model))
    held = module.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in held.items():
        names.setdefault(id(tensor), []).append(name)
    used = _used_state(program)
    tied: dict[str, str] = {}
    absent: dict[str, Literal["unused", "computed"]] = {}
    for same in names.values():
        kept = next((name for name in same if name in model.graph.initializers), None)
        for name in same:
            if kept is None:
                is_unused = used.isdisjoint(same) or not held[name].numel()
                absent[name] = "unused" if is_unused else "computed"
            elif kept in baked:
                absent[name] = "computed"
            elif name not in model.graph.initializers:
                tied[name] = kept
    return tied, absent


def _used_state(program: torch.export.ExportedProgram) -> set[str]:
    """Return the names of the parameters and buffers that a program computes with."""
    signature = program.graph_signature
    state = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    nodes = program.graph.find_nodes(op="placeholder")
    return {state[node.name] for node in nodes if node.name in state and node.users}


def output_names(
    model: ir.Model, example: Example, exported: torch.export.ExportedProgram
) -> tuple[str, ...]:
    """Return the names of the outputs, see :func:`ropeexport.export`.

    Raises
    ------
    UsageError
        For names that are given and cannot be.
    """
    paths = [path for path, _, _ in user_outputs(exported)]
    taken = {*example.tensors, *held(example)}
    if example.outputs:
        _check_given(example, len(paths))
        return example.outputs
    if len(paths) == 1:
        return _path_names([()], taken)
    own = tuple(str(value.name) for value in model.graph.outputs)
    is_sequence = all(len(path) == 1 and isinstance(path[0], int) for path in paths)
    return own if is_sequence and len({*own} - taken) == len(own) else _path_names(paths, taken)


def _path_names(paths: Sequence[TreePath], taken: Container[str]) -> tuple[str, ...]:
    """Return paths as names; below ``out`` where they begin with no key, or one is taken."""
    has_keys = all(path and isinstance(path[0], str) and path[0] for path in paths)
    roots = chain([()] if has_keys else [], [("out",)], ((f"out_{i}",) for i in count(1)))
    for root in roots:
        names = _numbered([joined((*root, *path)) for path in paths])
        if not any(name in taken for name in names):
            return names
    raise AssertionError("roots do not end")


def _numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Return names with a number where another has the same: of keys with dots in them, say."""
    made: list[str] = []
    for name in names:
        made.append(_free(name, {*made, *names}) if name in made else name)
    return tuple(made)


def _free(name: str, taken: Container[str]) -> str:
    return next(n for n in chain([name], (f"{name}_{i}" for i in count())) if n not in taken)


def _check_given(example: Example, returned: int) -> None:
    """Hold the names of the outputs to what the module returns."""
    given = example.outputs
    if len(given) != returned:
        raise UsageError(
            f"output names: expected {returned}, one for each that the module returns, "
            f"got {len(given)}: {', '.join(given)}",
            code="RX115",
        )
    if len(set(given)) != len(given) or not all(given):
        raise UsageError(f"output names: expected different names, got {list(given)}", code="RX115")
    kinds = {"an input": example.tensors, "a weight or a buffer of the module": held(example)}
    for kind, taken in kinds.items():
        name = next((name for name in given if name in taken), None)
        if name is not None:
            raise UsageError(f"output names: {name!r} is {kind}; choose another name", code="RX115")


def name_outputs(model: ir.Model, outputs: Sequence[str]) -> None:
    """Give outputs names that no input and no weight has.

    What is an input or a weight too, or returned twice, gets a node to be both.
    """
    graph = model.graph
    seen: set[ir.Value] = {*graph.inputs, *graph.initializers.values()}
    for index, value in enumerate(tuple(graph.outputs)):
        if value in seen:
            copied = ir.node("Identity", [value]).outputs[0]
            copied.type, copied.shape = value.type, value.shape
            graph.append(copied.producer())
            graph.outputs[index] = copied
        seen.add(value)
    computed = (x for node in graph.all_nodes() for x in node.outputs)
    within = {str(value.name): value for value in (*graph.initializers.values(), *computed)}
    for value, name in zip(graph.outputs, outputs, strict=True):
        other = within.get(name, value)
        if other is not value and other not in graph.outputs:  # torch's name of what lies between
            other.name = _free(f"{name}_0", {*within, *outputs})
        value.name = name


def user_outputs(
    exported: torch.export.ExportedProgram,
) -> Iterator[tuple[TreePath, str, torch.dtype]]:
    """Yield the paths, names and types of the tensors that the module returns."""
    spec = exported.call_spec.out_spec
    assert spec is not None  # torch leaves it out of programs that it did not trace
    for path, node in zip(paths_of(spec), returned(exported), strict=True):
        value = node.meta.get("val") if isinstance(node, torch.fx.Node) else None
        if isinstance(value, torch.Tensor):
            yield path, node.name, value.dtype
