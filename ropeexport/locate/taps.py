"""Tensors that two programs have in common, and the line of code that made each.

The exporter names an ONNX value after the program's node that it stands for, and says in the ONNX
node's metadata which node that was; where both agree, the two can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ropeexport.locate.tapped_file import is_comparable
from ropeexport.manifest import TensorSpec
from ropeexport.onnx_files.specs import spec_of
from ropeexport.ops import names

_FX_NODE = "pkg.torch.onnx.fx_node"
_STACK = "pkg.torch.onnx.stack_trace"  # where torch's exporter keeps it in a node's metadata
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n\s*(.*)')


@dataclass(frozen=True)
class Tap:
    """A tensor with two homes.

    Parameters
    ----------
    spec : TensorSpec
        Its name in the ONNX graph, its type and shape as exported.
    program_node : str
        The node of the torch program that makes it; empty where the other home is a file.
    item : int or None
        Which of the values that this node returns; None where it returns one.
    source : str
        The line of torch code that made it, ``file:line: code``; empty where it is not known.
    """

    spec: TensorSpec
    program_node: str = ""
    item: int | None = None
    source: str = ""

    @property
    def tensor(self) -> str:
        """The name in the ONNX graph."""
        return self.spec.name


def source_of(node: ir.Node | None) -> str:
    """Return the innermost line of torch code that a node stems from, as ``file:line: code``."""
    stack = node.metadata_props.get(_STACK, "") if node is not None else ""
    frames = _FRAME.findall(stack)
    if not frames:
        return ""
    file, line, _, code = frames[-1]
    return f"{file}:{line}: {code.strip()}"


def taps_of(
    model: ir.Model,
    returned: Mapping[str, int],
    outputs: Sequence[str],
    specs: Sequence[TensorSpec],
) -> list[Tap]:
    """Return the taps of a freshly exported model, in the order of its graph.

    Parameters
    ----------
    model : ir.Model
        As :func:`ropeexport.exporting.exporter.onnx_model` returns it.
    returned : mapping of str to int
        The names of the program's nodes, and how many tensors each returns; 0 for what is none.
    outputs : sequence of str
        The nodes whose values the program returns: the file's outputs, whatever their names.
    specs : sequence of TensorSpec
        Of the file's outputs.
    """
    inner = [tap for node in model.graph for tap in _of_node(node, returned)]
    own = {
        spec.name: Tap(spec, node, None, source_of(value.producer()))
        for value, node, spec in zip(model.graph.outputs, outputs, specs, strict=True)
    }
    return [*(tap for tap in inner if tap.tensor not in own), *own.values()]


def _of_node(node: ir.Node, returned: Mapping[str, int]) -> Iterator[Tap]:
    made_by = _fx_name(node)
    source = source_of(node)
    ours = node.domain == names.DOMAIN and returned.get(made_by, 0) == len(node.outputs)
    for item, value in enumerate(node.outputs):
        if not is_comparable(value):
            continue
        # never "rotated": what a rope in the middle of a graph rotates has been rounded before
        spec, name = spec_of(value, "data"), str(value.name)
        if ours:  # the op itself, under names of its own
            yield Tap(spec, made_by, item if len(node.outputs) > 1 else None, source)
            continue
        # a part of a node that returns several has a node of its own, with the value's name
        if returned.get(name) == 1 and (name == made_by or returned.get(made_by, 0) > 1):
            yield Tap(spec, name, None, source)


def _fx_name(node: ir.Node) -> str:
    text = str(node.metadata_props.get(_FX_NODE, ""))
    return text.partition(":")[0].strip().removeprefix("%")
