"""A manifest for an ONNX file that has none: what its graph alone says of its inputs."""

from __future__ import annotations

from ropeexport import __version__, atomic, manifest
from ropeexport.axes import names_of, sum_of
from ropeexport.dtypes import short_name
from ropeexport.manifest import Axis, Manifest, ModelRecord, Source, TensorSpec
from ropeexport.onnx_files import onnx_file, specs
from ropeexport.onnx_files.onnx_file import OnnxFile

_BATCH = Axis(min=1, opt=1, max=2)
_LENGTH = Axis(min=1, opt=64, max=128)


def manifest_of(file: OnnxFile) -> Manifest:
    """Return the manifest beside an ONNX file if it is that file's, else one made of its graph."""
    path = file.path
    if (path.parent / manifest.FILE_NAME).is_file():
        found = manifest.read(path.parent)
        if found.model.file == path.name:
            return found.changed(engine=None)
    model = file.graph
    inputs = specs.input_specs(model)
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
            outputs=specs.output_specs(model),
            ropes=tuple(str(node.name) for node in onnx_file.rope_nodes(model)),
        ),
        axes=_axes(inputs, data),
    )


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
                    axes[dim] = _broadcast(data.shape[place], axes)
    # what is in sums alone
    return dict.fromkeys(names_of(dim for spec in inputs for dim in spec.shape), _LENGTH) | axes


def _broadcast(to: int | str, axes: dict[str, Axis]) -> Axis:
    most = to if isinstance(to, int) else axes[to].max
    return Axis(min=1, opt=1, max=most, broadcasts_to=to)
