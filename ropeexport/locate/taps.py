"""Tensors that two programs have in common, and the search for the first that departs; no torch.

The exporter names an ONNX value after the program's node that it stands for, and says in the ONNX
node's metadata which node that was; where both agree, the two can be compared.  A copy of the file
returns them as further outputs, and the first that breaks its bound is sought among them.

In ``check A.onnx B.onnx --locate`` both homes of a tensor are files: the reference's graph in
float64 is the oracle, and its own run the yardstick.  Tensors are matched by name, and compared
where type and rank agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import onnx_ir as ir

from ropeexport import atomic
from ropeexport.artifact import Artifact
from ropeexport.errors import RopeExportError, UsageError
from ropeexport.locking import scratch
from ropeexport.manifest import MODEL_NAME, Manifest, TensorSpec
from ropeexport.onnx_files.contract import output_specs, spec_of
from ropeexport.onnx_files.onnx_file import OnnxFile, producers, with_shapes
from ropeexport.ops import names
from ropeexport.parity.cases import Case, Kind
from ropeexport.parity.check import ARRAYS, CANDIDATE
from ropeexport.parity.contenders import Contender
from ropeexport.parity.judge import Judge
from ropeexport.parity.onnx_reference import (
    REFERENCE,
    OnnxOracle,
    manifest_of,
    onnx_of,
    open_file,
    open_yardstick,
)
from ropeexport.parity.records import CaseRecord, LocationRecord, Report

_NOTHING = (
    "with the tensors in between marked as outputs, each is within its derived bound: the fault is "
    "in what the runtime fuses, or smaller than the bounds in between"
)

_FX_NODE = "pkg.torch.onnx.fx_node"
_STACK = "pkg.torch.onnx.stack_trace"  # where torch's exporter keeps it in a node's metadata
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n\s*(.*)')
_WEIGHTS = "tapped.data"


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
    model: ir.Model, counts: Mapping[str, int], outputs: Sequence[str], specs: Sequence[TensorSpec]
) -> list[Tap]:
    """Return the taps of a freshly exported model, in the order of its graph.

    Parameters
    ----------
    model : ir.Model
        As :func:`ropeexport.exporting.exporter.onnx_model` returns it.
    counts : mapping of str to int
        The names of the program's nodes, and how many tensors each returns; 0 for what is none.
    outputs : sequence of str
        The nodes whose values the program returns: the file's outputs, whatever their names.
    specs : sequence of TensorSpec
        Of the file's outputs.
    """
    inner = [tap for node in model.graph for tap in _of_node(node, counts)]
    own = {
        spec.name: Tap(spec, node, None, source_of(value.producer()))
        for value, node, spec in zip(model.graph.outputs, outputs, specs, strict=True)
    }
    return [*(tap for tap in inner if tap.tensor not in own), *own.values()]


def _of_node(node: ir.Node, returned: Mapping[str, int]) -> Iterator[Tap]:
    made_by = str(node.metadata_props.get(_FX_NODE, "")).partition(":")[0].strip().removeprefix("%")
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


def write(file: OnnxFile, record: Manifest, tensors: Iterable[str], folder: Path) -> Artifact:
    """Write ``model.onnx`` with further outputs, and its manifest, into ``folder``.

    Parameters
    ----------
    file : OnnxFile
        The file.
    record : Manifest
        What it is.
    tensors : iterable of str
        Names of tensors of the graph; those that the file lacks are left out.
    folder : Path
        An empty folder.

    Returns
    -------
    Artifact
        The copy: its outputs are the tensors in the order of the graph, then the file's own.
    """
    model = with_shapes(file.whole)
    wanted = set(tensors)
    further = [value for value in comparable(model) if value.name in wanted]
    model.graph.outputs[:] = [*further, *model.graph.outputs]
    path = folder / MODEL_NAME
    ir.save(model, path, external_data=_WEIGHTS)
    tapped = record.model.changed(
        file=MODEL_NAME, sha256=atomic.sha256_of(path), outputs=output_specs(model), weights=None
    )
    copy = record.changed(model=tapped, engine=None)
    return Artifact(folder, copy).write()


def comparable(model: ir.Model) -> list[ir.Value]:
    """Return the tensors between a graph's inputs and outputs that can be compared, in order."""
    own = set(model.graph.outputs)
    made = (value for node in model.graph for value in node.outputs if value not in own)
    return [value for value in made if is_comparable(value)]


def is_comparable(value: ir.Value) -> bool:
    """Say whether a tensor has a name, axes and a type of numbers."""
    return bool(value.name and value.shape) and value.dtype not in (None, ir.DataType.BOOL)


def failed_cases(report: Report, yardstick: str) -> dict[str, CaseRecord]:
    """Return the smallest failing case of each runtime but the yardstick's.

    What never ran has none.
    """
    found: dict[str, list[CaseRecord]] = {}
    for each in report.comparisons:
        if each.status == "FAIL" and each.case and each.numbers and each.runtime != yardstick:
            found.setdefault(each.runtime, []).append(each.case)
    return {
        runtime: min(cases, key=lambda case: math.prod(case.sizes.values()))
        for runtime, cases in found.items()
    }


