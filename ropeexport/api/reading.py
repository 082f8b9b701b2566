"""``inspect``, ``lint`` and ``doctor``: what only looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ropeexport.doctor import Diagnosis
    from ropeexport.lint.lint import Lint
    from ropeexport.onnx_files.inspection import Inspection


def inspect(path: str | Path) -> Inspection:
    """Return the rotary ops of a file, and what implements each in the engine.

    Parameters
    ----------
    path : path
        An output folder, an ONNX file, or an engine with its manifest beside it.

    Raises
    ------
    ManifestError, ModelFileError
        Where there is no such file, or it cannot be read.

    Examples
    --------
    >>> import ropeexport
    >>> made = ropeexport.export("flux-attention", out="out", heads=2, head_dim=16, length=32)
    >>> found = ropeexport.inspect("out")
    >>> [rope.op for rope in found.ropes], found.engine
    (['ropeexport::ApplyRope'], None)
    """
    from ropeexport.onnx_files.inspection import inspect as run
    from ropeexport.onnx_files.inspection import subject_of

    return run(subject_of(Path(path)))


def lint(path: str | Path) -> Lint:
    """Hold a file to the rules of ``docs/lint.md``: what costs accuracy or speed.

    Parameters
    ----------
    path : path
        As for :func:`ropeexport.inspect`.

    Raises
    ------
    ManifestError, ModelFileError
        As :func:`ropeexport.inspect`.

    Examples
    --------
    >>> import ropeexport
    >>> made = ropeexport.export("flux-attention", out="out", heads=2, head_dim=16, length=32)
    >>> found = ropeexport.lint("out")
    >>> found.errors
    ()
    """
    from ropeexport.lint.lint import lint as run
    from ropeexport.onnx_files.inspection import subject_of

    return run(subject_of(Path(path)))


def doctor() -> Diagnosis:
    """Return what this machine has of what ropeexport needs, and the command that brings the rest.

    Nothing that is absent or broken raises.

    Examples
    --------
    >>> import ropeexport
    >>> found = ropeexport.doctor()
    >>> found.items[0].name
    'python'
    """
    from ropeexport.doctor import examine

    return examine()
