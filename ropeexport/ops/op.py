"""What every stage may ask of an op of ropeexport's domain; an op is one value of :class:`Op`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ropeexport.manifest import Role

Array = NDArray[Any]
# the values of a node's attributes and of its inputs to those of its outputs
Meaning = Callable[[Mapping[str, Any], Sequence[Array]], tuple[Array, ...]]

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")
INTEGERS = ("tensor(int64)", "tensor(int32)")


@dataclass(frozen=True)
class TorchOp:
    """A torch op ``ropeexport::NAME`` that becomes the op when a module is traced.

    Parameters
    ----------
    name : str
        Its name in torch; of its overloads, the default one.
    translation : str
        Reference of a function ``(node, max_position) -> translate``: ``node`` emits the op's node,
        with the attributes that every one has; ``translate`` has the torch op's parameters.
    plain : str
        Reference of a function of the same parameters in torch's own operators: what a module has
        that does without the op.
    """

    name: str
    translation: str
    plain: str

    @property
    def overload(self) -> Any:
        """The op as torch has it, registered by the module of its translation."""
        import torch

        resolve(self.translation)
        return getattr(torch.ops.ropeexport, self.name).default


@dataclass(frozen=True)
class Op:
    """An op of the domain.

    A reference is ``"module:function"``; its module is imported when it is asked for, because a
    TensorRT build reads the ops and imports no torch.

    Parameters
    ----------
    op_type : str
        Its name in the domain.
    contract : str
        What it computes, in a sentence, for the file's readers.
    inputs, outputs : dict
        Name to type: ONNX's name of one, or a letter of ``types``.
    types : dict
        Letter to the types that it stands for.
    functions : callable
        Of an opset: its function body, and before it those of the functions that the body calls.
    evaluate : callable
        What it computes, in NumPy, in the type of its data: a rewrite is compared with that.
        Raises ``ValueError`` for inputs on which the op promises no number.
    attributes : dict
        Those that every node has, with their value.
    options : dict
        Those whose value is the node's own: name to ``int``, ``float`` or ``string``.
    roles : dict
        Name of an input or output to what it is for those who draw inputs and judge outputs; what
        is not named is data.
    results : tuple of str
        What a written file calls the outputs, but for the node's number; empty: as they are.
    terms : int or None
        Products in each sum of a result; None: as many as the model's longest axis.
    rule : str
        Reference of a function ``(Yardstick, Allowance) -> Bound | None``: the bound of a model's
        output that is the op's result; None from it, or no rule: as any output.
    torch_ops : tuple of TorchOp
        What becomes the op when a module is traced.
    matcher : str
        Reference of a function ``ir.Model -> int`` that puts the op in the place of what computes
        the same, in place, and returns how often; a pass of every export.
    on_request : bool
        That pass is run only where the op is asked for.
    """

    op_type: str
    contract: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    functions: Callable[[int], Sequence[onnx.FunctionProto]]
    evaluate: Meaning
    types: Mapping[str, Sequence[str]] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, Role] = field(default_factory=dict)
    results: tuple[str, ...] = ()
    terms: int | None = None
    rule: str = ""
    torch_ops: tuple[TorchOp, ...] = ()
    matcher: str = ""
    on_request: bool = False

    def places(self, role: Role) -> tuple[int, ...]:
        """Return which of the inputs have a role."""
        return tuple(i for i, name in enumerate(self.inputs) if self.roles.get(name) == role)


def function_of(text: str, contract: str) -> onnx.FunctionProto:
    """Return the function of an ONNX text, as other tools than onnx read it too.

    Several take a constant's ``value_float`` for float64; none misreads a tensor.
    """
    function = onnx.parser.parse_function(text)
    function.doc_string = contract
    for node in function.node:
        for attribute in node.attribute:
            if attribute.name == "value_float":
                number = np.array(attribute.f, dtype=np.float32)
                tensor = onnx.numpy_helper.from_array(number)
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
    return function


def resolve(reference: str) -> Any:
    """Return what ``"module:name"`` names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
