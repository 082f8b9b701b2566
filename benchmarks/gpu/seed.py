"""The seed's function, from where the tests keep it: what every implementation must equal."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from torch import Tensor

Rotate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

_SEED = Path(__file__).parents[2] / "tests" / "seed_functions.py"


def seed_apply_rope() -> Rotate:
    """Return FLUX's ``apply_rope`` as printed: eager torch, ten launches for q and k."""
    function: Rotate = module_from(_SEED).seed_apply_rope
    return function


def module_from(path: Path) -> ModuleType:
    """Import a Python file that is in no package; :class:`ImportError` where it cannot be."""
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"{path}: no Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
