"""Refuse what is no function of its inputs: state that changes from call to call, random numbers.

An ONNX file is a function.  Of a module that keeps a cache or an offset in a buffer, torch's
exporter writes the first call and drops the change; of one that draws random numbers, it writes
ONNX's own generator in the place of torch's.  Either gives other numbers than eager, and no error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, OutputSpec

from ropeexport.errors import ExportError, first_line
from ropeexport.exporting.whole_graph import MOST_WEIGHT_BYTES
from ropeexport.fusion.movement import closure
from ropeexport.models.example import Example, bound
from ropeexport.parity.references import (
    NotRepeatableError,
    run_in_two_orders,
    run_many_times,
    run_twice,
)
from ropeexport.runners.eager import ModuleCalls, cause_of, generators_kept
from ropeexport.runners.runner import Arrays
from ropeexport.runners.torch_arrays import array_from

_STATE = {OutputKind.BUFFER_MUTATION: "buffer", OutputKind.PARAMETER_MUTATION: "parameter"}
# arguments of operators that draw random numbers only where they are set
_SWITCHES = ("dropout_p", "p", "train", "training")


def check_function(program: ExportedProgram, inputs: Mapping[str, str]) -> None:
    """Raise :class:`ExportError` unless what a program returns follows from its inputs alone.

    Parameters
    ----------
    program : ExportedProgram
        After decomposition, when every change in place is a result of its own.
    inputs : mapping of str to str
        The program's name of each input, and its own.

    Raises
    ------
    ExportError
        With the buffer, the input or the line of code, and what to do instead.
    """
    specs = program.graph_signature.output_specs
    returned = {spec.arg.name for spec in specs if spec.kind is OutputKind.USER_OUTPUT}
    results = [node for node in program.graph.nodes if node.name in returned]
    live = returned | {node.name for node in closure(results, lambda x: x.all_input_nodes)}
    targets = {s.target for s in program.graph_signature.input_specs if s.arg.name in live}
    for spec in specs:
        if spec.kind in _STATE and spec.target in targets:
            raise ExportError(
                f"{_STATE[spec.kind]} {spec.target!r}: forward changes it and reads what a former "
                "call has left in it, so it is no function of its inputs, which a file has to be: "
                "take it as an input of forward and return the changed one as an output"
                f"{_line(program, spec)}",
                code="RX206",
            )
        if spec.kind is OutputKind.USER_INPUT_MUTATION and spec.arg.name not in returned:
            name = inputs.get(str(spec.target), spec.target)
            raise ExportError(
                f"input {name!r}: forward changes it in place, which a file cannot do: "
                "return the changed tensor as an output, or change a copy of it "
                f"({spec.target} = {spec.target}.clone()){_line(program, spec)}",
                code="RX207",
            )
    for node in _random_nodes(program, live):
        raise ExportError(
            f"{node.target}: forward draws random numbers in evaluation mode, so it is no function "
            f"of its inputs: take them as an input of forward, or leave them out{_source(node)}",
            code="RX208",
        )


def check_repeats(example: Example, outputs: Sequence[str]) -> None:
    """Raise :class:`ExportError` where a module gives another result when it is called again.

    This sees what no trace does: a counter in Python, a global variable, Python's own random
    numbers.  Modules whose weights are large or in no memory are not called.

    Parameters
    ----------
    example : Example
        The module and its inputs; what the calls leave in it is put back.
    outputs : sequence of str
        Names of what it returns.
    """
    size = sum(x.nbytes for x in example.module.parameters())
    if example.weights is not None or size >= MOST_WEIGHT_BYTES:
        return
    device = next((str(x.device) for x in example.tensors.values()), "cpu")
    module = _Module(bound(example), outputs, device, may_change_inputs=True)
    inputs = {name: array_from(x) for name, x in example.tensors.items()}
    with generators_kept():
        try:
            module.row([inputs])
        except Exception:  # the user's code may raise anything, and may yet be traced
            return
        try:
            _call_again(module, inputs)
        finally:
            module.state.restore()


def _call_again(module: _Module, inputs: Arrays) -> None:
    """Call a module on its inputs, on others and on its inputs again; longer where it changes."""
    others = {name: np.ascontiguousarray(np.flip(x)) for name, x in inputs.items()}
    try:
        run_twice("the module", module, inputs)
        changed = bool(module.state.changes())
        if _runs(module, others):
            run_in_two_orders("the module", module, [inputs, others])
        if changed:
            run_many_times("the module", module, inputs)
    except NotRepeatableError as error:
        raise ExportError(error.explained(), code="RX209") from error
    except Exception as error:
        raise ExportError(
            f"the module fails when it is called again: {type(error).__name__}: "
            f"{first_line(error)}: {module.cause([inputs], inputs)}",
            code="RX209",
        ) from error


def _runs(module: _Module, inputs: Arrays) -> bool:
    try:
        module.row([inputs])
    except Exception:  # whatever it has against these numbers
        return False
    return True


class _Module(ModuleCalls):
    """A module, called on arrays."""

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, NDArray[np.generic]]]:
        """Return the outputs of each call in turn."""
        return [{name: array_from(x) for name, x in row.items()} for row in self.row(calls)]

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        return cause_of(self, before, inputs)


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
