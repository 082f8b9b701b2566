"""An ONNX file as the reference: its manifest, its graph in float64, and its own run as yardstick.

The oracle is onnx's own reference evaluator: no torch and no runtime is needed for it.  What the
graph rounds on purpose (a cast to half, a table in float32) is part of a tensor's type and is exact
there.  The yardstick is the file in its own types, in the runtime that the candidate runs in too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from traceback import walk_tb

import numpy as np
import onnx_ir as ir
from onnx import NodeProto
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from ropeexport import __version__, atomic, manifest
from ropeexport.artifact import Artifact
from ropeexport.axes import names_of, sum_of
from ropeexport.dtypes import SINGLE, is_float, short_name
from ropeexport.errors import (
    MissingError,
    NotComparableError,
    ParityError,
    RopeExportError,
    UnknownOperatorError,
)
from ropeexport.manifest import Axis, Manifest, ModelRecord, Source, TensorSpec
from ropeexport.onnx_files import contract, onnx_file
from ropeexport.onnx_files.onnx_file import OnnxFile, with_shapes
from ropeexport.onnx_files.variants import float64_twin, whole_message
from ropeexport.operators import is_standard
from ropeexport.parity.contenders import Contender, emulations_of, open_runner
from ropeexport.parity.kernel_ops import Evaluator
from ropeexport.parity.references import (
    TABLE_DRAWS,
    Truth,
    floats_in_float64,
    moves_of,
    truth_of,
)
from ropeexport.runners.registry import Opening, Runtime, find
from ropeexport.runners.runner import Array, Arrays, Facts, Float64s, Runner

_RANDOM = frozenset(
    f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")
) | {"Bernoulli", "Multinomial", "Dropout"}

_SUMS = frozenset(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Mean", "Sum", "SumSquare")
) | {
    "Conv", "ConvTranspose", "Einsum", "GlobalAveragePool", "GlobalLpPool", "GroupNormalization",
    "InstanceNormalization", "LayerNormalization", "MeanVarianceNormalization",
    "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss",
}  # fmt: skip
_WHOLE = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)) | {"bool"}

REFERENCE = "reference"  # what reports call it
_RUNTIME = find("onnxruntime")  # that runs both files
_TOTAL: dict[int | str, str] = {"total_sequence_length": "past_sequence_length + sequence_length"}
_LARGEST_TABLE = 1 << 16  # elements; more is a weight, and no table of frequencies
_BATCH = Axis(min=1, opt=1, max=2)
_LENGTH = Axis(min=1, opt=64, max=128)


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
        widest = max((max(shape, default=1) for shape in sizes), default=1)
        self.widest = max(widest, _longest_sum(with_shapes(model)))
        with self._explained():
            lifted = model.clone()
            LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(lifted)
            self._tables = _angle_tables(lifted)
            twin = float64_twin(lifted)
            self._evaluator = Evaluator(whole_message(twin))
            self._coarse = Evaluator(whole_message(twin)) if _round_angles(twin) else None
        self._turn = Lock()

    def truth(self, inputs: Arrays, seed: int) -> Truth:
        """Return the exact outputs of a case, and the change under perturbations of ``seed``."""
        truth = truth_of(self._run, inputs, seed)
        coarse = self._coarse
        if coarse is None:
            return truth
        wide = {**inputs, **floats_in_float64(inputs)}

        def moved(number: int) -> dict[str, Float64s]:
            return self._as_written(coarse, wide, seed + number)

        moves = moves_of(truth.outputs, moved, TABLE_DRAWS)
        return dataclasses.replace(truth, conversions=moves)

    def _as_written(
        self, coarse: Evaluator, inputs: Mapping[str, Array], seed: int
    ) -> dict[str, Float64s]:
        """Run with angles in float32, and what they are made of off by its rounding."""
        rng, exact = np.random.default_rng(seed), self._evaluator.rt_inits_
        moved = {}
        for name in self._tables:
            signs = rng.choice((-1.0, 1.0), exact[name].shape)
            moved[name] = exact[name] * (1.0 + SINGLE.unit_roundoff * signs)
        with self._turn:  # cases are judged side by side
            coarse.rt_inits_ = {**exact, **moved}
            return self._run(inputs, coarse)

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, Float64s]]:
        """Return the exact outputs of some inputs, one after the other."""
        return [self._run({**inputs, **floats_in_float64(inputs)}) for inputs in calls]

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        return _cause_in_graph(self._file)

    def _run(
        self, inputs: Mapping[str, Array], evaluator: Evaluator | None = None
    ) -> dict[str, Float64s]:
        with self._explained(), np.errstate(all="ignore"):  # not finite is judged, not printed
            outputs = (evaluator or self._evaluator).run(None, dict(inputs))
        named = zip(self._names, outputs, strict=True)
        return {name: np.asarray(x, dtype=np.float64) for name, x in named}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RopeExportError:  # the graph has no form in float64
            raise
        except Exception as error:  # an operator of onnx's reference may raise anything
            raise NotComparableError(
                f"{self._file.path}: nothing to compare with: onnx's reference evaluator cannot "
                f"run {_failed_in(error)} in float64",
                code="RX702",
            ) from error


def _angle_tables(model: ir.Model) -> list[str]:
    """Return the float32 constants that angles are made of: frequencies, scales."""
    waves = [node for node in model.graph if is_standard(node, "Cos", "Sin")]
    pending = [x for node in waves for x in node.inputs if x is not None]
    seen = dict.fromkeys(pending)
    for value in pending:
        node = value.producer()
        if node is None or is_standard(node, "Shape"):
            continue
        new = [x for x in node.inputs if x is not None and x not in seen]
        seen.update(dict.fromkeys(new))
        pending.extend(new)
    constants = (x for x in seen if x.const_value is not None and x.dtype == ir.DataType.FLOAT)
    return [str(x.name) for x in constants if x.const_value.size <= _LARGEST_TABLE]


def _round_angles(model: ir.Model) -> bool:
    """Have cosines and sines read their angles as float32 has them, in place; say if there are."""
    waves = [node for node in model.graph.all_nodes() if is_standard(node, "Cos", "Sin")]
    for node in waves:
        narrow = ir.node("Cast", node.inputs, {"to": ir.DataType.FLOAT})
        wide = ir.node("Cast", narrow.outputs, {"to": ir.DataType.DOUBLE})
        node.prepend([narrow, wide])
        node.replace_input_with(0, wide.outputs[0])
    return bool(waves)


def _longest_sum(model: ir.Model) -> int:
    """Return how many terms the longest sum over several axes has, as far as sizes are written."""
    summing = (node for node in model.graph if is_standard(node, *_SUMS))
    read = [x.shape for node in summing for x in node.inputs[:2] if x is not None and x.shape]
    counts = (math.prod(dim for dim in shape if isinstance(dim, int)) for shape in read)
    return max(counts, default=1)


def _failed_in(error: Exception) -> str:
    """Return the operator of the main graph that an error of the evaluator comes from."""
    for frame, _ in walk_tb(error.__traceback__):
        node = frame.f_locals.get("node")
        node = getattr(node, "onnx_node", node)
        if isinstance(node, NodeProto):
            domain = f"{node.domain}::" if node.domain else ""
            return f"its {domain}{node.op_type} ({node.name or node.output[0]})"
    return "its graph"


def draws(file: OnnxFile) -> str:
    """Return why an ONNX file gives no result twice: what in its graph draws random numbers."""
    model = file.graph
    parts = (model.graph, *model.functions.values())
    nodes = (node for part in parts for node in part.all_nodes())
    drawing = [node for node in nodes if is_standard(node, *_RANDOM) and not _is_at_rest(node)]
    if not drawing:
        return ""
    shown = ", ".join(f"{node.op_type} {node.name or node.outputs[0].name}" for node in drawing[:3])
    return f"its graph draws random numbers ({shown}): make them an input"


def _is_at_rest(node: ir.Node) -> bool:
    """Say whether a node is a Dropout that leaves all as it is: it is told of no training."""
    if node.op_type != "Dropout":
        return False
    training = node.inputs[2] if len(node.inputs) > 2 else None
    known = ir.convenience.get_const_tensor(training) if training is not None else None
    return training is None or (known is not None and not known.numpy().any())


def _cause_in_graph(file: OnnxFile) -> str:
    """Say why an ONNX file gives another result when it is run again."""
    return draws(file) or (
        "no node of its graph draws random numbers, so the runtime adds in no fixed order"
    )


def manifest_of(file: OnnxFile) -> Manifest:
    """Return the manifest beside an ONNX file if it is that file's, else one made of its graph."""
    path = file.path
    if (path.parent / manifest.FILE_NAME).is_file():
        found = manifest.read(path.parent)
        if found.model.file == path.name:
            contract.check_interface(file.graph, found, path.parent)
            return found.changed(engine=None)
    model = file.graph
    inputs = _joined(_compared(file, contract.input_specs))
    outputs = _joined(_compared(file, contract.output_specs))
    data = next((spec for spec in inputs if spec.role == "data"), inputs[0] if inputs else None)
    return Manifest(
        ropeexport=__version__,
        source=Source(kind="factory", name=path.name),
        model=ModelRecord(
            file=path.name,
            sha256=atomic.sha256_of(path),
            opset=onnx_file.opset(model),
            dtype=short_name(data.dtype) if data else "none",
            inputs=inputs,
            outputs=outputs,
            ropes=tuple(str(node.name) for node in onnx_file.rope_nodes(model)),
        ),
        axes=_axes(inputs, data),
    )


