"""One class in a process of its own: export, parity in onnxruntime, engine.  Prints JSON."""

from __future__ import annotations

import copy
import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.models.classes import example_of
from ropeexport.artifact import Artifact
from ropeexport.dtypes import float_type
from ropeexport.errors import RopeExportError
from ropeexport.exporting.exporter import export_example
from ropeexport.manifest import Manifest, Source
from ropeexport.models.example import Example
from ropeexport.onnx_files.onnx_file import OnnxFile
from ropeexport.parity.tolerance import Size, Yardstick, bound
from ropeexport.runners.ort import OrtRunner
from ropeexport.trt.build import Options, build


def main(name: str) -> None:
    """Print what became of a class."""
    warnings.simplefilter("ignore")
    row: dict[str, Any] = {"name": name}
    for dtype in ("fp32", "fp16"):
        with TemporaryDirectory() as folder:
            _run(row, dtype, Path(folder))
    print(json.dumps(row))


def _run(row: dict[str, Any], dtype: str, folder: Path) -> None:
    example = example_of(row["name"], dtype)
    source = Source(kind="config", name=row["name"])
    record = _tried(row, dtype, lambda: export_example(example, source, folder))
    if isinstance(record, Manifest):
        count = record.model.recognition
        row |= {"found": count.found, "replaced": count.replaced}
        row["refused"] = sorted({refusal.reason for refusal in count.refused})
        names = [spec.name for spec in record.model.inputs]
        row[dtype] = _tried(row, dtype, lambda: _parity(example, folder, names))
        if dtype == "fp16":
            row["engine"] = _tried(row, "engine", lambda: _engine(folder))


def _tried(row: dict[str, Any], key: str, step: Callable[[], Any]) -> Any:
    try:
        return step()
    except (RopeExportError, RuntimeError, ValueError, TypeError) as error:
        text = re.sub(r"/\S*/model.onnx", "model.onnx", str(error).splitlines()[0])
        row[key] = f"{type(error).__name__}: {text[:160]}"
        return row[key]


def _engine(folder: Path) -> str:
    record = build(Artifact.read(folder), Options(impl="decomposed", flavour="tensorrt-rtx"))
    return f"built ({record.version})"


def _parity(example: Example, folder: Path, names: list[str]) -> str:
    """Hold onnxruntime to the bound of ``ropeexport.parity.tolerance``."""
    exact, perturbed = _oracle(example), _oracle(example, _ROUNDOFF[example_dtype(example)])
    eager = _first(example.module(**example.inputs, **example.constants)).numpy()
    with OrtRunner(OnnxFile(folder / "model.onnx")) as runner:
        ours = runner.run({name: example.inputs[name].numpy() for name in names})
    theirs = next(iter(ours.values()))
    kind = example_dtype(example)
    yardstick = Yardstick(
        dtype=kind,
        working_roundoff=_ROUNDOFF[kind],
        terms=max(max(p.shape, default=1) for p in example.module.parameters()),
        output=_size(exact),
        sensitivity=_size(perturbed - exact),
        data_rms=_size(exact).rms,
        eager=_size(eager - exact),
    )
    found, limit = _size(theirs - exact), bound(yardstick)
    holds = found.rms <= limit.rms and found.largest <= limit.max_abs
    verdict = "PASS" if holds else "FAIL"
    return f"{verdict} {found.largest:.1e} (eager {_size(eager - exact).largest:.1e})"


_ROUNDOFF = {name: float_type(name).unit_roundoff for name in ("float32", "float16")}


def example_dtype(example: Example) -> str:
    """Return NumPy's name of the type of a module's weights."""
    return str(next(example.module.parameters()).dtype).removeprefix("torch.")


def _oracle(example: Example, noise: float = 0.0) -> np.ndarray[Any, Any]:
    """Run in float64, with ``noise`` every weight and input off by up to that, relative."""
    generator = torch.Generator().manual_seed(0)
    module = copy.deepcopy(example.module).double()

    def off(x: torch.Tensor) -> torch.Tensor:
        signs = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 2 - 1
        return x.double() * (1 + noise * signs)

    for parameter in module.parameters():
        parameter.copy_(off(parameter))
    inputs = {
        name: off(x) if x.dtype.is_floating_point and not name.endswith("_ids") else x
        for name, x in example.inputs.items()
    }
    return _first(module(**inputs, **example.constants)).double().numpy()


def _first(result: Any) -> torch.Tensor:
    while not isinstance(result, torch.Tensor):
        result = next(iter(result.values())) if isinstance(result, dict) else result[0]
    return result


def _size(x: np.ndarray[Any, Any]) -> Size:
    values = x.astype(np.float64)
    return Size(float(np.sqrt(np.mean(values**2))), float(np.abs(values).max()))


if __name__ == "__main__":
    with torch.no_grad():
        main(sys.argv[1])
