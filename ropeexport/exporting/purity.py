"""Refuse what is no function of its inputs: state that changes from call to call, random numbers.

An ONNX file is a function.  Of a module that keeps a cache or an offset in a buffer, torch's
exporter writes the first call and drops the change; of one that draws random numbers, it writes
ONNX's own generator in the place of torch's.  Either gives other numbers than eager, and no error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, OutputSpec

from ropeexport.errors import ExportError

_STATE = {OutputKind.BUFFER_MUTATION: "buffer", OutputKind.PARAMETER_MUTATION: "parameter"}
# arguments of operators that draw random numbers only where they are set
_SWITCHES = ("dropout_p", "p", "train", "training")


def check_function(program: ExportedProgram) -> None:
    """Raise :class:`ExportError` unless what a program returns follows from its inputs alone.

    Parameters
    ----------
    program : ExportedProgram
        After decomposition, when every change in place is a result of its own.

    Raises
    ------
    ExportError
        With the buffer, the input or the line of code, and what to do instead.
    """
    specs = program.graph_signature.output_specs
    returned = {spec.arg.name for spec in specs if spec.kind is OutputKind.USER_OUTPUT}
    live = _needed_for(program.graph, returned)
    targets = {s.target for s in program.graph_signature.input_specs if s.arg.name in live}
    for spec in specs:
        if spec.kind in _STATE and spec.target in targets:
            raise ExportError(
                f"{_STATE[spec.kind]} {spec.target!r}: forward changes it and its results depend "
                "on it, so it is no function of its inputs, which a file has to be: take the value "
                "as an input of forward and return the changed one as an output"
                f"{_line(program, spec)}"
            )
        if spec.kind is OutputKind.USER_INPUT_MUTATION and spec.arg.name not in returned:
            raise ExportError(
                f"input {spec.target!r}: forward changes it in place, which a file cannot do: "
                "return the changed tensor as an output, or change a copy of it "
                f"({spec.target} = {spec.target}.clone()){_line(program, spec)}"
            )
    for node in _random_nodes(program, live):
        raise ExportError(
            f"{node.target}: forward draws random numbers in evaluation mode, so it is no function "
            f"of its inputs: take them as an input of forward, or leave them out{_source(node)}"
        )


def _needed_for(graph: fx.Graph, names: set[str]) -> set[str]:
    """Return the names of the nodes that those of ``names`` are computed from, and their own."""
    pending = [node for node in graph.nodes if node.name in names]
    found = set(names)
    for node in pending:
        new = [source for source in node.all_input_nodes if source.name not in found]
        found.update(source.name for source in new)
        pending.extend(new)
    return found


def _random_nodes(program: ExportedProgram, live: set[str]) -> Iterator[fx.Node]:
    """Yield the nodes that draw random numbers which a result depends on, in branches too."""
    for name, module in program.graph_module.named_modules():
        for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
            if (name or node.name in live) and _is_random(node):
                yield node


def _is_random(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    given = dict(zip((a.name for a in target._schema.arguments), node.args, strict=False))
    defaults = {a.name: a.default_value for a in target._schema.arguments}
    values = defaults | given | node.kwargs
    return all(values[name] not in (0.0, False) for name in _SWITCHES if name in values)


def _line(program: ExportedProgram, spec: OutputSpec) -> str:
    """Return where a value is made, for the end of a message."""
    nodes = {node.name: node for node in program.graph.nodes}
    return _source(nodes[spec.arg.name]) if spec.arg.name in nodes else ""


def _source(node: fx.Node) -> str:
    """Return the innermost line of the module's own code that made a node."""
    places = re.findall(r'File "(.+?)", line (\d+)', node.meta.get("stack_trace") or "")
    return f" ({places[-1][0]}:{places[-1][1]})" if places else ""
