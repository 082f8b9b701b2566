"""What a flavour says on a GPU that its documents do not name: a refusal, no failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ropeexport.errors import BuildError, EngineError, MissingError, RopeExportError
from ropeexport.trt.flavour import names_gpu
from ropeexport.trt.gpu import find_gpu

_P = ParamSpec("_P")
_T = TypeVar("_T")
_REFUSALS = (BuildError, EngineError)


def refusable(flavour: str, work: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return a work that raises MissingError where a flavour refuses this machine's GPU.

    On a GPU that the flavour's documents do not name it is tried all the same, and what is raised
    keeps its text; elsewhere the work itself is returned.
    """
    gpu = find_gpu()
    if gpu is None or names_gpu(flavour, gpu.compute_capability):
        return work
    where = f"{flavour}'s documents do not name compute capability {gpu.compute_capability}"

    def tried(*arguments: _P.args, **options: _P.kwargs) -> _T:
        try:
            return work(*arguments, **options)
        except Exception as error:
            if isinstance(error, RopeExportError) and not isinstance(error, _REFUSALS):
                raise
            text = str(error) or type(error).__name__
            raise MissingError(f"{text}; {where} ({gpu.name})") from error

    return tried
