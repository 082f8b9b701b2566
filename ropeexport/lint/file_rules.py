"""Rules over what an export and a build have recorded of a folder."""

from __future__ import annotations

from collections.abc import Iterator

from ropeexport.lint.rule import rule
from ropeexport.onnx_files.inspection import Inspection


@rule(
    "rope-refused",
    "warning",
    "what looks like a rotary application was left as it is",
    "see the reason; ropeexport.apply_rope or apply_rope of cosines and sines is always an op",
)
def _refused(found: Inspection) -> Iterator[str]:
    record = found.model.record
    if record is not None:
        yield from (f"{refusal.node} ({refusal.reason})" for refusal in record.recognition.refused)


@rule(
    "changed-file",
    "warning",
    "the ONNX file is not the one that its manifest describes",
    "export it again, or prove what was changed with 'ropeexport check'",
)
def _changed(found: Inspection) -> Iterator[str]:
    if found.model.is_exported_file is False:
        yield found.model.file


@rule(
    "rope-decomposed",
    "warning",
    "the engine rotates with plain layers",
    "build with --impl plugin (any matrices), or --impl native (rotations)",
)
def _decomposed_ropes(found: Inspection) -> Iterator[str]:
    return (rope.node for rope in found.ropes if rope.implementation == "decomposed")


@rule(
    "attention-decomposed",
    "warning",
    "the engine was allowed to build attention from plain layers: TensorRT has no fused kernel "
    "for float32 or small heads",
    "export with --dtype fp16 or bf16 and a head size of 64 or 128",
)
def _decomposed_attention(found: Inspection) -> Iterator[str]:
    if found.engine is not None and found.engine.record.attention == "decomposed":
        yield found.engine.record.file


@rule(
    "stale-engine",
    "error",
    "the engine, or the file it was built from, is not what the manifest describes",
    "run 'ropeexport build' again",
)
def _stale_engine(found: Inspection) -> Iterator[str]:
    engine = found.engine
    if engine is not None and not (engine.is_built_file and found.model.is_exported_file):
        yield engine.record.file


@rule(
    "implementation",
    "note",
    "what computes each rotary op and attention",
)
def _ran_by(found: Inspection) -> Iterator[str]:
    for rope in found.ropes:
        yield f"{rope.node}: {rope.implementation or 'function body in onnxruntime, no engine'}"
    if found.engine is not None and found.engine.record.attention != "none":
        yield f"attention: {found.engine.record.attention}"


FILE_RULES = (_stale_engine, _changed, _refused, _decomposed_attention, _decomposed_ropes, _ran_by)
