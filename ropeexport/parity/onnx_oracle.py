"""An ONNX file as the oracle: its graph in float64, through onnx's own reference evaluator.

No torch and no runtime is needed.  What the graph rounds on purpose (a cast to half, a table in
float32) is part of a tensor's type and is exact here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from ropeexport.dtypes import Float64s
from ropeexport.errors import ParityError
from ropeexport.onnx_files import onnx_file
from ropeexport.onnx_files.onnx_retype import float64_twin
from ropeexport.parity.truth import Truth, floats_in_float64, truth_of
from ropeexport.runners.arrays import Arrays

_RANDOM = frozenset(
    f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")
) | {"Bernoulli", "Multinomial", "Dropout"}


class OnnxOracle:
    """Computes exact outputs with the float64 twin of an ONNX file.

    Parameters
    ----------
    path : Path
        The ONNX file.
    """

    def __init__(self, path: Path) -> None:
        model = onnx_file.load(path)
        self._names = [value.name for value in model.graph.output]
        self._path = path
        self.widest = max((max(t.dims, default=1) for t in model.graph.initializer), default=1)
        with self._explained():
            self._evaluator = ReferenceEvaluator(float64_twin(model))

    def truth(self, inputs: Arrays, seed: int) -> Truth:
        """Return the exact outputs of a case, and the change under perturbations of ``seed``."""
        return truth_of(self._run, inputs, seed)

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, Float64s]]:
        """Return the exact outputs of some inputs, one after the other."""
        return [self._run({**inputs, **floats_in_float64(inputs)}) for inputs in calls]

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        return cause_in_graph(self._path)

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
                f"{self._path}: onnx's reference evaluator cannot run its graph in float64: "
                f"{type(error).__name__}: {error}"
            ) from error


def cause_in_graph(path: Path) -> str:
    """Say why an ONNX file gives another result when it is run again."""
    model = onnx_file.load(path)
    nodes = (*model.graph.node, *(node for f in model.functions for node in f.node))
    drawing = [node for node in nodes if node.op_type in _RANDOM]
    if not drawing:
        return "no node of its graph draws random numbers, so the runtime adds in no fixed order"
    shown = ", ".join(f"{node.op_type} {node.name or node.output[0]}" for node in drawing[:3])
    return f"its graph draws random numbers ({shown}): make them an input"
