"""``check --locate``: the first tensor that departs, and the line of torch code that made it.

The failing case runs once more.  The torch program is the oracle and eager's stand-in, as
everywhere, but it also returns the tensors between its inputs and outputs; the runtime runs the
same file with those tensors marked as outputs; and each is held to the bound that
``docs/parity.md`` derives.  The first in the order of the graph that breaks its bound has departed:
what it was made of has not.

A runtime that runs files runs the tapped copy as it is.  An engine returns what its network marks
as an output, so the copy is built as the engine was: the same flavour, implementation and profile.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from ropeexport.artifact import Artifact
from ropeexport.errors import RopeExportError
from ropeexport.exporting.exporter import work_of
from ropeexport.exporting.passes import EXPORT, run
from ropeexport.exporting.tracing import trace
from ropeexport.locate.taps import Search, Tap, failed_cases, in_order, of_taps, taps_of, write
from ropeexport.locking import scratch
from ropeexport.manifest import EngineRecord, Manifest
from ropeexport.models import sources
from ropeexport.models.example import checked
from ropeexport.models.sources import Module
from ropeexport.onnx_files.onnx_file import producers
from ropeexport.ops.rope_table import MAX_POSITION
from ropeexport.parity.contenders import Contender, open_runtime
from ropeexport.parity.judge import Judge
from ropeexport.parity.oracle import Oracle
from ropeexport.parity.records import Report
from ropeexport.runners.eager import EagerRunner
from ropeexport.runners.registry import EAGER, choice_of
from ropeexport.trt.build import BuildOptions, Choice, build


def locate(artifact: Artifact, report: Report, module: Module | None = None) -> Report:
    """Return a report with a location for each runtime that failed in it.

    Parameters
    ----------
    artifact : Artifact
        The output folder that was checked.
    report : Report
        What :func:`ropeexport.parity.check.check` found.
    module : optional
        As for :func:`ropeexport.parity.check.check`.

    Raises
    ------
    RopeExportError
        Where the module cannot be rebuilt or traced.
    """
    failed = failed_cases(report, EAGER)
    if not failed:
        return report
    record, made_by = artifact.manifest, producers(artifact.file.graph)
    with sources.rebuilt(artifact, module) as example:
        limit = record.model.table_limit or MAX_POSITION
        traced = trace(checked(example), record.model.opset, limit)
        program = traced.program
        model = run(EXPORT, work_of(traced.model, example, record.source, limit)).model
        outputs = program.graph_signature.user_outputs
        taps = taps_of(model, returned_by(program), outputs, record.model.outputs)
        with scratch("locate") as place, ExitStack() as stack, warnings.catch_warnings():
            # torch copies a program by a method that it calls deprecated itself
            warnings.simplefilter("ignore", FutureWarning)
            copy = write(artifact.file, record, (tap.tensor for tap in taps), place)
            taps = in_order(copy.manifest, taps, made_by)
            names = [tap.tensor for tap in taps]
            tapped = TappedProgram(program, traced.inputs, taps)
            eager = stack.enter_context(EagerRunner(tapped, names, device="cpu"))
            oracle, outer = Oracle(tapped, names), of_taps(copy.manifest, taps)
            # what lies in between may be all noise: that is no place to depart from
            search = Search(Judge(outer, oracle, eager, must_prove=False), taps, made_by)
            found = tuple(
                search.find(open_tapped(runtime, copy, record, stack), case)
                for runtime, case in failed.items()
            )
    return report.changed(locations=found)


class TappedProgram(nn.Module):
    """Runs an exported program and returns the tensors at some of its nodes.

    Parameters
    ----------
    program : ExportedProgram
        As it was lowered to ONNX.
    inputs : mapping of str to str
        The program's name of each input, and what ``forward`` takes it as.
    taps : sequence of Tap
        What it returns, in order.
    """

    def __init__(
        self, program: ExportedProgram, inputs: Mapping[str, str], taps: Sequence[Tap]
    ) -> None:
        super().__init__()
        self.program = program.module(check_guards=False)
        self._inputs = dict(inputs)
        self._taps = tuple(taps)

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors at the taps."""
        given = {node: inputs.get(name) for node, name in self._inputs.items()}
        placeholders = self.program.graph.find_nodes(op="placeholder")
        run = _Run(self.program, {tap.program_node for tap in self._taps})
        run.run(*(given.get(str(node.target)) for node in placeholders))
        values = ((run.kept[tap.program_node], tap.item) for tap in self._taps)
        return tuple(value if item is None else value[item] for value, item in values)


def returned_by(program: ExportedProgram) -> dict[str, int]:
    """Return how many tensors each node of a program returns; 0 for what is none."""
    counts = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, (list, tuple)):
            counts[node.name] = len(value) if all(isinstance(x, Tensor) for x in value) else 0
        else:
            counts[node.name] = int(isinstance(value, Tensor) and value.ndim > 0)
    return counts


class _Run(fx.Interpreter):
    """One run that keeps the values of some nodes."""

    def __init__(self, module: fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(module)
        self.kept: dict[str, Any] = {}
        self._wanted = wanted

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._wanted:
            self.kept[n.name] = value
        return value


def open_tapped(runtime: str, copy: Artifact, original: Manifest, stack: ExitStack) -> Contender:
    """Enter a runtime on a tapped copy, or keep the reason why it cannot be.

    Parameters
    ----------
    runtime : str
        Its name in the report, an emulation's too.
    copy : Artifact
        The tapped copy.
    original : Manifest
        Of the folder that was checked, whose engine says what to build.
    stack : ExitStack
        Closes the runtime.
    """
    chosen = choice_of(runtime)
    kept_in = None
    if chosen.runtime.runs == "engine" and original.engine is not None:
        # the copy goes when the search ends, and what was compiled for it goes with it
        kept_in = copy.folder / "runtime"
        try:
            copy = copy.updated(engine=build(copy, options_of(original.engine)))
        except RopeExportError as error:
            return Contender(runtime, reason=str(error))
    return open_runtime(chosen, copy, stack, kept_in)


def options_of(engine: EngineRecord) -> BuildOptions:
    """Return what builds an engine once more, as it was built."""
    kinds = sorted(set(engine.ropes.values()))
    choice: Choice = "plugin" if "plugin" in kinds else kinds[0] if kinds else "decomposed"
    profile = engine.profile
    return BuildOptions(
        impl=choice,
        flavour=engine.flavour,
        min_shapes=profile.min,
        opt_shapes=profile.opt,
        max_shapes=profile.max,
        force=True,
    )
