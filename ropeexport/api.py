"""``ropeexport.export``: any module, from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ropeexport.errors import UsageError
from ropeexport.exporting.exporter import DEFAULT_OPSET, export_example
from ropeexport.manifest import Axis, Manifest, Refusal, Source
from ropeexport.models.example import Example, unchanged
from ropeexport.onnx_ops.rope_table import MAX_POSITION
from ropeexport.weights.safetensors_files import find
from ropeexport.weights.skeleton import skeleton


@dataclass(frozen=True)
class Export:
    """What an export wrote; one rotary application is a q/k pair, or one tensor rotated alone."""

    folder: Path
    manifest: Manifest

    @property
    def found(self) -> int:
        """Rotary applications that the module has."""
        return self.manifest.model.recognition.found

    @property
    def replaced(self) -> int:
        """Those that are an op in the file."""
        return self.manifest.model.recognition.replaced

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Those that are left as they were, each with its reason."""
        return self.manifest.model.recognition.refused


def export(  # noqa: PLR0913  (a user's choices, all but three by keyword)
    module: nn.Module | Callable[[], nn.Module],
    kwargs: Mapping[str, Any],
    out: str | Path,
    *,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    axes: Mapping[str, Axis] | None = None,
    weights: str | Path | None = None,
    copy_weights: bool = False,
    opset: int = DEFAULT_OPSET,
    force: bool = False,
    require_rope: int | None = None,
    max_position: int = MAX_POSITION,
) -> Export:
    """Export a module to ONNX, every rotary application that can be proven as an op.

    Parameters
    ----------
    module : nn.Module or callable
        A module in evaluation mode; with ``weights``, a callable that makes it in its final type.
    kwargs : dict
        Arguments of ``forward`` by name; tensors are the file's inputs, the rest is fixed.
    out : path
        The output folder.
    dynamic_axes : dict
        Input name to ``{axis: name}``; axes that are not named keep the size they have.
    axes : dict of str to Axis
        Sizes that the dynamic axes are meant for.
    weights : path
        A folder of safetensors files by the module's names: none of them is read or written.
    copy_weights : bool
        Copy those files into ``out``; else ``out`` has to be their folder.
    opset : int
        23 or later.
    force : bool
        Overwrite what is there.
    require_rope : int
        How many rotary applications must be replaced.
    max_position : int
        The largest position that the tables of exact angles must hold; beyond, angles are NaN.

    Returns
    -------
    Export
        With ``found``, ``replaced`` and ``refused``.

    Raises
    ------
    UsageError, ExportError
        With what was expected, what was found and the next step.
    """
    place = Path(weights) if weights is not None else None
    made = _module(module, place)
    inputs = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
    example = Example(
        module=made,
        inputs=inputs,
        dynamic_axes={name: dict(named) for name, named in (dynamic_axes or {}).items()},
        axes=dict(axes or {}),
        constants={name: value for name, value in kwargs.items() if name not in inputs},
        weights=place,
    )
    source = Source(kind="module", name=f"{type(made).__module__}.{type(made).__qualname__}")
    with unchanged(made):
        manifest = export_example(
            example, source, Path(out), opset=opset, force=force, require_rope=require_rope,
            copy_weights=copy_weights, max_position=max_position,
        )  # fmt: skip
    return Export(Path(out), manifest)


def _module(module: nn.Module | Callable[[], nn.Module], weights: Path | None) -> nn.Module:
    if weights is None:
        if not isinstance(module, nn.Module):
            raise UsageError(f"module: expected an nn.Module, got {type(module).__name__}")
        return module.eval()
    if isinstance(module, nn.Module):
        raise UsageError(
            "module: with weights, expected a callable that makes the module, so that no weight "
            f"takes memory; got a {type(module).__name__} that is made already"
        )
    if not find(weights):
        raise UsageError(f"weights: no safetensors file in {weights}")
    return skeleton(module)
