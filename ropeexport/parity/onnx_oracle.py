"""An ONNX file as the oracle: its graph in float64, through onnx's own reference evaluator.

No torch and no runtime is needed.  What the graph rounds on purpose (a cast to half, a table in
float32) is part of a tensor's type and is exact here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from ropeexport.errors import ParityError
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.onnx_files.retype import float64_twin
from ropeexport.onnx_files.variants import whole_message
from ropeexport.operators import is_standard
from ropeexport.parity.truth import Truth, floats_in_float64, truth_of
from ropeexport.runners.arrays import Arrays, Float64s

_RANDOM = frozenset(
    f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")
) | {"Bernoulli", "Multinomial", "Dropout"}


class OnnxOracle:
    """Computes exact outputs with the float64 twin of an ONNX file.

    Parameters
    ----------
    file : OnnxFile
        The ONNX file.
    """

    def __init__(self, file: OnnxFile) -> None:
        model = file.whole
        self._names = [str(value.name) for value in model.graph.outputs]
        self._file = file
        sizes = (tuple(x.shape or ()) for x in model.graph.initializers.values())
        self.widest = max((max(shape, default=1) for shape in sizes), default=1)
        with self._explained():
            self._evaluator = ReferenceEvaluator(whole_message(float64_twin(model)))

    def truth(self, inputs: Arrays, seed: int) -> Truth:
        """Return the exact outputs of a case, and the change under perturbations of ``seed``."""
        return truth_of(self._run, inputs, seed)

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, Float64s]]:
        """Return the exact outputs of some inputs, one after the other."""
        return [self._run({**inputs, **floats_in_float64(inputs)}) for inputs in calls]

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        return cause_in_graph(self._file)

    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, Float64s]:
        with self._explained(), np.errstate(all="ignore"):  # not finite is judged, not printed
            outputs = self._evaluator.run(None, dict(inputs))
        named = zip(self._names, outputs, strict=True)
        return {name: np.asarray(x, dtype=np.float64) for name, x in named}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # an operator of onnx's reference may raise anything
            raise ParityError(
                f"{self._file.path}: onnx's reference evaluator cannot run its graph in float64: "
                f"{type(error).__name__}: {error}"
            ) from error


def cause_in_graph(file: OnnxFile) -> str:
    """Say why an ONNX file gives another result when it is run again."""
    model = file.graph
    parts = (model.graph, *model.functions.values())
    nodes = (node for part in parts for node in part.all_nodes())
    drawing = [node for node in nodes if is_standard(node, *_RANDOM)]
    if not drawing:
        return "no node of its graph draws random numbers, so the runtime adds in no fixed order"
    shown = ", ".join(f"{node.op_type} {node.name or node.outputs[0].name}" for node in drawing[:3])
    return f"its graph draws random numbers ({shown}): make them an input"