def in_order(copy: Manifest, taps: Iterable[Tap], tensors: Iterable[str]) -> list[Tap]:
    """Return the taps that the copy has, in the order in which its graph makes ``tensors``."""
    present = {spec.name for spec in copy.model.outputs}
    place = {name: number for number, name in enumerate(tensors) if name in present}
    return sorted((tap for tap in taps if tap.tensor in place), key=lambda tap: place[tap.tensor])


def of_taps(copy: Manifest, taps: list[Tap]) -> Manifest:
    """Return the manifest with the taps as outputs, of the types that they were exported with."""
    outputs = tuple(tap.spec for tap in taps)
    return copy.changed(model=copy.model.changed(outputs=outputs))


@dataclass(frozen=True)
class Search:
    """The judge of a tapped copy, its taps, and the nodes that make its tensors."""

    judge: Judge
    taps: list[Tap]
    producers: dict[str, ir.Node]

    def find(self, contender: Contender, case: CaseRecord) -> LocationRecord:
        """Run a case once more; return the first tensor of the graph that breaks its bound."""
        record = partial(LocationRecord, runtime=contender.name, case=case.name)
        if contender.runner is None:
            return record(reason=contender.reason)
        again = Case(case.name, cast(Kind, case.kind), case.sizes, case.seed)
        try:
            comparisons = self.judge.judge(again, [contender])
            heard = {c.output: c for c in comparisons if c.runtime == contender.name}
        except RopeExportError as error:
            return record(reason=str(error))
        compared = (tap for tap in self.taps if tap.tensor in heard)
        tap = next((tap for tap in compared if heard[tap.tensor].status == "FAIL"), None)
        if tap is None:
            return record(reason=_NOTHING, compared=len(heard))
        node = self.producers.get(tap.tensor)
        inputs = [str(x.name) for x in node.inputs if x is not None] if node is not None else []
        held = {name for name, each in heard.items() if each.status in ("PASS", "EMULATED")}
        return record(
            tensor=tap.tensor,
            node=str(node.name) if node is not None else "",
            op=node.op_type if node is not None else "",
            source=tap.source,
            reason=heard[tap.tensor].reason,
            sound=tuple(name for name in inputs if name in held),
            not_compared=tuple(n for n in inputs if n in self.producers and n not in heard),
            compared=len(heard),
        )


def locate_files(
    reference: OnnxFile, candidate: OnnxFile, report: Report, runtime: str = CANDIDATE
) -> Report:
    """Return a report with a location where the candidate failed in it.

    Parameters
    ----------
    reference, candidate : OnnxFile
        What :func:`ropeexport.parity.check.check_files` compared.
    report : Report
        What it found.
    runtime : str
        The candidate's name in it.

    Raises
    ------
    UsageError
        Where nothing can be compared, see :func:`check_shared`.
    """
    failed = failed_cases(report, REFERENCE)
    if runtime not in failed:
        return report
    made_by = producers(candidate.graph)
    specs = (*_shared(reference, candidate), *manifest_of(reference).model.outputs)
    taps = [Tap(spec, source=source_of(made_by.get(spec.name))) for spec in specs]
    with scratch("locate") as place, ExitStack() as stack:
        exact = _tapped(reference, taps, place / REFERENCE)
        other = _tapped(candidate, taps, place / CANDIDATE)
        copy = exact.manifest
        taps = in_order(copy, taps, made_by)
        yardstick, row = open_yardstick(exact.file, copy, stack)
        judge = Judge(of_taps(copy, taps), OnnxOracle(exact.file), yardstick, must_prove=False)
        contender = open_file(runtime, other.file, row, stack)
        found = Search(judge, taps, made_by).find(contender, failed[runtime])
    return report.changed(locations=(found,))


def check_shared(reference: Path, candidate: Path) -> None:
    """Raise :class:`UsageError` unless two files have tensors in between in common."""
    if candidate.suffix == ARRAYS:
        raise UsageError(
            f"--locate: {candidate}: expected an ONNX file, whose graph says what lies between "
            "inputs and outputs, got saved arrays; leave --locate out, or name the file that made "
            "them",
            code="RX701",
        )
    one, other = onnx_of(reference), onnx_of(candidate)
    if not _shared(one, other):
        raise UsageError(
            f"--locate: {one.path} and {other.path}: expected tensors between inputs and outputs "
            "of the same name, type and rank, got none; leave --locate out to compare the outputs "
            "alone",
            code="RX701",
        )


def _shared(reference: OnnxFile, candidate: OnnxFile) -> list[TensorSpec]:
    """Return the tensors in between that both files have, as the reference has them."""
    specs, others = (
        {value.name: spec_of(value, "data") for value in comparable(model)}
        for model in (with_shapes(reference.graph), with_shapes(candidate.graph))
    )
    return [
        spec
        for name, spec in specs.items()
        if (other := others.get(name)) is not None
        and (other.dtype, len(other.shape)) == (spec.dtype, len(spec.shape))
    ]


def _tapped(file: OnnxFile, taps: list[Tap], folder: Path) -> Artifact:
    """Write a copy of a file that returns the taps too."""
    folder.mkdir()
    return write(file, manifest_of(file), [tap.tensor for tap in taps], folder)
