"""optimum-onnx's export of a model of transformers or diffusers, made in an environment of its own.

optimum-onnx holds transformers back to a version that ropeexport's own models have left, so its
command is run from elsewhere: ``make optimum`` puts it into ``build/optimum``, and
``ROPEEXPORT_OPTIMUM`` names another one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from torch import nn

from ropeexport.errors import ExportError, MissingError, first_line

VARIABLE = "ROPEEXPORT_OPTIMUM"
_HERE = Path("build/optimum/bin/optimum-cli")
_TASK, _OPSET = "feature-extraction", "18"  # the newest opset that its exporter writes


def export_with_optimum(module: nn.Module, target: Path) -> None:
    """Save a model, export it in optimum's environment and move the file to ``target``.

    Raises
    ------
    MissingError
        Where the environment is missing, or the module is none of transformers' or diffusers'.
    ExportError
        With the last line that was said, where the export fails.
    """
    command = os.environ.get(VARIABLE) or (str(_HERE.absolute()) if _HERE.is_file() else "")
    if not command:
        raise MissingError(
            f"optimum-onnx needs an environment of its own: run 'make optimum', or set {VARIABLE} "
            "to its optimum-cli"
        )
    library = type(module).__module__.partition(".")[0]
    if library not in ("transformers", "diffusers"):
        raise MissingError(
            "optimum-onnx exports whole models of transformers and diffusers; this is none"
        )
    saved, made = target.parent / "optimum-in", target.parent / "optimum-out"
    made.mkdir(exist_ok=True)
    module.save_pretrained(str(saved))  # type: ignore[operator]  # neither library has types
    words = _transformers if library == "transformers" else _diffusers
    done = subprocess.run(words(command, saved, made), capture_output=True, text=True, check=False)
    shutil.rmtree(saved)
    if not (made / "model.onnx").is_file():
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ExportError(f"optimum-onnx: {first_line(RuntimeError(lines[-1]))}")
    for path in made.iterdir():
        if path.name.startswith("model.onnx"):
            path.replace(target.parent / path.name.replace("model.onnx", target.name))


def _transformers(command: str, saved: Path, made: Path) -> list[str]:
    words = [command, "export", "onnx", "--model", str(saved), "--task", _TASK]
    return [*words, "--opset", _OPSET, str(made)]


def _diffusers(command: str, saved: Path, made: Path) -> list[str]:
    script = Path(__file__).with_name("optimum_diffusers.py")
    python = Path(command).with_name("python")
    return [str(python), "-I", str(script), str(saved), str(made / "model.onnx")]