def _compared(
    file: OnnxFile, specs_of: Callable[..., tuple[TensorSpec, ...]]
) -> tuple[TensorSpec, ...]:
    """Return a file's inputs, or its outputs, of types that can be drawn and compared."""
    specs = specs_of(file.graph, any_type=True)
    other = next((spec for spec in specs if not _is_compared(spec.dtype)), None)
    if other is not None:
        raise NotComparableError(
            f"{file.path}: {other.name}: expected numbers of 8 bits or more that NumPy has, or "
            f"bfloat16, which alone are compared; got {other.dtype}",
            code="RX702",
        )
    return specs


def _joined(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Let the length of a mask be that of the cache and what follows, where names say no more.

    So onnxruntime's model builder names them, and means a sum.
    """
    return tuple(
        spec.changed(shape=tuple(_TOTAL.get(dim, dim) for dim in spec.shape)) for spec in specs
    )


def _is_compared(dtype: str) -> bool:
    return is_float(dtype) or dtype in _WHOLE


def _axes(inputs: tuple[TensorSpec, ...], data: TensorSpec | None) -> dict[str, Axis]:
    """Guess what each dynamic axis is for: a front axis is a batch, another one a length.

    Axes of matrices that no other input has broadcast: the first to the data's batch, the second
    to its heads.
    """
    axes: dict[str, Axis] = {}
    for spec in sorted(inputs, key=lambda spec: spec.role == "matrices"):
        for place, dim in enumerate(spec.shape):
            if isinstance(dim, str) and sum_of(dim).names == (dim,) and dim not in axes:
                axes[dim] = _LENGTH if place else _BATCH
                if spec.role == "matrices" and data is not None and place < min(2, len(data.shape)):
                    to = data.shape[place]
                    most = to if isinstance(to, int) else axes[to].max
                    axes[dim] = Axis(min=1, opt=1, max=most, broadcasts_to=to)
    for spec in inputs:  # a sequence is no longer than the table that its positions index
        length = spec.shape[-1] if spec.shape else None
        if spec.role == "positions" and isinstance(spec.below, int) and length in axes:
            most = max(1, min(spec.below, _LENGTH.max))
            axes[str(length)] = Axis(min=1, opt=min(most, _LENGTH.opt), max=most)
    # what is in sums alone
    return dict.fromkeys(names_of(dim for spec in inputs for dim in spec.shape), _LENGTH) | axes


def onnx_of(reference: Path) -> OnnxFile:
    """Return an ONNX file, or the one of an output folder."""
    return Artifact.read(reference).file if reference.is_dir() else OnnxFile(reference)


@dataclass
class FileReference:
    """An ONNX file in eager's place: what runs it, again where it is asked to.

    Parameters
    ----------
    runner : Runner
        Of the file, entered.
    file : OnnxFile
        The file.
    """

    runner: Runner
    file: OnnxFile
    name: str = REFERENCE

    @property
    def facts(self) -> Facts:
        """Those of what runs it."""
        return self.runner.facts

    def in_a_row(self, calls: Sequence[Arrays]) -> list[dict[str, Array]]:
        """Run the file once for each of some inputs."""
        try:
            return [self.runner.run(inputs) for inputs in calls]
        except ParityError as error:
            raise NotComparableError(
                f"{self.file.path}: nothing to compare with: the inputs that were drawn for it "
                f"are refused: {error}",
                code="RX702",
            ) from error

    def cause(self, before: Sequence[Arrays], inputs: Arrays) -> str:
        """Say why the result on ``inputs`` is another one after the calls ``before``."""
        return _cause_in_graph(self.file)


def open_yardstick(
    file: OnnxFile, record: Manifest, stack: ExitStack
) -> tuple[FileReference, Runtime]:
    """Enter the reference, and return the runtime that the candidate is to run in as well."""
    runtime = _RUNTIME
    try:
        runner = stack.enter_context(_runner_of(file, runtime))
    except UnknownOperatorError as error:
        raise NotComparableError(f"nothing to compare with: {error}", code="RX702") from error
    except MissingError:
        able = emulations_of(runtime, record)
        if not able:
            raise
        runtime = able[0]
        runner = stack.enter_context(_runner_of(file, runtime))
    return FileReference(_named(runner, runtime), file), runtime


def open_file(name: str, file: OnnxFile, runtime: Runtime, stack: ExitStack) -> Contender:
    """Enter a file in a runtime, or keep the reason why it cannot be."""
    opened = open_runner(name, runtime, lambda: _runner_of(file, runtime), stack)
    if opened.runner is not None:
        _named(opened.runner, runtime)
    return opened


def _runner_of(file: OnnxFile, runtime: Runtime) -> Runner:
    return runtime.open(Opening(file, as_written=True))


def _named(runner: Runner, runtime: Runtime) -> Runner:
    """Let a runner say what runs the file: what is in the file is anybody's."""
    if not runner.facts.emulated:
        runner.facts = dataclasses.replace(runner.facts, implementation=(runtime.name,))
    return runner
